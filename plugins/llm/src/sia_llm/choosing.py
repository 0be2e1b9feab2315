"""Which model proposes, where a run has several: drawn by weights, or by what each gained for its cost."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from sia_core.evidence import Evidence
from sia_core.run import record
from sia_core.run.record import RunRecord
from sia_llm.models import Usage
from sia_llm.prompts import DECIDER

Choice = Literal["weights", "ucb"]


@dataclass(frozen=True)
class Past:
    """A model's conversations so far, the gains on search of what they proposed, and their dollars and tokens."""

    conversations: int = 0
    gain: float = 0.0
    dollars: float = 0.0
    tokens: int = 0


def chosen(choice: Choice, weights: Mapping[str, float], count: int, evidence: Evidence, run: RunRecord) -> list[str]:
    """A model for each of ``count`` conversations of a generation. The same run and seed, the same models."""
    if choice == "weights":
        seeded = random.Random(f"models {evidence.seed} {evidence.generation}")
        return seeded.choices(list(weights), list(weights.values()), k=count)
    return by_ucb({name: past(name, evidence, run) for name in weights}, count)


def by_ucb(history: Mapping[str, Past], count: int) -> list[str]:
    """The models of the highest upper confidence bounds, after UCB1 (Auer et al. 2002) as ShinkaEvolve applies it.

    A model's worth is its gain for a dollar as a share of the best one's; for a token, where none costs anything. Its
    bound adds sqrt(2 ln N / n), with its own n of N conversations. One that was not asked yet comes first; of equal
    ones the first that was named.
    """
    dollars = any(each.dollars for each in history.values())
    rates = {name: _rate(each.gain, each.dollars if dollars else each.tokens) for name, each in history.items()}
    most = max(rates.values()) or 1.0
    now = dict(history)
    names = []
    for _ in range(count):
        total = sum(each.conversations for each in now.values())
        bounds = {name: rates[name] / most + _bonus(each.conversations, total) for name, each in now.items()}
        names.append(max(bounds, key=lambda name: bounds[name]))
        now[names[-1]] = replace(now[names[-1]], conversations=now[names[-1]].conversations + 1)
    return names


def _rate(gain: float, cost: float) -> float:
    return gain / cost if cost else 0.0


def _bonus(own: int, total: int) -> float:
    return math.sqrt(2 * math.log(total) / own) if own else math.inf


def past(model: str, evidence: Evidence, run: RunRecord) -> Past:
    """A model's record in the generations before this one.

    Replies that came too late and calls that failed are left out: they depend on time, and a replay has none of them.
    So are the verdicts of a model on what another proposed.
    """
    conversations, gain, dollars, tokens = 0, 0.0, 0.0, 0
    of: dict[str, str] = {}
    for index in range(evidence.generation):
        row = run.get(record.proposers(index)) or {"asked": [], "made": []}
        conversations += row["asked"].count(model)
        trials = [trial for trial in evidence.trials if trial.generation == index]
        gain += sum(
            max(0.0, trial.gain or 0.0) for trial, who in zip(trials, row["made"], strict=False) if who == model
        )
    earlier = tuple(f"{record.CALLS}{record.generation(index)}/" for index in range(evidence.generation))
    for call, what, row in run.calls():
        if what == "intent":
            of[call] = row["model"]
        if DECIDER in call.split("/"):
            continue
        if what == "reply" and "late" not in row and of.get(call) == model and call.startswith(earlier):
            used = Usage(**row["reply"]["usage"])
            dollars, tokens = dollars + row["dollars"], tokens + used.read + used.output
    return Past(conversations, gain, dollars, tokens)


def parsed(text: str) -> dict[str, float]:
    """Models and their weights from ``NAME=WEIGHT,NAME=WEIGHT``; without a weight, 1. ValueError where it is none."""
    weights: dict[str, float] = {}
    for part in filter(None, (each.strip() for each in text.split(","))):
        name, _, weight = part.rpartition("=") if "=" in part else (part, "", "1")
        if not name or name in weights:
            raise ValueError(f"{part!r}: name each model once, as in MODEL=3,OTHER=1")
        try:
            weights[name] = float(weight)
        except ValueError:
            raise ValueError(f"{part!r}: the weight of {name} is not a number") from None
        if not 0 < weights[name] < math.inf:
            raise ValueError(f"{part!r}: the weight of {name} is not above 0")
    return weights


def drawn(counts: Sequence[int], models: Sequence[str]) -> list[str]:
    """The model of each candidate, from how many each conversation made."""
    return [name for name, count in zip(models, counts, strict=True) for _ in range(count)]
