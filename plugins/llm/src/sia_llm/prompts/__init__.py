"""The prompts: the texts beside this file, filled with what a run knows.

Texts are in the order of how long they stay the same, so that a provider can cache
all that stands first: rules and table for every run, the task for one run, the
evidence for one decision.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from string import Template

from sia_core.errors import excerpt
from sia_core.evidence import AgentView, Evidence, Summary
from sia_core.harness import HarnessTree
from sia_core.types import Limits, Metric
from sia_llm.earlier import cell, earlier
from sia_llm.mistakes import in_words as as_pairs
from sia_llm.parents import WHY, Rule
from sia_llm.quoting import EITHER, fenced
from sia_llm.weight_lever import in_words, weight_lever
from sia_llm.workshop import code, shown_whole
from sia_reading.outcomes import Confusion
from sia_weights.selection import as_text

AGENTS = 16
PUBLIC = 30
DECIDER = "decider"
"""A part of the purpose of calls that decide on what another model proposes."""

_TURNED = {
    "maximize": "",
    "minimize": "; every reward, mean, prediction and gain that you see or give is of the metric negated, so that more "
    "is always better: a metric of 0.5 is a reward of -0.5, and a gain of 0.1 makes the metric 0.1 lower",
}
LINE = 300


def system(
    brief: str,
    metric: Metric,
    seed: HarnessTree,
    *,
    failure: float = 0.0,
    evaluations: int = 0,
    limits: Limits | None = None,
    trains: bool = True,
) -> tuple[str, ...]:
    """The system prompt, in parts; with ``evaluations`` a rollout, that of a search for the best answer.

    ``failure`` is the reward of a rollout without a valid answer. Where nothing is trained, the table of algorithms
    is left out.
    """
    bounds = limits or Limits()
    unit = f" in {metric.unit}" if metric.unit else ""
    span = f", from {metric.bounds[0]:g} to {metric.bounds[1]:g}" if metric.bounds else ""
    about = {
        "brief": brief,
        "metric": metric.name + unit + span,
        "direction": metric.direction + _TURNED[metric.direction],
        "failure": f"a reward of {failure:g}",
    }
    search = "\n" + _filled("discover", evaluations=str(evaluations)) if evaluations else ""
    task = _filled("task", **about, code=code(seed), limits=_limits(bounds)) + search
    table = "\n" + _filled("table", table=as_text()) if trains else ""
    return (_text("rules") + table, task)


def _limits(limits: Limits) -> str:
    """The limits of a rollout and of a set-up."""
    memory = f"{limits.memory_bytes / 2**30:g} GiB for each process, {limits.total_memory_bytes / 2**30:g} GiB for all"
    return (
        f"`setup` has {limits.setup_seconds:g} s, and `solve` {limits.solve_seconds:g} s for each instance; memory "
        f"{memory}; at most {limits.processes} processes; an answer has at most {limits.answer_bytes:,} bytes"
    )


def first_agent(evidence: Evidence) -> AgentView:
    """The agent that the run began with."""
    return next(agent for agent in evidence.agents.values() if agent.parent is None)


def start_of(rule: Rule, agents: Sequence[AgentView]) -> str:
    """Whose harness the working copy holds, before and after one was set aside, and why."""
    first, *others = [agent.id for agent in agents]
    ids = ", then ".join(others)
    then = f" When you set a change aside, a new working copy begins, from agent {ids}." if others else ""
    if agents[0].parent is not None:
        code = "`read_file` shows it"
    elif shown_whole(agents[0].files):
        code = "its code stands above"
    else:
        code = "its code stands above as far as it fits, and `read_file` shows the rest"
    return f"Your working copy is the harness of agent {first} ({WHY[rule]}); {code}.{then}"


def decide(
    evidence: Evidence, public: Sequence[str], begins: str, mistakes: Sequence[Confusion] = (), *, replies: int = 60
) -> str:
    """The first message of a decision: where it begins, and the evidence, with the incumbent's frequent mistakes.

    ``replies`` is how many the model has. Of a lever that is not pulled nothing is said.
    """
    weights = f"# The weight lever\n\n{weight_lever(evidence)}\n\n" if "weights" in evidence.levers else ""
    return _filled(
        "decide",
        generation=str(evidence.generation),
        candidates="one change" if evidence.candidates == 1 else f"{evidence.candidates} changes",
        replies=str(replies),
        begins=begins,
        levers=", ".join(evidence.levers),
        gate=gate(evidence),
        budget=_budget(evidence),
        public=_public(public),
        agents=_agents(evidence),
        stats=_stats(evidence.agents[evidence.incumbent]),
        failures=_failures(evidence.agents[evidence.incumbent], mistakes),
        weights=weights,
        trials=earlier(evidence.trials),
    )


def judge(task: str) -> tuple[str, ...]:
    """The system prompt of a model that decides on what another proposes, with the same part about the task."""
    return (_text("decider"), task)


def proposed(evidence: Evidence, changes: str, turns: str) -> str:
    """The message that such a model decides on; ``turns`` is how often it may still send back."""
    return _filled(
        "proposed",
        generation=str(evidence.generation),
        gate=gate(evidence),
        budget=_budget(evidence),
        agents=_agents(evidence),
        trials=earlier(evidence.trials),
        changes=changes,
        turns=turns,
    )


def gate(evidence: Evidence) -> str:
    """How large a gain the gate sees, in a sentence without its full stop."""
    least = evidence.smallest_gain
    if evidence.metric.bounds is None:
        return (
            "Nothing bounds the reward, so the gate counts the instances on which a candidate earns more or less than "
            "the incumbent, by any amount: where the share that it wins is truly above the share that it loses by "
            f"{least:.3f}, it is promoted four times out of five; less often where it is above by less"
        )
    return (
        f"The gate promotes a candidate whose true gain in mean reward is {least:.3f} four times out of five; smaller "
        "gains less often"
    )


def _budget(evidence: Evidence) -> str:
    """The budget left, and how much a candidate takes beside its training."""
    limits = sorted(evidence.budget_left)
    remaining = ", ".join(_amount(kind, evidence.budget_left[kind]) for kind in limits)
    look = ", ".join(_amount(kind, evidence.look[kind]) for kind in limits if evidence.look.get(kind))
    has = f"The run has {remaining} left." if remaining else "The run's budget is not limited."
    return has + (f" Measuring one candidate takes at most {look}; what its training takes is added." if look else "")


def _amount(kind: str, amount: float) -> str:
    return f"{amount:,.{2 if kind == 'dollars' else 0}f} {kind}"


def _agents(evidence: Evidence) -> str:
    trains = ["weights"] if "weights" in evidence.levers else []
    columns = ["agent", "parent", "mean reward on the search sample", *trains, "changes since the first agent"]
    lines = [f"| {' | '.join(columns)} |", f"| {' | '.join('---' for _ in columns)} |"]
    best = sorted(evidence.agents.values(), key=lambda agent: (-agent.estimate, agent.id))
    rows = [each for each in best if each.id == evidence.incumbent or each in best[:AGENTS]]
    ahead = _ahead(evidence)
    for agent in rows:
        mark = " (incumbent)" if agent.id == evidence.incumbent else " (ahead on search alone)" * (agent.id in ahead)
        weights = [agent.adapter[:12] if agent.adapter else "untrained"] if trains else []
        changes = excerpt(" > ".join(cell(each) for each in agent.edits) or "none", LINE)
        row = (f"{agent.id}{mark}", agent.parent or "-", f"{agent.estimate:.4f}", *weights, changes)
        lines.append(f"| {' | '.join(row)} |")
    remaining = len(evidence.agents) - len(rows)
    lines += [f"{remaining} more agents, which earned less, are not listed."] if remaining else []
    lines += ["", _AHEAD] if any(each.id in ahead for each in rows) else []
    return "\n".join(lines)


def _ahead(evidence: Evidence) -> set[str]:
    """Agents that were rejected although they were as far ahead on search as the gate sees four times out of five."""
    ids: set[str] = set()
    for trial in evidence.trials if evidence.metric.bounds else ():
        after, before = (evidence.agents.get(name or "") for name in (trial.agent, trial.against))
        gained = after and before and after.estimate - before.estimate >= evidence.smallest_gain
        if after and gained and trial.outcome == "rejected":
            ids.add(after.id)
    return ids


_AHEAD = (
    "`ahead on search alone`: its gain on the search sample over the agent that it was compared with is one that the "
    "gate promotes four times out of five, and yet it was rejected. It may fit the search instances and no others."
)


def _stats(agent: AgentView) -> str:
    if agent.search is None:
        return "It was not rolled out."
    return in_words(agent.search.stats)


def _failures(agent: AgentView, mistakes: Sequence[Confusion]) -> str:
    """Failures by class, and the most frequent mistakes, where there are some."""
    pairs = [f"Its most frequent mistakes:\n{as_pairs(mistakes)}"] if mistakes else []
    if agent.search is None or not agent.search.failures:
        every = "Every rollout gave a valid answer: none crashed, and none ran out of time."
        return "\n".join([every, *pairs])
    classes = [
        f"{each.count} ended as {each.outcome}, for example:\n{fenced(each.example, f'a {each.outcome}', by=EITHER)}"
        for each in agent.search.failures
    ]
    return "\n".join([*_answered(agent.search), *classes, *pairs])


def _answered(search: Summary) -> list[str]:
    """How many gave a valid answer that was wrong, where rewards are for right or wrong."""
    stats = search.stats
    wrong = round(stats.rollouts * (1 - stats.success_rate)) - sum(each.count for each in search.failures)
    return [f"{wrong} gave a valid answer that was wrong."] if stats.binary and wrong > 0 else []


def _public(public: Sequence[str]) -> str:
    more = f" and {len(public) - PUBLIC} more" if len(public) > PUBLIC else ""
    return (", ".join(public[:PUBLIC]) or "none") + more


@cache
def _text(name: str) -> str:
    return files(__name__).joinpath(f"{name}.md").read_text(encoding="utf-8")


def _filled(name: str, **values: str) -> str:
    return Template(_text(name)).substitute(values)
