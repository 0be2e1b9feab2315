"""The report of a run, read from its ledger alone: finished, running or stopped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from sia_core.run.gate import Levels
from sia_core.run.intervals import in_units, narrow
from sia_core.run.ledger import Ledger, readable
from sia_core.run.record import OUT_OF_BOUNDS, ROBUSTNESS, Batch, RunRecord, answer, verified
from sia_core.run.record import sealed as sealed_key
from sia_core.run.record_rows import GatedRow
from sia_reading.outcomes import outcomes
from sia_reading.parting import parted
from sia_reading.possible import to_read
from sia_reading.spending import by_model

GATE = ("incumbent", "candidate", "delta", "ci95", "n", "wins", "losses", "p", "level")
"""The figures of a comparison; runs of before the exact test have no more than the first five."""


def build(ledger: Ledger) -> dict[str, Any]:
    """The report as plain JSON, in units of the metric. ``sealed`` is null until the run is closed and scored."""
    with readable(ledger.folder):
        return _build(ledger)


def _build(ledger: Ledger) -> dict[str, Any]:
    record = RunRecord(ledger)
    started = record.run
    if started is None:
        return {"run": ledger.folder.name, "status": "unfinished", "generations": []}
    config, closed, finished = started["config"], record.closed, record.finished
    rows, metric = record.candidates(), started["metric"]
    direction, bounds = metric.get("direction", "maximize"), metric.get("bounds")
    sealed = {end: record.get(sealed_key(end)) for end in ("initial", "final")}
    sandbox = record.sandbox
    gate, batches = record.gate, list(record.batches())
    accepted = next((row for row in reversed(rows) if row["accepted"]), None)
    incumbent = accepted["harness"] if accepted else record.draft
    adapter = accepted["adapter"] if accepted else None
    first = (record.draft or "")[:12]
    return {
        "run": ledger.folder.name,
        "status": "finished" if finished else "closed" if closed else "unfinished",
        "task": started["task"],
        "kind": started["kind"],
        "metric": metric,
        "verifier": started["verifier"],
        "levers": config["plan"]["levers"],
        "improver": config["improver"],
        "seed": config["plan"]["seed"],
        "sandbox": sandbox["name"] if sandbox else None,
        "sandbox_lacks": sandbox["lacks"] if sandbox else [],
        "sealed": to_read(direction, sealed, bounds) if all(sealed.values()) else None,
        "answer": record.get(answer("final")),
        "parted": parted(record, started, rows),
        "robustness": to_read(direction, record.get(ROBUSTNESS), bounds),
        "generations": to_read(direction, [_row(row) for row in rows], bounds),
        "narrow": narrow(_first(batches, first, direction), bounds),
        "outcomes": outcomes(batches, {"initial": first, "final": accepted["agent"] if accepted else first}),
        "out_of_bounds": sum(each["outcome"] == OUT_OF_BOUNDS for batch in batches for each in batch.rows),
        "triage": _triage(record, rows),
        "gate_queries": sum(row["gate"] is not None for row in rows),
        "levels": _levels(config["plan"], rows),
        "n": gate.get("n"),
        "level": gate.get("level"),
        "smallest_gain": gate.get("smallest_gain"),
        "gains": gate.get("gains", []),
        "comparisons": gate.get("comparisons"),
        "wins": gate.get("wins", False),
        "to_halve": gate.get("to_halve"),
        "held_out": gate.get("held_out", 0),
        "training": gate.get("training", 0),
        "repeats": config["plan"].get("repeats", 1),
        "replies": _replies(batches),
        "budget": {"limit": config["budget"], "spent": finished["spent"] if finished else record.spent()},
        "models": by_model(record),
        "stopped": closed["why"] if closed else None,
        "waiting": list(record.questions().values()),
        "policy": config.get("engine"),
        "agent": {"harness": incumbent, "adapter": adapter},
    }


def _levels(plan: Mapping[str, Any], rows: Sequence[GatedRow]) -> dict[str, Any] | None:
    """The error levels that the gate's comparisons used, and what is left; None for runs of before levels."""
    if plan.get("earned") is None:
        return None
    return Levels(most=0, instances=0, earned=plan["earned"]).following(rows).to_json()


def _first(batches: Sequence[Batch], agent: str, direction: str) -> list[float]:
    """The scores of the first agent's valid answers on search and gate."""
    its = (each for each in batches if each.purpose in ("search", "gate") and each.agent == agent)
    return [
        in_units(direction, row["reward"], "reward") for batch in its for row in batch.rows if row["outcome"] == "ok"
    ]


def _replies(batches: Sequence[Batch]) -> dict[str, int]:
    """The replies of the policy, and those that were ``cut`` at a length that no harness had named."""
    return {"replies": sum(batch.replies for batch in batches), "cut": sum(batch.cut for batch in batches)}


def _triage(record: RunRecord, rows: Sequence[GatedRow]) -> dict[str, int]:
    """Counts of what was dropped before a full evaluation.

    ``checked`` harnesses an improver ran on a few instances, ``not_running`` those of them
    that gave no answer; of the candidates that were proposed after that, how many were
    ``refused`` before anything was spent, ``failed`` (most often in their smoke run), ``screened`` out
    by the search sample or ``compared``.
    """
    checks = list(record.batches("check"))
    running = sum(verified(check.rollouts()) > 0 for check in checks)
    outcomes = Counter(row["outcome"] for row in rows)
    refused, failed, screened = outcomes["refused"], outcomes["failed"], outcomes["screened"]
    return {
        "checked": len(checks),
        "not_running": len(checks) - running,
        "refused": refused,
        "failed": failed,
        "screened": screened,
        "compared": len(rows) - refused - failed - screened,
    }


def _row(row: GatedRow) -> dict[str, Any]:
    """A candidate's row."""
    gate = row["gate"]
    return {
        "index": row["generation"],
        "candidate": row["candidate"],
        "lever": row["lever"],
        "name": row["name"],
        "algorithm": row["algorithm"],
        "table": row["table"],
        "estimate": row["estimate"],
        "took": row["took"],
        "stopped": row["stopped"],
        "accepted": row["accepted"],
        "why": row["why"],
        "reason": row["reason"],
        "predicted": row["predicted"],
        "parent": row["parent"],
        "agent": row["agent"],
        "harness": row["harness"],
        "gain": row["gain"],
        "outcome": row["outcome"],
        "gate": {name: gate[name] for name in GATE if name in gate} if gate else None,
        "against": row["against"],
        "against_parent": row["against_parent"],
        "planned": gate.get("planned", gate["n"]) if gate else None,  # runs of before early looks have none
    }
