"""How far a closed run's result holds: along its history, with one lever taken back, and under small perturbations.

Both levers climb the same fixed verifier, so what they reached together may be fitted
to it, or to one another (coupled Goodhart). This looks for it on the sealed split,
which no step of the run has seen: it decides nothing, and improvers never read it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from sia_core.evidence import AgentView
from sia_core.run.candidate import make_agent
from sia_core.run.candidate_runner import CandidateRunner
from sia_core.run.intervals import beside, estimate, normal
from sia_core.run.parts import Parts
from sia_core.run.plan import PERTURBED, Samples
from sia_core.types import Perturbs


@dataclass(frozen=True)
class Look:
    """One agent on the sealed split, as it is or perturbed."""

    agent: AgentView
    perturbed: bool = False

    @property
    def key(self) -> tuple[str, bool]:
        return self.agent.id, self.perturbed


def most_looks(candidates: int, *, both: bool, discovers: bool = False) -> int:
    """How many agents may be looked at, at most, where every candidate is promoted and the task has another guise."""
    between, back, perturbed = max(0, candidates - 1), 2 if both and candidates > 1 else 0, min(2, 1 + candidates)
    return back if discovers else between + back + perturbed


def taken_back(first: AgentView, final: AgentView) -> dict[str, AgentView]:
    """The final agent without what one lever did, by that lever; empty where only one of them changed anything."""
    if final.harness == first.harness or final.adapter == first.adapter:
        return {}
    return {
        "harness": make_agent(first.files, first, "the harness taken back", final.adapter),
        "weights": make_agent(final.files, first, "the weights taken back", first.adapter),
    }


def robustness(
    parts: Parts,
    runner: CandidateRunner,
    samples: Samples,
    history: Sequence[AgentView],
    gated: Mapping[str, Sequence[float]],
    sealed: Mapping[str, Sequence[float]],
) -> dict[str, Any]:
    """Look at a closed run's agents on the sealed split, as far as the budget goes; what was found, as JSON.

    ``history`` are the agents that were the incumbent, the first one first; ``gated`` and
    ``sealed`` the rewards by agent, on sealed those of the first and the final one. In a task of
    kind ``discover`` sealed instances are for answers: agents with a lever taken back search on the gate.
    """
    if samples.evaluations:
        whole = {agent: rewards for agent, rewards in gated.items() if len(rewards) == len(samples.gate)}
        check, usual = _Check(history, gated, whole, None), "gate"
    else:
        perturbation = parts.task.perturbation if isinstance(parts.task, Perturbs) else None
        check, usual = _Check(history, gated, sealed, perturbation), "sealed"
    looks = check.looks()
    parts.emit("robustness.started", looks=len(looks))
    room = min(parts.budget.left(kind) / (amount or 1) for kind, amount in samples.looking_back.kinds.items())
    afforded = [look for place, look in enumerate(looks, 1) if place <= room]

    def roll_out(look: Look) -> tuple[Look, list[float], int]:
        purpose = PERTURBED if look.perturbed else usual
        return look, *runner.sealed(look.agent, len(afforded), purpose)

    # An engine holds one adapter at a time; with one alone, an agent sets itself up while another is asked.
    adapters = {look.agent.adapter for look in afforded}
    with ThreadPoolExecutor(1 if len(adapters) > 1 else 2, thread_name_prefix="sia-robustness") as threads:
        results = [(look, rewards) for look, rewards, short in threads.map(roll_out, afforded) if not short]
    check.rewards.update((look.key, rewards) for look, rewards in results)
    report = {**check.found(), "left_out": len(looks) - len(results)}
    return {**report, "history": []} if samples.evaluations else report


class _Check:
    """Whom to look at, and what their ``rewards`` say: by agent, and whether it was perturbed."""

    def __init__(
        self,
        history: Sequence[AgentView],
        gated: Mapping[str, Sequence[float]],
        sealed: Mapping[str, Sequence[float]],
        perturbation: str | None,
    ) -> None:
        self._history, self._gated, self._perturbation = history, gated, perturbation
        self._taken_back = taken_back(history[0], history[-1])
        self._ends = list({agent.id: agent for agent in (history[0], history[-1])}.values())
        self.rewards = {(agent, False): rewards for agent, rewards in sealed.items()}

    def looks(self) -> list[Look]:
        """Whom to look at that was not looked at yet, each once, what tells most first."""
        looks = [Look(agent) for agent in self._taken_back.values()]
        looks += [Look(agent, perturbed=True) for agent in self._ends if self._perturbation]
        looks += [Look(agent) for agent in self._history]
        return list({look.key: look for look in looks if look.key not in self.rewards}.values())

    def found(self) -> dict[str, Any]:
        """The results of the looks so far."""
        return {
            "history": [self._along(agent) for agent in self._history if Look(agent).key in self.rewards],
            "taken_back": [
                {"lever": lever, **self._changed(Look(agent), self._history[-1])}
                for lever, agent in self._taken_back.items()
                if Look(agent).key in self.rewards
            ],
            "perturbation": self._perturbation,
            "perturbed": [
                self._changed(look, look.agent)
                for look in (Look(agent, perturbed=True) for agent in self._ends)
                if look.key in self.rewards
            ],
        }

    def _along(self, agent: AgentView) -> dict[str, Any]:
        """One incumbent: on the gate that chose it, on sealed, and the gap between the two."""
        score = beside(estimate(self.rewards[Look(agent).key]), estimate(self._gated[agent.id]))
        return {"agent": agent.id, "change": agent.edits[-1] if agent.edits else None, **score}

    def _changed(self, look: Look, than: AgentView) -> dict[str, Any]:
        """A score, and how it differs from that of an agent as it is, on the same instances."""
        rewards, others = self.rewards[look.key], self.rewards[Look(than).key]
        change = normal([a - b for a, b in zip(rewards, others, strict=True)])
        return {"agent": look.agent.id, **asdict(estimate(rewards)), "change": asdict(change)}
