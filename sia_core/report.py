"""The report of a run, read from its ledger alone: finished, running or stopped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from sia_core.approval import waiting
from sia_core.attacks.catalogue import may_pass
from sia_core.budget import KINDS
from sia_core.evidence import Rollout
from sia_core.ledger import Ledger
from sia_core.rollout import verified


def build(ledger: Ledger) -> dict[str, Any]:
    """The report as plain JSON. ``sealed`` is null until the run is closed and scored."""
    started = recorded(ledger, "run")
    if started is None:
        return {"run": ledger.folder.name, "status": "unfinished", "generations": []}
    config, closed, finished = started["config"], recorded(ledger, "closed"), recorded(ledger, "finished")
    gated = [(key, value) for key, value, _ in ledger.events("generation/") if "/gated/" in key]
    rows = [value for _, value in gated]
    sealed = {which: recorded(ledger, f"sealed/{which}") for which in ("initial", "final")}
    sandbox = recorded(ledger, "sandbox") or {}
    gate = recorded(ledger, "gate/repeated") or recorded(ledger, "gate") or {}
    accepted = next((row for row in reversed(rows) if row["accepted"]), None)
    incumbent = accepted["harness"] if accepted else recorded(ledger, "draft")
    adapter = accepted.get("adapter") if accepted else None
    return {
        "run": ledger.folder.name,
        "status": "finished" if finished else "closed" if closed else "unfinished",
        "task": started["task"],
        "kind": started.get("kind", "solve"),  # runs of before tasks to discover have none
        "metric": started["metric"],
        "levers": config["plan"]["levers"],
        "improver": config["improver"],
        "seed": config["plan"]["seed"],
        "sandbox": sandbox.get("name"),
        "sandbox_lacks": sandbox.get("lacks", []),
        "sandbox_may_not_stop": may_pass(sandbox.get("lacks", [])),
        "sealed": sealed if all(sealed.values()) else None,
        "answer": recorded(ledger, "answer/final"),
        "robustness": recorded(ledger, "robustness"),
        "generations": [_row(key, row) for key, row in gated],
        "triage": _triage(ledger, rows),
        "gate_queries": sum(row["gate"] is not None for row in rows),
        "smallest_gain": gate.get("smallest_gain"),
        "wins": gate.get("wins", False),
        "to_halve": gate.get("to_halve"),
        "repeats": config["plan"].get("repeats", 1),
        "budget": {"limit": config["budget"], "spent": finished["spent"] if finished else spent(ledger)},
        "stopped": closed["why"] if closed else None,
        "waiting": list(waiting(ledger).values()),
        "policy": config.get("engine"),
        "agent": {"harness": incumbent, "adapter": adapter},
    }


def recorded(ledger: Ledger, key: str) -> Any:
    """The result of a finished step, or None."""
    found = ledger.get(key)
    return found[0] if found else None


def spent(ledger: Ledger) -> dict[str, float]:
    """What the recorded steps of a run took, by kind: less than its budget has booked where a sweep was given up."""
    found = dict.fromkeys(KINDS, 0.0)
    for key, value, _ in ledger.events():
        for kind, amount in _taken(key, value).items():
            found[kind] += amount
    return found


def _taken(key: str, value: Any) -> dict[str, float]:
    """What one recorded step took; records of early versions lack some kinds."""
    match key.split("/"):
        case ["rollouts", *_]:
            done = [Rollout.from_json(each) for each in value["rollouts"]]
            tokens = float(sum(each.tokens for each in done))
            return {"rollouts": len(done), "verifications": verified(done), "tokens": tokens}
        case ["explore", _]:
            counts = {kind: value.get(kind, 0.0) for kind in ("rollouts", "verifications")}
            return {**counts, "tokens": value.get("tokens", 0.0) * counts["rollouts"]}
        case ["generation", _, "train", _, _] if "steps" in value:
            kinds = ("rollouts", "verifications", "tokens")
            return {kind: sum(row.get(kind, 0.0) for row in value["steps"]) for kind in kinds}
        case ["answers", *_]:
            return {"verifications": len(value)}
        case ["calls", *_]:
            return {"dollars": value.get("dollars", 0.0)}
        case [*_, "seconds"]:
            return {"seconds": value}
    return {}


def _triage(ledger: Ledger, rows: Sequence[dict[str, Any]]) -> dict[str, int]:
    """What was sorted out before it cost a full evaluation.

    ``checked`` harnesses an improver ran on a few instances, ``not_running`` those of them
    that gave no answer; of the candidates that were proposed after that, how many were
    ``refused`` before anything was spent, ``failed`` (most often in their smoke run) or were ``compared``.
    """
    checks = [batch["rollouts"] for _, batch, _ in ledger.events("rollouts/check/")]
    running = sum(verified([Rollout.from_json(each) for each in check]) > 0 for check in checks)
    came = Counter(row.get("outcome") for row in rows)  # a row of an early version has none
    refused, failed = came["refused"], came["failed"]
    return {
        "checked": len(checks),
        "not_running": len(checks) - running,
        "refused": refused,
        "failed": failed,
        "compared": len(rows) - refused - failed,
    }


def _row(key: str, row: dict[str, Any]) -> dict[str, Any]:
    """A candidate; its step is ``generation/G/gated/K``."""
    gate = row["gate"]
    return {
        "index": row["generation"],
        "candidate": int(key.rpartition("/")[2]),
        "lever": row["lever"],
        "name": row["name"],
        "algorithm": row["algorithm"],
        "table": row.get("table", ""),  # runs of before the weight lever have none of these
        "estimate": row.get("estimate", {}),
        "took": row.get("took", {}),
        "stopped": row.get("stopped", ""),
        "accepted": row["accepted"],
        "why": row["why"],
        "reason": row["reason"],
        "predicted": row["predicted"],
        "parent": row["parent"],
        "agent": row["agent"],
        "harness": row["harness"],
        "gain": row.get("gain"),
        "gate": {name: gate[name] for name in ("incumbent", "candidate", "delta", "ci95", "n")} if gate else None,
        "planned": gate.get("planned", gate["n"]) if gate else None,  # runs of before early looks have none
    }
