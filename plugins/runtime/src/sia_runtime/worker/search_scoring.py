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

from sia_core.errors import SiaError, excerpt
from sia_core.evidence import Evaluated
from sia_core.types import Instance
from sia_runtime.worker.verifier_process import Question, Verdict, VerifierProcess


@dataclass
class _Grant:
    """One rollout under way: on what its answers are scored, how many at most, and those so far with their scores."""

    instance: Instance
    seed: int
    most: int
    replies: dict[str, Future[Mapping[str, Any]]] = field(default_factory=dict)
    scores: list[Evaluated] = field(default_factory=list)


class Evaluations:
    """Has answers scored on behalf of harnesses, for each rollout at most as many as it was granted.

    An answer that is asked again is not scored again. So a rollout that has to be started anew, through
    whoever's fault, asks the same and gets the same, and learns nothing that the first start did not grant.
    The verifier answers one at a time, in the order of asking. Safe to use from several threads.
    """

    def __init__(self, verifier: VerifierProcess) -> None:
        self._verifier = verifier
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="sia-evaluate")
        self._mutex = threading.Lock()
        self._rollouts: dict[str, _Grant] = {}
        self._failed: SiaError | None = None

    def grant(self, key: str, instance: Instance, seed: int, most: int) -> None:
        """A rollout of this key is going to ask: at most so often, of answers to this instance."""
        with self._mutex:
            self._rollouts[key] = _Grant(instance, seed, most)

    def ask(self, key: str, answer: str) -> Future[Mapping[str, Any]]:
        """Score an answer, JSON text: reward, valid, metrics and feedback, or an error where none is left."""
        with self._mutex:
            rollout = self._rollouts.get(key)
            if rollout is not None and answer in rollout.replies:
                return rollout.replies[answer]
            if rollout is None or len(rollout.replies) >= rollout.most:
                refused: Future[Mapping[str, Any]] = Future()
                refused.set_result({"error": {"message": "no evaluation is left; see ctx.evaluations"}})
                return refused
            scored = rollout.replies[answer] = self._threads.submit(self._score, rollout, answer)
            return scored

    def finish(self, key: str) -> tuple[Evaluated, ...]:
        """The rollout is over: all that it had scored, in order; SiaError if the verifier failed."""
        with self._mutex:
            rollout = self._rollouts.pop(key, None)
        if self._failed:
            raise self._failed
        return tuple(rollout.scores) if rollout else ()

    def close(self) -> None:
        """Score nothing more."""
        self._threads.shutdown(wait=False)

    def _score(self, rollout: _Grant, answer: str) -> Mapping[str, Any]:
        scores = rollout.scores
        try:
            (verdict,) = self._verifier.score([Question(rollout.instance, answer, rollout.seed, final=False)])
        except SiaError as error:
            self._failed = error  # whoever runs the batch hears of it; a harness is told nothing of the verifier
            return {"error": {"message": "the verifier failed"}}
        scores.append(Evaluated(verdict.score.reward, verdict.score.valid, excerpt(_told(verdict))))
        return {**asdict(verdict.score), "feedback": _told(verdict)}


def _told(verdict: Verdict) -> str:
    return verdict.score.feedback or verdict.message
