"""A comparison's result: each arm on sealed, their differences, each lever's effect, and what cannot be concluded.

Read from the runs' own records alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from sia_compare.arms import Cell, Design
from sia_compare.statistics import ALPHA, Scores, contrast, holm, least_p
from sia_core.errors import LedgerError
from sia_core.run.intervals import in_units
from sia_core.run.ledger import Ledger, readable
from sia_core.run.record import RunRecord
from sia_reading.possible import clipped
from sia_reading.report import build

BASE, SAMPLING, BOTH = "none", "best-of-n", "both"

ATTRIBUTION = (
    ("harness lever alone", {"harness": 1, "none": -1}),
    ("weight lever alone", {"weights": 1, "none": -1}),
    ("both together", {"both": 1, "none": -1}),
    ("harness lever beside weights", {"both": 1, "weights": -1}),
    ("weight lever beside harness", {"both": 1, "harness": -1}),
    ("more than the sum of both alone", {"both": 1, "harness": -1, "weights": -1, "none": 1}),
)


@dataclass(frozen=True)
class Outcome:
    """A finished run: its sealed score, that of its first agent, by case, and what it spent."""

    initial: float
    final: float
    cases: Mapping[str, float]
    spent: Mapping[str, float]
    accepted: int
    stopped: str


def result(folder: Path, design: Design) -> dict[str, Any]:
    """The result as JSON, of the runs that are finished by now."""
    outcomes = {cell: outcome for cell in design.cells() if (outcome := outcome_of(folder / cell.name))}
    scores: dict[str, Scores] = {
        arm: {cell.seed: outcome.cases for cell, outcome in outcomes.items() if cell.arm == arm} for arm in design.arms
    }
    metric = _metric(folder, outcomes)
    contrasts = [_contrast(f"{a} − {b}", {a: 1, b: -1}, scores, metric) for a, b in _pairs(design.arms)]
    compared = _tested([each for each in contrasts if each])
    attributed = [
        _contrast(name, weights, scores, metric) for name, weights in ATTRIBUTION if set(weights) <= set(design.arms)
    ]
    return {
        "folder": folder.name,
        "design": asdict(design),
        "metric": metric["name"],
        "direction": metric.get("direction", "maximize"),
        "finished": len(outcomes),
        "runs": len(design.cells()),
        "arms": [_arm(arm, outcomes, _contrast(arm, {arm: 1}, scores, metric)) for arm in design.arms],
        "comparisons": compared,
        "attribution": [each for each in attributed if each],
        "cannot_conclude": list(_limits(design, outcomes, compared)),
    }


def outcome_of(run: Path) -> Outcome | None:
    """A run's outcome; None where it is not finished, or cannot be read."""
    try:
        with Ledger.read(run) as ledger, readable(run):
            report = build(ledger)
            if report["status"] != "finished" or not report["sealed"]:
                return None
            sealed = report["sealed"]
            accepted = [row["agent"] for row in report["generations"] if row["accepted"]]
            agent = accepted[-1] if accepted else (RunRecord(ledger).draft or "")[:12]
            return Outcome(
                initial=sealed["initial"]["value"],
                final=sealed["final"]["value"],
                cases=_cases(ledger, agent, report["metric"]) or {"": sealed["final"]["value"]},
                spent=report["budget"]["spent"],
                accepted=len(accepted),
                stopped=report["stopped"] or "",
            )
    except LedgerError:
        return None


def _cases(ledger: Ledger, agent: str, metric: Mapping[str, Any]) -> dict[str, float]:
    """An agent's sealed scores by case; the mean where it was asked several times."""
    rewards: dict[str, list[float]] = {}
    for batch in RunRecord(ledger).batches("sealed", agent):
        for row in in_units(metric.get("direction", ""), batch.rows):
            rewards.setdefault(row["instance"], []).append(row["reward"])
    return {case: fmean(values) for case, values in rewards.items()}


def _pairs(arms: tuple[str, ...]) -> list[tuple[str, str]]:
    """Each arm against doing nothing and against plain sampling, and ``both`` against each other one."""
    pairs = [(arm, base) for base in (BASE, SAMPLING) if base in arms for arm in arms if arm not in (base, BASE)]
    pairs += [(BOTH, arm) for arm in arms if BOTH in arms and arm not in (BOTH, BASE, SAMPLING)]
    return pairs or [(arm, arms[0]) for arm in arms[1:]]


