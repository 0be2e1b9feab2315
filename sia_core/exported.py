"""Runs the agent in this folder: one JSON object a line in, one JSON object a line out.

    python run.py < cases.jsonl > answers.jsonl

Written by `sia export`; needs Python 3.11 and what requirements.txt names.
"""

import importlib.util
import json
import logging
import sys
import tempfile
from pathlib import Path
from types import ModuleType, SimpleNamespace

HERE = Path(__file__).resolve().parent


def no_model(*_: object, **__: object) -> None:
    raise RuntimeError("this agent was exported without a policy, so ctx.model has nothing to call")


def load(entry: str) -> ModuleType:
    """The harness's entry point, as a module."""
    sys.path.insert(0, str(HERE / "harness"))
    spec = importlib.util.spec_from_file_location("harness_entry", HERE / "harness" / entry)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    harness = load(json.loads((HERE / "agent.json").read_text(encoding="utf-8"))["entry"])
    with tempfile.TemporaryDirectory() as scratch:
        ctx = SimpleNamespace(
            public=HERE / "public",
            scratch=Path(scratch),
            log=logging.getLogger("harness"),
            model=no_model,
            reward=lambda value: None,
            seed=0,
            state=None,
        )
        if hasattr(harness, "setup"):
            ctx.state = harness.setup(ctx)
        for number, line in enumerate(sys.stdin):
            if not line.strip():
                continue
            instance = SimpleNamespace(id=str(number), input=json.loads(line), start=None)
            try:
                result = {"answer": harness.solve(instance, ctx)}
            except Exception as error:
                result = {"error": f"{type(error).__name__}: {error}"}
            print(json.dumps(result, ensure_ascii=False), flush=True)


if __name__ == "__main__":
    main()
