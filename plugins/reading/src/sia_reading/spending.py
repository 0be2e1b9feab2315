"""The cost of the language models that improved for a run, by model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sia_core.run.record import RunRecord

_CACHED = ("cache_read", "cache_write")


def by_model(record: RunRecord) -> list[dict[str, Any]]:
    """For each model, in the order of their first calls: its calls, tokens and dollars.

    ``calls`` counts every try that was sent. Of the tokens that it read, ``tokens_in``, ``cached`` came from the
    provider's cache. Dollars are as the budget booked them, failed tries included.
    """
    models: dict[str, dict[str, Any]] = {}
    of: dict[str, str] = {}
    for call, what, row in record.calls():
        if what == "intent":
            of[call] = row["model"]
        name = of.get(call, "")
        spent = models.setdefault(
            name, {"model": name, "calls": 0, "tokens_in": 0, "cached": 0, "tokens_out": 0, "dollars": 0.0}
        )
        spent["calls"] += what == "intent"
        spent["dollars"] += row.get("dollars", 0.0)
        if what == "reply":
            used: Mapping[str, int | None] = row["reply"]["usage"]
            spent["tokens_in"] += sum(used.get(kind) or 0 for kind in ("input", *_CACHED))
            spent["cached"] += used.get("cache_read") or 0
            spent["tokens_out"] += used.get("output") or 0
    return [{**each, "dollars": round(each["dollars"], 9)} for each in models.values()]
