"""Earlier decisions, for the model that decides next: predictions, what came of them, and the reasons given."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from sia_core.errors import excerpt
from sia_core.evidence import Trial
from sia_llm.quoting import EITHER, fenced, visible
from sia_weights.past import placed

ROWS = 60
"""Decisions in the table, the latest ones."""

REMEMBERED = 8
"""Decisions whose reasons are shown, the latest ones."""

REASON, WHY = 500, 300
"""Characters of a reason, and of why a decision could not be measured."""

IMPROVER = "written by an improver earlier"
"""The author of an earlier decision's reason, diff and prediction, as blocks name it."""


def earlier(trials: Sequence[Trial]) -> str:
    """The latest decisions as a table, how all predictions fared, and the reasons of the very latest."""
    if not trials:
        return "None yet."
    named = numbered(trials)
    table, latest = named[-ROWS:], named[-REMEMBERED:]
    remaining = len(named) - len(table)
    lines = [
        "| generation.place | lever | name | parent | predicted gain | gain on search | outcome | compared with |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        *(_row(name, trial) for name, trial in table),
        *([f"{remaining} older ones are not listed; `earlier_decision` shows each."] if remaining else []),
        _calibration(trials),
        f"The reasons{'' if len(latest) == len(named) else f' for the latest {len(latest)}'}, as they were given then:",
        *(text for name, trial in latest for text in _words(name, trial)),
    ]
    return "\n".join(lines)


def numbered(trials: Sequence[Trial]) -> list[tuple[str, Trial]]:
    """Each decision by its number, such as 2.0: the first of generation 2."""
    return [(f"{trial.generation}.{place}", trial) for place, trial in placed(trials)]


def measured(trial: Trial) -> str:
    """The gain on the search sample."""
    return "not measured" if trial.gain is None else f"{trial.gain:+.4f}"


def cell(text: str) -> str:
    """A model's text, fit for a cell of a table."""
    return excerpt(visible(" ".join(text.split())).replace("|", "/"), 80)


def _row(name: str, trial: Trial) -> str:
    return (
        f"| {name} | {trial.lever} | {cell(trial.name)} | {trial.parent} | {trial.predicted:+.4f} | "
        f"{measured(trial)} | {trial.outcome} | {trial.against or '-'} |"
    )


def _words(name: str, trial: Trial) -> list[str]:
    """The reason of a decision, and why it was not measured, if it was not."""
    words = [fenced(trial.reason, f"the reason for {name}", REASON, by=IMPROVER)]
    if trial.outcome in ("failed", "refused"):
        why = f"why {name} was {trial.outcome}"
        words.append(fenced(trial.why, why, WHY, by=EITHER))
    return words


def _calibration(trials: Sequence[Trial]) -> str:
    """How predictions and measurements compare, over all of them."""
    pairs = [(trial.predicted, trial.gain) for trial in trials if trial.gain is not None]
    if not pairs:
        return "None of them was measured."
    off = fmean(abs(predicted - gain) for predicted, gain in pairs)
    figures = f"{fmean(each for each, _ in pairs):+.4f} predicted, {fmean(each for _, each in pairs):+.4f} measured"
    if len(pairs) == 1:
        return f"One prediction was measured: {figures}, off by {off:.4f}."
    return f"{len(pairs)} predictions were measured. On average: {figures}, off by {off:.4f} either way."
