"""The process that reasoning-gym lives in: it makes questions and scores answers.

It is apart for four reasons. Importing the library takes seconds. Some data sets depend on
the order of sets, which PYTHONHASHSEED decides when a process starts. Some print. And a scorer
that an answer keeps busy for ever can be ended by the kernel alone.

Run as a module, this file is that process: JSON lines in, JSON lines out.
"""

from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import fields
from typing import Any

from sia_core.errors import SiaError

MEMORY = 4 * 2**30
START_SECONDS, MAKE_SECONDS, SCORE_SECONDS = 120, 120, 10


class LibraryStopped(SiaError):
    """The process ended before it replied: it took too long or too much memory, or was killed."""


class LibraryRefused(SiaError):
    """The library does not take a data set's name or settings. ``names`` are those that there are instead."""

    def __init__(self, message: str, names: list[str]) -> None:
        super().__init__(message)
        self.names = names


class LibraryProcess:
    """This side: starts the process on first use, and anew after it was stopped.

    ``size`` is how many entries the data set has; those of equal ``seed`` are the same everywhere.
    """

    def __init__(self, dataset: str, difficulty: Mapping[str, Any], seed: int, size: int) -> None:
        self._settings = {"dataset": dataset, "difficulty": dict(difficulty), "seed": seed, "size": size}
        self._process: subprocess.Popen[str] | None = None

    def entries(self, start: int, stop: int) -> list[dict[str, Any]]:
        """``question`` and ``answer`` of the entries of these places."""
        entries: list[dict[str, Any]] = self._ask({"entries": [start, stop]})
        return entries

    def score(self, place: int, question: str, answer: str) -> tuple[float, str]:
        """The reward that the data set's scorer gives, and why it failed if it did.

        LibraryRefused where the entry of this place asks another question.
        """
        reward, fault = self._ask({"score": [place, question, answer]})
        return reward, fault

    def close(self) -> None:
        """End the process. May be called twice."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with suppress(OSError):  # what was not written any more
                        pipe.close()

    def __enter__(self) -> LibraryProcess:
        return self

    def __exit__(self, *about: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def _ask(self, request: Mapping[str, Any]) -> Any:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "sia_reasoning.library_process"],
                env={**os.environ, "PYTHONHASHSEED": "0"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                encoding="utf-8",
            )
            self._exchange(self._settings)
        return self._exchange(request)

    def _exchange(self, request: Mapping[str, Any]) -> Any:
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except OSError:
            line = ""
        if not line.endswith("\n"):
            self.close()
            raise LibraryStopped("the process of reasoning-gym ended before it replied")
        reply = json.loads(line)
        if "refused" in reply:
            self.close()
            raise LibraryRefused(reply["refused"], reply["known"])
        return reply["done"]


def serve(requests: Iterator[str], send: Any) -> None:
    """The process's side: make the data set, then answer requests until there are no more."""
    _bound(START_SECONDS)
    dataset = None
    for line in requests:
        request = json.loads(line)
        _bound(SCORE_SECONDS if "score" in request else MAKE_SECONDS)
        try:
            if dataset is None:
                dataset = _dataset(request)
                reply: dict[str, Any] = {"done": None}
            elif "score" in request:
                reply = {"done": _scored(dataset, *request["score"])}
            else:
                reply = {"done": [_shown(_entry(dataset, place)) for place in range(*request["entries"])]}
        except LibraryRefused as error:
            reply = {"refused": str(error), "known": error.names}
        except Exception as error:
            reply = {"refused": f"{type(error).__name__}: {error}", "known": []}
        send(json.dumps(reply) + "\n")
        signal.alarm(0)


def _bound(seconds: int) -> None:
    """Have the kernel end this process after so long: a power of large numbers hears no handler."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(seconds)


def _dataset(settings: Mapping[str, Any]) -> Any:
    """The library's data set; LibraryRefused where there is none of this name or settings."""
    from reasoning_gym.factory import DATASETS, create_dataset

    name, difficulty = settings["dataset"], settings["difficulty"]
    names = sorted(DATASETS.keys() - {"composite"})  # that one mixes others
    if name not in names:
        raise LibraryRefused("no such data set", names)
    options = sorted({field.name for field in fields(DATASETS[name][1])} - {"seed", "size"})
    if unknown := sorted(difficulty.keys() - set(options)):
        raise LibraryRefused(f"no difficulty setting {', '.join(unknown)}", options)
    try:
        return create_dataset(name, seed=settings["seed"], size=settings["size"], **difficulty)
    except Exception as error:
        raise LibraryRefused(str(error) or type(error).__name__, options) from error


def _entry(dataset: Any, place: int) -> Mapping[str, Any]:
    """The entry of a place. What a data set runs to make one may draw from generators that it does not seed."""
    import numpy

    random.seed(place)
    numpy.random.seed(place % 2**32)
    entry: Mapping[str, Any] = dataset[place]
    return entry


def _shown(entry: Mapping[str, Any]) -> dict[str, Any]:
    """A question and an answer that is right, which a few data sets keep elsewhere or do not have."""
    answer = entry["answer"]
    for name in ("possible_answer", "example_answer", "example_correct_answer"):
        answer = entry["metadata"].get(name) if answer is None else answer
    if answer is not None and not isinstance(answer, str):
        answer = json.dumps(answer)  # what a scorer reads a colouring from
    return {"question": entry["question"], "answer": answer}


def _scored(dataset: Any, place: int, question: str, answer: str) -> tuple[float, str]:
    entry = _entry(dataset, place)
    if entry["question"] != question:
        raise LibraryRefused("it makes other questions each time, so it cannot be scored", [])
    try:
        reward = float(dataset.score_answer(answer, entry))
    except Exception as error:
        return 0.0, f"the scorer failed: {type(error).__name__}: {error}"[:300]
    return (min(1.0, max(0.0, reward)), "") if math.isfinite(reward) else (0.0, "the scorer gave no number")


def main() -> None:
    """Serve the parent process; what the library prints goes nowhere."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)

    def send(line: str) -> None:
        replies.write(line)
        replies.flush()

    serve(sys.stdin, send)


if __name__ == "__main__":
    main()
