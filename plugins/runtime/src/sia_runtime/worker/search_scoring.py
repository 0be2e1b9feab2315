"""Answers that a harness has evaluated while it still searches: scored by the verifier, and counted.

Only tasks of kind ``discover`` grant evaluations. What a rollout returns in the end is
scored again, on inputs that no evaluation shows.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

from sia_core.errors import SiaError
from sia_core.evidence import Evaluated, excerpt
from sia_core.types import Instance
from sia_core.verifying import Question, Verdict, VerifierProcess


@dataclass
class _Rollout:
    """One rollout under way: whose answers are scored on what, how many still, and the scores so far."""

    instance: Instance
    seed: int
    most: int
    left: int = 0
    done: list[Evaluated] = field(default_factory=list)


class Evaluations:
    """Has answers scored on behalf of harnesses, for each rollout at most as many as it was granted.

    The verifier answers one at a time, in the order of asking. Safe to use from several threads.
    """

    def __init__(self, verifier: VerifierProcess) -> None:
        self._verifier = verifier
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="sia-evaluate")
        self._mutex = threading.Lock()
        self._rollouts: dict[str, _Rollout] = {}
        self._failed: SiaError | None = None

    def grant(self, key: str, instance: Instance, seed: int, most: int) -> None:
        """A rollout of this key is going to ask: at most so often, of answers to this instance."""
        with self._mutex:
            self._rollouts[key] = _Rollout(instance, seed, most)

    def begin(self, key: str) -> None:
        """The rollout starts, perhaps for the second time: it may ask as often as if it were the first."""
        with self._mutex:
            if rollout := self._rollouts.get(key):
                rollout.left = rollout.most

    def ask(self, key: str, answer: str) -> Future[Mapping[str, Any]]:
        """Score an answer, JSON text: reward, valid, metrics and feedback, or an error where none is left."""
        with self._mutex:
            rollout = self._rollouts.get(key)
            if rollout is None or rollout.left <= 0:
                refused: Future[Mapping[str, Any]] = Future()
                refused.set_result({"error": {"message": "no evaluation is left; see ctx.evaluations"}})
                return refused
            rollout.left -= 1
        return self._threads.submit(self._score, rollout, answer)

    def finish(self, key: str) -> tuple[Evaluated, ...]:
        """The rollout is over: all that it had scored, in order; SiaError if the verifier failed."""
        with self._mutex:
            rollout = self._rollouts.pop(key, None)
        if self._failed:
            raise self._failed
        return tuple(rollout.done) if rollout else ()

    def close(self) -> None:
        """Score nothing more."""
        self._threads.shutdown(wait=False)

    def _score(self, rollout: _Rollout, answer: str) -> Mapping[str, Any]:
        done = rollout.done
        try:
            (verdict,) = self._verifier.score([Question(rollout.instance, answer, rollout.seed, final=False)])
        except SiaError as error:
            self._failed = error  # whoever runs the batch hears of it; a harness is told nothing of the verifier
            return {"error": {"message": "the verifier failed"}}
        done.append(Evaluated(verdict.score.reward, verdict.score.valid, excerpt(_told(verdict))))
        return {**asdict(verdict.score), "feedback": _told(verdict)}


def _told(verdict: Verdict) -> str:
    return verdict.score.feedback or verdict.message
