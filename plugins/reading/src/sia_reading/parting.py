"""Where the reward rose and what is measured beside it fell: a reward that is gamed looks so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

from sia_core.run.discover import Verified
from sia_core.run.intervals import normal
from sia_core.run.record import RunRecord, verified_answer
from sia_core.run.record_rows import GatedRow, RunRow

Scores = Mapping[str, tuple[float, Mapping[str, float]]]
"""Reward and metrics, by instance."""


def parted(record: RunRecord, started: RunRow, rows: Sequence[GatedRow]) -> list[dict[str, Any]]:
    """The metrics that got worse, beyond noise, where the reward got better: on sealed, and candidates on the gate.

    Only metrics whose better direction the task declares. The intervals are of paired differences.
    """
    directions = started["metric"].get("beside", {})
    regressions = []
    for about, before, after in _pairs(record, rows) if directions else ():
        same = sorted(before.keys() & after.keys())
        gain = normal([after[each][0] - before[each][0] for each in same]) if len(same) > 1 else None
        if gain is None or gain.ci95[0] <= 0:
            continue
        for name, direction in sorted(directions.items()):
            both = [each for each in same if name in before[each][1] and name in after[each][1]]
            values = [(before[each][1][name], after[each][1][name]) for each in both]
            if len(values) < 2:
                continue
            change = normal([b - a for a, b in values])
            worse = change.ci95[0] > 0 if direction == "minimize" else change.ci95[1] < 0
            if worse:
                means = {"before": fmean(a for a, _ in values), "after": fmean(b for _, b in values)}
                regressions.append({**about, "metric": name, **means, "change": asdict(change)})
    return regressions


def _pairs(record: RunRecord, rows: Sequence[GatedRow]) -> Iterator[tuple[dict[str, Any], Scores, Scores]]:
    """The pairs to compare: both ends of the run on sealed, and each candidate with its incumbent on the gate."""
    about: dict[str, Any]
    first = incumbent = (record.draft or "")[:12]
    for row in rows:
        if row["gate"] and row["agent"]:
            about = {"split": "gate", "candidate": row["name"]}
            yield about, _rolled(record, "gate", incumbent), _rolled(record, "gate", row["agent"])
        incumbent = row["agent"] or incumbent if row["accepted"] else incumbent
    about = {"split": "sealed", "candidate": None}
    ends = [record.get(verified_answer(end, "sealed")) for end in ("initial", "final")]
    if all(ends):
        yield about, _answered(ends[0]), _answered(ends[1])
    else:
        yield about, _rolled(record, "sealed", first), _rolled(record, "sealed", incumbent)


def _answered(scored: Sequence[Any]) -> Scores:
    verified = Verified.of(scored, len(scored))
    return {str(place): (each.reward, each.metrics) for place, each in enumerate(verified) if each.valid}


def _rolled(record: RunRecord, purpose: str, agent: str) -> Scores:
    """An agent's valid rollouts; of several on one instance, the last one."""
    return {
        each["instance"]: (each["reward"], each.get("metrics", {}))
        for batch in (record.batches(purpose, agent) if agent else ())
        for each in batch.rows
        if each["outcome"] == "ok"
    }
