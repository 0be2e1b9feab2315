"""The last step of a run: once it is closed, and only then, its result is scored on the sealed split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from sia_core.evidence import AgentView
from sia_core.run import record
from sia_core.run.candidate_runner import CandidateRunner
from sia_core.run.discover import Answers, ValidAnswer, Verified, best_of, measured, rounds
from sia_core.run.intervals import beside, estimate
from sia_core.run.parts import Parts
from sia_core.run.plan import Samples
from sia_core.types import Split


def score_agents(
    parts: Parts, runner: CandidateRunner, ends: Mapping[str, AgentView], gated: Mapping[str, Sequence[float]], why: str
) -> dict[str, list[float]]:
    """Score the first and the final agent, once each; the sealed rewards by agent."""
    sealed: dict[str, list[float]] = {}
    scores: dict[str, Any] = {}
    for which, agent in ends.items():
        if agent.id not in sealed:
            parts.emit("seal.started", which=which, agent=agent.id, why=why)
            among = len({each.id for each in ends.values()} - sealed.keys())
            sealed[agent.id], short = runner.sealed(agent, among)
            score = beside(estimate(sealed[agent.id]), estimate(gated[agent.id]))
            scores[agent.id] = {**score, "out_of_tokens": short}
        score = parts.ledger.step(record.sealed(which), partial(scores.__getitem__, agent.id))
        parts.emit("seal.finished", which=which, agent=agent.id, **score)
    return sealed


def score_answers(parts: Parts, answers: Answers, samples: Samples, ends: Mapping[str, AgentView], why: str) -> None:
    """Score the best answer of the first agent, and the best of the whole run, in a task of kind ``discover``.

    The best is chosen among a few finalists on gate instances, so its gate score is lucky and the sealed one is not.
    The best of the run is the first agent's unless another earns more there.
    """
    seal = _Answers(parts)
    champion: tuple[ValidAnswer, list[float]] | None = None
    for which, agent in ends.items():
        parts.emit("seal.started", which=which, agent=agent.id, why=why)
        finalists = answers.finalists({agent.id} if which == "initial" else None)
        metrics: dict[str, float] = {}
        if finalists:
            best, gated = champion = best_of(finalists, samples.gate, partial(seal.gated, which), champion)
            verified = seal.verified(record.verified_answer(which, "sealed"), best, "sealed", samples.sealed)
            rewards, metrics = seal.rewards(verified), measured(verified)
            row = {"id": best.id, "agent": best.agent, "answer": best.answer, "feedback": best.feedback}
            parts.ledger.step(record.answer(which), partial(dict, row))
        else:
            compared = [each for _, instances in rounds(samples.gate) for each in instances]
            gated, rewards = ([seal.failure] * len(each) for each in (compared, samples.sealed))
        score = {**beside(estimate(rewards), estimate(gated)), "out_of_tokens": 0, "metrics": metrics}
        score = parts.ledger.step(record.sealed(which), partial(dict, score))
        parts.emit("seal.finished", which=which, agent=agent.id, **score)


class _Answers:
    """Has answers scored through the ledger and the budget, where they were reserved."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self.failure = parts.task.metric.reward(parts.task.failure_reward)

    def gated(self, which: str, finalist: ValidAnswer, instances: Sequence[str]) -> list[float]:
        """The rewards of a finalist on some gate instances."""
        key = record.verified_answer(which, f"{finalist.id}/{instances[0]}")
        return self.rewards(self.verified(key, finalist, "gate", instances))

    def verified(self, key: str, finalist: ValidAnswer, split: Split, instances: Sequence[str]) -> list[Verified]:
        """The verifier's scores of a final answer on some instances."""
        parts = self._parts
        payload = {"split": split, "instances": instances, "answer": finalist.answer}
        work = partial(parts.rollouts.job, "sia_runtime.worker.verify_job:verify", payload)
        verified = Verified.of(parts.ledger.step(key, work), len(instances))
        parts.budget.settle({}, {"verifications": len(instances)})
        return verified

    def rewards(self, verified: Sequence[Verified]) -> list[float]:
        """The reward of an answer; one that is not valid is a failure."""
        return [each.reward if each.valid else self.failure for each in verified]
