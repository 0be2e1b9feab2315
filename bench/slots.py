"""Rollouts through the gateway against llama.cpp's server: its slots in lockstep batches, and each call as it comes.

Needs ``xllamacpp`` and SmolLM2, which ``--policy smollm2`` fetches. Replies have the lengths of a fixed draw, 4 to 48
tokens, so both ways sample the same.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from inference_servers import InferenceServer
from llama_server import llama_server, model

from sia_core.learning import Request, Sampled
from sia_runtime.worker.gateway import Gateway


class Tokens:
    """The server's tokenizer."""

    size, stops = 49152, (2,)

    def __init__(self, server: InferenceServer) -> None:
        self._server = server

    def encode(self, text: str) -> list[int]:
        return list(self._server.ask("/tokenize", {"content": text})["tokens"])

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._server.ask("/detokenize", {"tokens": list(ids)})["content"])

    def render(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()) -> list[int]:
        return self.encode(messages[-1]["content"])


class Lockstep:
    """Samples a batch by the server, and returns when all of it is there; ``seconds`` adds up what requests took."""

    can: frozenset[str] = frozenset()

    def __init__(self, server: InferenceServer) -> None:
        self._server, self.tokens = server, Tokens(server)
        self._threads = ThreadPoolExecutor(256)
        self._mutex = threading.Lock()
        self.seconds, self.sampled = 0.0, 0

    def sample(self, requests: Sequence[Request]) -> list[list[Sampled]]:
        return list(self._threads.map(self._complete, requests))

    def _complete(self, request: Request) -> list[Sampled]:
        started = time.monotonic()
        body = {"prompt": list(request.prompt), "n_predict": request.max_tokens, "temperature": 0, "ignore_eos": True}
        reply = self._server.ask("/completion", {**body, "return_tokens": True, "cache_prompt": False})
        with self._mutex:
            self.seconds += time.monotonic() - started
            self.sampled += len(reply["tokens"])
        ids, n = reply["tokens"], len(reply["tokens"])
        return [Sampled(ids, [1] * n, [0.0] * n, [0.0] * n, None, reply["content"], "length")]


class Continuous(Lockstep):
    """The same, asked for each call as it comes."""

    def __init__(self, server: InferenceServer, at_once: int) -> None:
        super().__init__(server)
        self.at_once = at_once


def measured(engine: Any, rollouts: int, turns: int) -> tuple[float, float, int]:
    """Seconds, requests under way on average, and tokens sampled."""
    gateway = Gateway(engine)
    draw = random.Random(0)
    lengths = [[draw.randint(4, 48) for _ in range(turns)] for _ in range(rollouts)]

    def rollout(number: int) -> None:
        key = str(number)
        gateway.begin(key, number)
        for turn, length in enumerate(lengths[number]):
            messages = [{"role": "user", "content": f"Question {number}.{turn}: "}]
            reply = gateway.answer(key, {"messages": messages, "max_tokens": length})
            assert "error" not in reply, reply
        gateway.finish(key)

    started = time.monotonic()
    with ThreadPoolExecutor(rollouts) as threads:
        list(threads.map(rollout, range(rollouts)))
    took = time.monotonic() - started
    gateway.close()
    return took, engine.seconds / took, engine.sampled


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--rollouts", type=int, default=8, help="under way at once")
    parser.add_argument("--turns", type=int, default=4, help="of each rollout, one after the other")
    parser.add_argument("--times", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, llama_server(model(Path(folder)), options.slots) as server:
        measured(Lockstep(server), options.slots, 1)  # warm
        for _ in range(options.times):
            for engine in (Lockstep(server), Continuous(server, options.slots)):
                seconds, busy, tokens = measured(engine, options.rollouts, options.turns)
                print(
                    f"{type(engine).__name__:10}  {seconds:6.1f} s  {tokens / seconds:6.1f} tokens a second  "
                    f"{busy:4.1f} of {options.slots} slots in use"
                )


if __name__ == "__main__":
    main()
