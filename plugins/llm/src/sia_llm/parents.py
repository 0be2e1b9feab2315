"""Which agents of the archive a generation starts from: the rules that ``--improver-set parents=RULE`` names."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from sia_core.evidence import AgentView, Evidence
from sia_core.run.discover import Node, choose
from sia_core.types import Kind

Rule = Literal["keep-best", "pareto", "puct"]
Rewards = Callable[[str], Mapping[str, float]]

WHY: Mapping[Rule, str] = {
    "keep-best": "it is the incumbent",
    "pareto": "drawn at random, more often the more search instances an agent is best on",
    "puct": "changes of it earned most, or few of it were tried",
}
"""Why a rule starts from an agent, as a model is told."""

DEFAULT: Mapping[Kind, Rule] = {"solve": "keep-best", "discover": "puct"}


def parents(rule: Rule, evidence: Evidence, rewards: Rewards) -> list[AgentView]:
    """An agent for each candidate of the generation, the same one perhaps several times.

    ``rewards`` gives an agent's on the search sample, by instance. The same evidence, the same parents.
    """
    if rule == "puct":
        tried = Counter(trial.parent for trial in evidence.trials)
        nodes = [Node(each.id, each.parent, each.estimate, tried[each.id]) for each in evidence.agents.values()]
        names = [node.id for node in choose(nodes, evidence.candidates)]
    elif rule == "pareto":
        best = best_on({name: rewards(name) for name in evidence.agents})
        seeded = random.Random(f"parents {evidence.seed} {evidence.generation}")
        names = seeded.choices(list(best), list(best.values()), k=evidence.candidates)
    else:
        names = [evidence.incumbent] * evidence.candidates
    return [evidence.agents[name] for name in names]


def best_on(earned: Mapping[str, Mapping[str, float]]) -> dict[str, int]:
    """The Pareto front: on how many instances each of its agents earned the most, alone or with others.

    An agent is not on it where another is nowhere worse and somewhere better. After GEPA
    (Agrawal et al. 2025, arXiv 2507.19457), which leaves out what others cover together, too.
    """
    front = {name: own for name, own in earned.items() if not any(_beats(each, own) for each in earned.values())}
    most = {instance: max(own[instance] for own in front.values()) for instance in next(iter(front.values()))}
    counts = {name: sum(own[instance] == top for instance, top in most.items()) for name, own in front.items()}
    return {name: count for name, count in counts.items() if count}


def _beats(one: Mapping[str, float], other: Mapping[str, float]) -> bool:
    return all(one[name] >= reward for name, reward in other.items()) and one != other


def dealt(begins: Sequence[AgentView], among: int) -> list[list[AgentView]]:
    """The parents of each of several conversations, in turn, so that no two differ by more than one."""
    return [list(begins[place::among]) for place in range(among)]


def beside(place: int, shares: Sequence[Sequence[AgentView]]) -> str:
    """Tell a conversation of those that go on at the same time: their parents, not their thoughts."""
    others = "; ".join(
        f"number {at + 1} from agent {', then '.join(each.id for each in share)}"
        for at, share in enumerate(shares)
        if at != place
    )
    return (
        f"You are number {place + 1} of {len(shares)} who propose changes for this generation at the same time. All "
        f"have the same evidence, and none sees what another does. The others start: {others}. What stands out to "
        "you stands out to them as well, and a change that two propose is tried once: look for one of your own."
    )
