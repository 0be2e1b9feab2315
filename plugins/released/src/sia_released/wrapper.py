"""Runs the agent, ``target_agent.py``, as the released SIA does, over one part of the task's questions.

It is called with ``--dataset_dir`` and ``--working_dir``; the text files that it leaves in the latter are the answer.
"""

import functools
import importlib.util
import os
import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

AGENT = Path(__file__).with_name("target_agent.py")
KEYS = ("TINKER_API_KEY", "NEBIUS_API_KEY", "TOGETHER_API_KEY", "OPENROUTER_API_KEY")
"""Key names of the released SIA's providers of the OpenAI protocol."""


def solve(instance: Any, ctx: Any) -> dict[str, dict[str, str]]:
    """One part of the questions."""
    dataset, work = ctx.scratch / "dataset", ctx.scratch / "work"
    shutil.copytree(ctx.public, dataset)
    for name, text in instance.input["files"].items():
        (dataset / name).parent.mkdir(parents=True, exist_ok=True)
        (dataset / name).write_text(text, encoding="utf-8")
    work.mkdir()
    os.chdir(work)
    _lead_to_the_run()
    sys.argv = [str(AGENT), "--dataset_dir", str(dataset), "--working_dir", str(work)]
    try:
        runpy.run_path(str(AGENT), run_name="__main__")
    except SystemExit as ended:
        if ended.code:
            raise RuntimeError(f"the agent ended with {ended.code}") from None
    return {"files": dict(_texts(work))}


def _lead_to_the_run() -> None:
    """Whatever server and key the agent names, its OpenAI client asks the run's model: nothing else can be reached."""
    url, key = os.environ.get("OPENAI_BASE_URL"), os.environ.get("OPENAI_API_KEY")
    if not url or not key:
        return
    os.environ.update(dict.fromkeys(KEYS, key))
    if importlib.util.find_spec("openai") is None:
        return
    library: Any = importlib.import_module("openai")
    for client in (library.OpenAI, library.AsyncOpenAI):
        own = {"base_url": url, "api_key": key}
        client.__init__ = functools.partialmethod(_made, client.__init__, own)


def _made(client: Any, make: Callable[..., None], own: dict[str, str], *given: Any, **settings: Any) -> None:
    make(client, *given, **{**settings, **own})


def _texts(work: Path) -> list[tuple[str, str]]:
    found = []
    for path in sorted(work.rglob("*")):
        if path.is_file() and not path.is_symlink():
            try:
                found.append((path.relative_to(work).as_posix(), path.read_text(encoding="utf-8")))
            except UnicodeDecodeError:
                continue  # a model, a picture: no answer that evaluate.py could be handed as text
    return found
