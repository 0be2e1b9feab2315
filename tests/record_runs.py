"""Makes the recordings in tests/data/recorded: `python tests/record_runs.py`, after prompts, tools or
evidence were changed.

They are runs against the stand-in server, by script: no language model made them. Two are runs of the example of
sums, by ``scripted_model.py``, to be replayed. One is a long conversation about LawBench, by ``scripted_lawbench.py``:
its rows are what each request brought that was new, and the reply. Its Chinese texts are as long as they were, but
all of one character, since they belong to the data. It need not be made again when the tools change.
"""

from __future__ import annotations

import gzip
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from example_runs import EXAMPLE, command
from scripted_lawbench import REPLIES, Lawyer
from scripted_model import play

from sia_cli import main
from sia_core.run.ledger import Ledger, canonical
from sia_core.run.record import CALLS
from sia_llm.recorded import recording
from sia_testing.model_server import ModelServer

RECORDED = Path(__file__).parent / "data" / "recorded"
CHINESE = re.compile(r"[\u3400-\u9fff]")
PRICES = ["--improver-set", "input_price=3", "--improver-set", "output_price=15"]


def record(name: str, improver: str, url: str) -> None:
    """A run of the example whose improver asks at ``url``, as a recording."""
    with tempfile.TemporaryDirectory() as folder:
        asks = ["--improver", improver, "--improver-set", f"base_url={url}", *PRICES]
        assert main([*command(EXAMPLE, Path(folder)), "--name", "recorded", *asks]) == 0
        with Ledger.read(Path(folder) / "runs" / "recorded") as ledger:
            (RECORDED / f"{name}.jsonl").write_text(recording(ledger), encoding="utf-8")


def record_lawbench() -> None:
    """A conversation about LawBench that takes as many replies as one may."""
    with tempfile.TemporaryDirectory() as folder, ModelServer(Lawyer().play) as server:
        asks = ["--improver", "litellm:openai/any", "--improver-set", f"base_url={server.openai_url}"]
        asks += ["--improver-set", f"replies={REPLIES}", "--generations", "1", "--runs-dir", folder]
        assert main(["run", "--plugin", "lawbench", "--name", "recorded", *asks]) == 0
        with Ledger.read(Path(folder) / "recorded") as ledger:
            rows = "".join(CHINESE.sub("\u6848", row) + "\n" for row in conversed(ledger))
    (RECORDED / "lawbench.jsonl.gz").write_bytes(gzip.compress(rows.encode(), mtime=0))


def conversed(ledger: Ledger) -> Iterator[str]:
    """The new part of each request of the first decision's conversation, and its reply."""
    calls = [(key, value) for key, value, *_ in ledger.events() if key.startswith(f"{CALLS}generation/0/")]
    requests = [value["asked"] for key, value in calls if "/intent/" in key]
    replies = [value["reply"] for key, value in calls if key.endswith("/reply")]
    for new, reply in zip(requests, replies, strict=True):
        yield canonical({"asked": new, "reply": reply})


if __name__ == "__main__":
    os.environ.setdefault("ANTHROPIC_API_KEY", "any")
    RECORDED.mkdir(exist_ok=True)
    with ModelServer(play) as server:
        record("messages", "claude", server.url)
        record("chat-completions", "litellm:openai/any", server.openai_url)
    record_lawbench()
