"""The report of a run, read from its ledger alone: finished, running or stopped."""

from __future__ import annotations

from typing import Any

from sia_core.ledger import Ledger

STATES = ("finished", "closed", "unfinished")


def build(ledger: Ledger) -> dict[str, Any]:
    """The report as plain JSON. ``sealed`` is null until the run is closed and scored."""
    started = _value(ledger, "run")
    if started is None:
        return {"run": ledger.folder.name, "status": "unfinished", "generations": []}
    config, closed, finished = started["config"], _value(ledger, "closed"), _value(ledger, "finished")
    rows = [value for key, value, _ in ledger.events("generation/") if "/gated/" in key]
    sealed = {which: _value(ledger, f"sealed/{which}") for which in ("initial", "final")}
    sandbox, gate = _value(ledger, "sandbox") or {}, _value(ledger, "gate") or {}
    incumbent = next((row["harness"] for row in reversed(rows) if row["accepted"]), _value(ledger, "draft"))
    return {
        "run": ledger.folder.name,
        "status": STATES[0] if finished else STATES[1] if closed else STATES[2],
        "task": started["task"],
        "metric": started["metric"],
        "levers": config["plan"]["levers"],
        "improver": config["improver"],
        "seed": config["plan"]["seed"],
        "sandbox": sandbox.get("name"),
        "sandbox_lacks": sandbox.get("lacks", []),
        "sealed": sealed if all(sealed.values()) else None,
        "generations": [_row(row) for row in rows],
        "gate_queries": sum(row["gate"] is not None for row in rows),
        "smallest_gain": gate.get("smallest_gain"),
        "budget": {"limit": config["budget"], "spent": finished["spent"] if finished else _spent(ledger)},
        "stopped": closed["why"] if closed else None,
        "agent": {"harness": incumbent, "adapter": None},
    }


def _value(ledger: Ledger, key: str) -> Any:
    recorded = ledger.get(key)
    return recorded[0] if recorded else None


def _spent(ledger: Ledger) -> dict[str, float]:
    rollouts = float(sum(len(batch["rollouts"]) for _, batch, _ in ledger.events("rollouts/")))
    return {"rollouts": rollouts, "verifications": rollouts}


def _row(row: dict[str, Any]) -> dict[str, Any]:
    gate = row["gate"]
    return {
        "index": row["generation"],
        "lever": row["lever"],
        "name": row["name"],
        "algorithm": row["algorithm"],
        "accepted": row["accepted"],
        "why": row["why"],
        "reason": row["reason"],
        "predicted": row["predicted"],
        "parent": row["parent"],
        "agent": row["agent"],
        "gate": {name: gate[name] for name in ("incumbent", "candidate", "delta", "ci95", "n")} if gate else None,
    }
