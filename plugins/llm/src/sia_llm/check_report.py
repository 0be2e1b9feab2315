"""A check of a harness, for a model to read: beside what its agent earned on the same instances, and each text once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from sia_core.errors import excerpt
from sia_core.evidence import Rollout
from sia_core.run.intervals import Interval, estimate, normal
from sia_core.run.record import verified
from sia_core.run.run_view import Checked
from sia_llm.quoting import fenced
from sia_llm.toolbox import SHOWN
from sia_reading.possible import clipped

MESSAGE = 600
ANSWER = 200
NAMED = 5
_BY = "from the task's verifier and the agent under test"


def runs(checked: Checked) -> bool:
    """Whether a harness runs at all: at least one instance got an answer, right or wrong."""
    return verified(checked.rollouts) > 0


Bounds = tuple[float, float] | None
"""The least and the largest reward, where there are such."""


def shown(checked: Checked, before: Sequence[Rollout] = (), of: str = "", bounds: Bounds = None) -> str:
    """A check's outcome, instance by instance; ``before`` is what its agent, ``of``, did on the search sample."""
    rows = [fenced("\n".join(_rows(checked.rollouts)), "what the check did", SHOWN, by=_BY)] if checked.rollouts else []
    return "\n".join([summary(checked, before, of, bounds), *rows])


def summary(checked: Checked, before: Sequence[Rollout] = (), of: str = "", bounds: Bounds = None) -> str:
    """A check's outcome as a whole, without a word of the agent's."""
    rollouts = checked.rollouts
    parts = [_verdict(checked)]
    if rollouts:
        mean = _spread(estimate([each.reward for each in rollouts]), bounds)
        parts.append(f"Mean reward {mean}{_against(rollouts, before, of, bounds)}")
        parts += _measured(rollouts)
        parts.append(f"The slowest took {seconds(max(each.seconds for each in rollouts))}.")
    return "\n".join(parts)


def seconds(amount: float) -> str:
    """A time, so coarse that a recorded run asks the same again."""
    return "under a second" if amount < 1 else f"about {float(f'{amount:.1g}'):g} s"


def means(rollouts: Sequence[Rollout]) -> Mapping[str, float]:
    """The mean of each metric over the valid answers that have it."""
    values: dict[str, list[float]] = {}
    for each in rollouts:
        for name, value in each.metrics.items() if each.outcome == "ok" else ():
            values.setdefault(name, []).append(value)
    return {name: fmean(each) for name, each in values.items()}


def _verdict(checked: Checked) -> str:
    rollouts = checked.rollouts
    valid = sum(each.outcome == "ok" for each in rollouts)
    stopped = f" It was stopped: {checked.stopped}." if checked.stopped else ""
    if not runs(checked):
        return f"It does not run.{stopped}"
    if not valid:
        return f"It runs, but none of its {len(rollouts)} answers is valid.{stopped}"
    return f"It runs: {valid} of {len(rollouts)} answers are valid.{stopped}"


def _spread(mean: Interval, bounds: Bounds, sign: str = "") -> str:
    """A mean with its 95% interval, where there are several values that differ."""
    low, high = clipped(mean.ci95, bounds) if bounds else mean.ci95
    interval = f" (95% interval {low:{sign}.4f} to {high:{sign}.4f})" if mean.n > 1 and low < high else ""
    return f"{mean.value:{sign}.4f}{interval}"


def _against(rollouts: Sequence[Rollout], before: Sequence[Rollout], of: str, bounds: Bounds) -> str:
    earned = {each.instance: each.reward for each in before}
    pairs = [(each.reward, earned[each.instance]) for each in rollouts if each.instance in earned]
    if not pairs:
        return "."
    better, worse = sum(now > then for now, then in pairs), sum(now < then for now, then in pairs)
    mean = fmean(then for _, then in pairs)
    widest = (bounds[0] - bounds[1], bounds[1] - bounds[0]) if bounds else None
    change = _spread(normal([now - then for now, then in pairs]), widest, "+")
    earned_there = f"{of} earned {mean:.4f} on the same {len(pairs)}, a change of {change}"
    return f"; {earned_there}. Better on {better}, worse on {worse}."


def _measured(rollouts: Sequence[Rollout]) -> list[str]:
    averages = means(rollouts)
    return (
        [f"Of the valid answers, on average: {', '.join(f'{k} {v:.4g}' for k, v in averages.items())}."]
        if averages
        else []
    )


def _rows(rollouts: Sequence[Rollout]) -> list[str]:
    """A row an instance; what several of them say alike stands below, once."""
    says: dict[str, list[str]] = {}
    rows = []
    for each in rollouts:
        answer = excerpt(each.answer or "", ANSWER)
        rows.append(f"{each.instance}: {each.outcome}, reward {each.reward:g}, answer {answer}".rstrip())
        text = " ".join(part.strip() for part in (each.feedback, each.message, each.log) if part.strip())
        if text:
            says.setdefault(text, []).append(each.instance)
    return rows + [f"{_named(names)}: {excerpt(text, MESSAGE)}" for text, names in says.items()]


def _named(names: Sequence[str]) -> str:
    left = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {left} more" if left > 0 else "")
