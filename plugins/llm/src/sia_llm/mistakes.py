"""The most frequent mistakes of an agent, where the task shows the right answers of its search cases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from sia_core.errors import excerpt
from sia_core.evidence import Evidence
from sia_core.run.run_view import RunView
from sia_llm.quoting import fenced
from sia_llm.toolbox import SHOWN
from sia_reading.outcomes import Confusion, best_reward, confusions, failure_of, labels, words
from sia_runtime.answers import value_of

MOST = 10
"""Pairs that are shown."""

LONGEST = 80
"""Characters of an answer in one."""


def mistakes(run: RunView, evidence: Evidence) -> list[Confusion]:
    """Right answers of search cases, each with what the incumbent answered instead: those that occur repeatedly."""
    right, rollouts = labels(run.labelled(), run.instances.values()), run.rollouts(evidence.incumbent)
    best = best_reward(asdict(evidence.metric), (each.reward for each in rollouts))
    wrong = [each for each in rollouts if failure_of(each.outcome, each.reward, best) == "wrong"]
    pairs = confusions([(right[each.instance], value_of(each.answer)) for each in wrong if each.instance in right])
    return [each for each in pairs if each.count > 1]


def in_words(pairs: Sequence[Confusion]) -> str:
    """The most frequent ones, a row each."""
    rows = [f"{each.count} times: {_short(each.expected)} -> {_short(each.answer)}" for each in pairs[:MOST]]
    rest = f"\n{len(pairs) - MOST} more pairs occur at least twice." if len(pairs) > MOST else ""
    about = "right answer -> given answer"
    return fenced("\n".join(rows), about, SHOWN, by="from the task's data and the agent under test") + rest


def _short(value: object) -> str:
    return excerpt(" ".join(words(value).split()), LONGEST)