def _tested(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Differences with their p-values, adjusted for how many there are."""
    for over in ("cases", "seeds"):
        tested = [row for row in rows if row[over]["p"] is not None]
        adjusted = holm([row[over]["p"] for row in tested])
        for row, p in zip(tested, adjusted, strict=True):
            row[over]["p_adjusted"] = p
    return rows


def _arm(arm: str, results: Mapping[Cell, Outcome], mean: dict[str, Any] | None) -> dict[str, Any]:
    outcomes = [outcome for cell, outcome in results.items() if cell.arm == arm]
    kinds = ("rollouts", "tokens", "seconds", "dollars")
    return {
        "arm": arm,
        "finished": len(outcomes),
        "initial": fmean(each.initial for each in outcomes) if outcomes else None,
        "final": mean,
        "accepted": fmean(each.accepted for each in outcomes) if outcomes else None,
        "spent": {kind: fmean(each.spent.get(kind, 0.0) for each in outcomes) for kind in kinds} if outcomes else {},
    }


def _contrast(
    name: str, weights: Mapping[str, float], scores: Mapping[str, Scores], metric: Mapping[str, Any]
) -> dict[str, Any] | None:
    """A contrast as JSON, its intervals without what no such sum of scores can be: a normal one may go past it."""
    estimate, bounds = contrast(name, weights, scores), metric.get("bounds")
    if estimate is None:
        return None
    row = asdict(estimate)
    if bounds:
        ends = [sorted(weight * bound for bound in bounds) for weight in weights.values()]
        possible = [sum(low for low, _ in ends), sum(high for _, high in ends)]
        for each in (row["cases"], row["seeds"]):
            each["ci95"] = each["ci95"] and clipped(each["ci95"], possible)
    return row


def _metric(folder: Path, outcomes: Mapping[Cell, Outcome]) -> Mapping[str, Any]:
    for cell in outcomes:
        with Ledger.read(folder / cell.name) as ledger:
            metric: Mapping[str, Any] = build(ledger)["metric"]
            return metric
    return {"name": "score"}


def _limits(design: Design, outcomes: Mapping[Cell, Outcome], compared: list[dict[str, Any]]) -> list[str]:
    """The limits of these runs, in sentences."""
    limits = []
    if missing := [cell.name for cell in design.cells() if cell not in outcomes]:
        limits.append(f"{len(missing)} of {len(design.cells())} runs are not finished ({', '.join(missing[:6])}"
                      f"{' ...' if len(missing) > 6 else ''}); what stands here is of the others alone.")  # fmt: skip
    for row in compared:
        if not _shown(row["cases"]):
            reach = _reach(row["cases"])
            limits.append(f"Whether {row['name']} is other than 0 on new cases: not shown{reach}.")
        elif not _shown(row["seeds"]):
            limits.append(
                f"Whether {row['name']} would come out alike in new runs: not shown by {row['seeds']['n']} seeds, "
                "although these runs' agents differ on new cases."
            )
    if least_p(design.seeds) > ALPHA:
        limits.append(
            f"Nothing about new runs by the test over seeds: with {design.seeds} of them its p is never below "
            f"{least_p(design.seeds):.2g}; it takes 6 to go below {ALPHA}, and more where several pairs are tested."
        )
    limits += _budget(design, outcomes)
    limits.append("Anything about other tasks, other policies or other budgets: these runs are of one of each.")
    return limits


def _shown(estimate: Mapping[str, Any]) -> bool:
    return bool(estimate.get("p_adjusted", 1.0) <= ALPHA)


def _reach(estimate: Mapping[str, Any]) -> str:
    """The difference that cannot be ruled out either way."""
    if estimate["ci95"] is None:
        return ""
    low, high = estimate["ci95"]
    if low == high == 0:
        return ", and their agents scored alike on every case"
    return f"; anything from {low:+.4f} to {high:+.4f} may be"


def _budget(design: Design, outcomes: Mapping[Cell, Outcome]) -> list[str]:
    """Where the budgets were not used alike, or were not comparable."""
    sentences = []
    if "seconds=" in design.budget:
        sentences.append(
            "Who is better at equal work: seconds are shared with whatever else the machine did; "
            "a budget in rollouts or tokens is the same for all."
        )
    kind = "tokens" if "tokens=" in design.budget else "rollouts"
    spent = {
        arm: fmean(each.spent.get(kind, 0.0) for cell, each in outcomes.items() if cell.arm == arm)
        for arm in design.arms
        if arm != BASE and any(cell.arm == arm for cell in outcomes)
    }
    if spent and min(spent.values()) < 0.5 * max(spent.values()):
        least = min(spent, key=lambda arm: spent[arm])
        most = max(spent, key=lambda arm: spent[arm])
        sentences.append(
            f"What {least} would have come to with all of its budget: it stopped by itself after {spent[least]:,.0f} "
            f"{kind} on average, where {most} used {spent[most]:,.0f}."
        )
    return sentences
