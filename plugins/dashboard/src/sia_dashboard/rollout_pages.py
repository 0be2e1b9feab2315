"""The pages of rollouts: the list with its filters, and one rollout with its neighbours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from itertools import islice
from statistics import fmean
from typing import Any
from urllib.parse import urlencode

from sia_core.evidence import Rollout
from sia_dashboard import charts, words
from sia_dashboard.bounds import SHOWN, bounded
from sia_dashboard.pages import Served
from sia_dashboard.records import Record, RolloutFilter, Row
from sia_reading.outcomes import FAILURES

OTHERS = 50
"""Rollouts of the same case that a rollout's page lists."""


def list_page(record: Record, links: Served, filters: RolloutFilter) -> tuple[dict[str, Any], list[Row]]:
    """The values of the list, and all rows that the filter takes."""
    every, names = record.rows(), record.names()
    matches = [row for row in every if filters.takes(row)]
    rewards = [row.reward for row in matches]
    choices = [
        (
            key,
            [
                (value, _named(value, names))
                for value in islice(dict.fromkeys(getattr(row, key) for row in every), SHOWN)
            ],
        )
        for key in ("purpose", "agent")
    ]
    ended = dict.fromkeys([*FAILURES, *islice(dict.fromkeys(row.outcome for row in every), SHOWN)])
    choices.append(("outcome", [(value, value) for value in ended]))
    return {
        "wanted": asdict(filters),
        "filters": _filters(every, links, filters),
        "choices": choices,
        "names": names,
        "total": len(matches),
        "left_out": record.left_out,
        "mean": fmean(rewards) if rewards else 0.0,
        "histogram": charts.histogram(rewards, "Rewards", charts.ends(record.metric, rewards)),
        "query": _query(filters),
    }, matches


def rollout_page(
    record: Record, links: Served, rollout: Rollout, where: tuple[str, str, str, int], filters: RolloutFilter
) -> dict[str, Any]:
    """The values of one rollout's page: its own, its neighbours in the list, and the same case by other agents."""
    purpose, agent, *_ = where
    rows = record.rows()
    matches = [row for row in rows if filters.takes(row)]
    place = next((number for number, row in enumerate(matches) if row.where == where), None)
    here = next((row for row in rows if row.where == where), None)
    beside = {} if place is None else {"previous": place - 1, "next": place + 1}
    same = (row for row in rows if row.instance == (here and here.instance) and row.where != where)
    case, names = record.case(purpose, rollout.instance), record.names()
    return {
        "rollout": rollout,
        "here": here,
        "names": names,
        "beside": {
            name: f"{links.rollout(matches[number])}{_query(filters)}"
            for name, number in beside.items()
            if 0 <= number < len(matches)
        },
        "number": 0 if place is None else place + 1,
        "total": len(matches),
        "others": list(islice(same, OTHERS)),
        "metrics": bounded(rollout.metrics),
        "steps": rollout.step_rewards[:SHOWN],
        "purpose": purpose,
        "agent": _named(agent, names),
        "given": words.fields(case.input),
        "expected": [part for each in case.expected for part in words.value(each)],
        "talk": words.conversation(rollout.turns),
        "answer": words.answer(rollout.answer),
    }


def _filters(every: Sequence[Row], links: Served, filters: RolloutFilter) -> list[tuple[str, int, str, bool]]:
    """Each kind of result: name, number of rollouts, the address of its list, and if that is the list shown."""
    base = {key: value for key, value in asdict(filters).items() if key != "outcome"}
    others = RolloutFilter(**base)
    counts = Counter(row.failure for row in every if others.takes(row))
    kinds = [("all", "", counts.total()), *((kind, kind, counts[kind]) for kind in FAILURES)]
    return [(name, count, links.rollouts(**base, outcome=kind), kind == filters.outcome) for name, kind, count in kinds]


def _query(filters: RolloutFilter) -> str:
    parameters = {key: value for key, value in asdict(filters).items() if value}
    return f"?{urlencode(parameters)}" if parameters else ""


def _named(value: str, names: dict[str, str]) -> str:
    return f"{names[value]} ({value})" if value in names else value
