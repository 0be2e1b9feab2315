"""The policy of the agent in this folder, for run.py: a JSON object a line each way.

Needs what requirements.txt names.
"""

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import BinaryIO

from sia_core.plugins import Plugins
from sia_runtime.worker.gateway import Gateway

HERE = Path(__file__).resolve().parent


def main() -> None:
    about = json.loads((HERE / "agent.json").read_text(encoding="utf-8"))["policy"]
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    engine = Plugins.discover().create("engine", about["name"], **about["settings"])
    if (HERE / "adapter").is_dir():
        engine.load(HERE / "adapter")
    with tempfile.TemporaryDirectory() as scratch:
        make = getattr(engine, "gateway", None)  # of a model that is hosted elsewhere
        answer(make(Path(scratch)) if make else Gateway(engine), answers)


def answer(gateway: Gateway, answers: BinaryIO) -> None:
    """Answer each line of standard input."""
    current = ""
    for line in sys.stdin.buffer:
        question = json.loads(line)
        if question["case"] != current:
            gateway.finish(current)
            current = question["case"]
            gateway.begin(current, question["seed"])
        reply = gateway.ask(current, question["request"]).result()
        answers.write(json.dumps({"id": question["id"], "reply": reply}).encode() + b"\n")
        answers.flush()
    gateway.close()


if __name__ == "__main__":
    main()
