"""Makes the recordings in tests/data/recorded: `python tests/record_runs.py`, after prompts, tools or
evidence were changed.

They are runs of the example of sums against the stand-in server, by ``scripted_model.py``, to be replayed: no language
model made them. ``lawbench.jsonl.gz`` is not made here. It is a conversation that a language model had about LawBench,
through ``sia_testing.by_hand``: a row a reply, with what its request brought that was new. The requests' Chinese texts
are as long as they were, but all of one character, since they belong to the data. It stays when prompts change.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from example_runs import EXAMPLE, command
from scripted_model import play

from sia_cli import main
from sia_core.run.ledger import Ledger
from sia_llm.recorded import recording
from sia_testing.model_server import ModelServer

RECORDED = Path(__file__).parent / "data" / "recorded"
PRICES = ["--improver-set", "input_price=3", "--improver-set", "output_price=15"]


def record(name: str, improver: str, url: str) -> None:
    """A run of the example whose improver asks at ``url``, as a recording."""
    with tempfile.TemporaryDirectory() as folder:
        asks = ["--improver", improver, "--improver-set", f"base_url={url}", *PRICES]
        assert main([*command(EXAMPLE, Path(folder)), "--name", "recorded", *asks]) == 0
        with Ledger.read(Path(folder) / "runs" / "recorded") as ledger:
            (RECORDED / f"{name}.jsonl").write_text(recording(ledger), encoding="utf-8")


if __name__ == "__main__":
    os.environ.setdefault("ANTHROPIC_API_KEY", "any")
    RECORDED.mkdir(exist_ok=True)
    with ModelServer(play) as server:
        record("messages", "claude", server.url)
        record("chat-completions", "litellm:openai/any", server.openai_url)
