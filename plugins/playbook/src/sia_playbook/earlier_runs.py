"""The records of earlier runs, for improvers that learn from them. A sealed score is never read.

A folder of runs may come from anywhere. A run that cannot be read, or whose records make no
sense, teaches nothing, and its reader is told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from sia_core.errors import LedgerError
from sia_core.evidence import RewardStats, reward_stats
from sia_core.run.ledger import Ledger, readable
from sia_core.run.record import RunRecord
from sia_core.run.run_folders import runs_in
from sia_core.values import LARGEST_REWARD
from sia_playbook.belief import Try, variance

T = TypeVar("T")


def folders_of(runs: str) -> list[Path]:
    """The folders that the setting ``runs`` names, separated by commas."""
    return [Path(each.strip()) for each in runs.split(",") if each.strip()]


def read_runs(
    folders: Sequence[Path], read: Callable[[RunRecord], Sequence[T]], notice: Callable[[str], object]
) -> Iterator[T]:
    """All that ``read`` finds in the runs of these folders."""
    for run in (run for folder in folders for run in runs_in(folder)):
        try:
            with Ledger.read(run) as ledger, readable(run):
                rows = read(RunRecord(ledger))
        except LedgerError as error:
            where = "" if str(run) in str(error) else f"{run}: "
            notice(f"an earlier run teaches nothing: {where}{error}")
        else:
            yield from rows


def searched(record: RunRecord, agent: str) -> RewardStats | None:
    """How an agent's rewards on the search sample are distributed; None where it was not rolled out there."""
    rollouts = record.rollouts("search", agent)
    failed = [each.reward for each in rollouts if each.outcome != "ok"]
    return reward_stats(rollouts, min(failed, default=0.0)) if rollouts else None


def explored(record: RunRecord, agent: str) -> RewardStats | None:
    """The same over groups of rollouts; None where it was not explored."""
    row = record.explored(agent)
    return stats_of(row["stats"]) if row else None


def tries_in(record: RunRecord, task: str) -> list[Try]:
    """The changes that a run of a task tried; none where it is of another task.

    Updates of early versions are left out: they learned from the instances on which they were estimated.
    """
    run = record.run
    rows = record.candidates() if run and run["task"] == task else []
    early = run is not None and run["config"]["plan"].get("earned") is None
    stats = cache(lambda agent: searched(record, agent))
    groups = cache(lambda agent: explored(record, agent))
    tries = []
    for row in rows:
        parent, agent = stats(str(row["parent"])), stats(str(row["agent"]))
        if parent and (agent or row["outcome"] == "failed") and not (early and row["algorithm"]):
            gain = agent.mean - parent.mean if agent else None
            noise = variance(parent) + variance(agent or parent)
            name, exploration = str(row["algorithm"] or row["name"]), groups(str(row["parent"]))
            tries.append(Try(str(row["lever"]), name, gain, noise, parent.mean, exploration, own=False))
    return tries


def try_of(row: Mapping[str, Any]) -> Try:
    """A try from its JSON; ValueError where it is none."""
    trial = Try(**{**row, "exploration": row["exploration"] and stats_of(row["exploration"])})
    _check(trial.gain or 0.0, trial.variance, trial.estimate)
    if trial.variance < 0 or not isinstance(trial.name, str):
        raise ValueError("no change was tried so")
    return trial


def stats_of(row: Mapping[str, Any]) -> RewardStats:
    """Statistics from their JSON; ValueError where rewards cannot have them."""
    stats = RewardStats(**row)
    flat = stats.flat_groups or 0.0
    _check(*astuple(replace(stats, flat_groups=flat, kl_to_base=stats.kl_to_base or 0.0)))
    if not (0 <= flat <= 1 and stats.deviation >= 0 and stats.instances >= 1):
        raise ValueError("no rewards have these statistics")
    return stats


def _check(*numbers: Any) -> None:
    if not all(isinstance(each, int | float) and abs(each) <= LARGEST_REWARD**2 for each in numbers):
        raise ValueError("a figure is no number that a run records")
