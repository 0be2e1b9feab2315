"""Does learning help the search? Entropic updates against sampling alone and against random plans.

    python tasks/trimul/bench/plans.py plans.json
    python tasks/trimul/bench/compare.py plans.json [--evaluations 256] [--seeds 5]

Rewards are read from a table in which every plan was measured, so that all searches meet
the same rewards and none costs the other's time. Each has the same number of evaluations:
``random`` draws plans evenly, ``best-of-n`` samples the policy ``tiny`` as it begins, and
``entropic`` trains it, in groups, on what its samples earned.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

import sia_trimul
from sia_core.learning import Request, Sample
from sia_core.plugins import Plugins

sys.path.insert(0, str(Path(sia_trimul.__file__).parent / "seed"))

import harness
import plans

GROUP, TOKENS, LAST = 16, 512, 32
CHECKED = (32, 64, 128, 256, 512)


class Table:
    """Measured speed-ups by plan, wrong ones at 0."""

    def __init__(self, path: Path) -> None:
        self._of = {key(each["plan"]): each["speedup"] for each in json.loads(path.read_text())}

    def __call__(self, plan: dict[str, str]) -> float:
        return float(self._of[key(plan)])

    @property
    def ranked(self) -> list[float]:
        return sorted(self._of.values(), reverse=True)


def key(plan: dict[str, str]) -> str:
    return " ".join(plan[name] for name in plans.FIELDS)


def randomly(table: Table, seed: int) -> Iterator[float]:
    rng = random.Random(seed)
    while True:
        yield table(plans.random_plan(rng))


def by_policy(table: Table, seed: int, algorithm: str | None) -> Iterator[float]:
    """Rewards of the policy's plans, a group at a time; with an algorithm, it learns from each group."""
    plugins = Plugins.discover()
    engine = plugins.create("engine", "torch", policy="tiny", seed=seed)
    learner = plugins.create("algorithm", algorithm, kl_weight=0.0) if algorithm else None
    prompt = engine.tokens.render([{"role": "user", "content": harness.PROMPT}])
    step = 0
    while True:
        seeds = range(seed * 10**6 + step * GROUP, seed * 10**6 + (step + 1) * GROUP)
        (drawn,) = engine.sample([Request(prompt, seeds, TOKENS, schema=plans.schema())])
        rewards = [table(json.loads(each.text)) for each in drawn]
        yield from rewards
        step += 1
        if learner is not None and len(set(rewards)) > 1:
            group = [
                Sample("plan", "agent", reward, [each.trace(prompt)])
                for each, reward in zip(drawn, rewards, strict=True)
            ]
            engine.forward_backward(learner.credit([group]), learner.loss, learner.config.model_dump())
            engine.optim_step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("--evaluations", type=int, default=256)
    parser.add_argument("--seeds", type=int, default=5)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    table = Table(asked.table)
    ranked = table.ranked
    print(f"{len(ranked)} plans: best {ranked[0]:.3f}, median {ranked[len(ranked) // 2]:.3f}\n")
    points = [each for each in CHECKED if each <= asked.evaluations]
    names = [f"best of {each}" for each in points]
    print(f"| search | seed | {' | '.join(names)} | mean of the last {LAST} | its best, as rank |")
    print("| --- " * (len(names) + 4) + "|")
    arms: dict[str, Any] = {
        "random": randomly,
        "best-of-n": lambda table, seed: by_policy(table, seed, None),
        "entropic": lambda table, seed: by_policy(table, seed, "entropic"),
    }
    for name, arm in arms.items():
        rows = []
        for seed in range(asked.seeds):
            rewards = [reward for _, reward in zip(range(asked.evaluations), arm(table, seed), strict=False)]
            best = max(rewards)
            row = [*(max(rewards[:point]) for point in points), fmean(rewards[-LAST:]), float(ranked.index(best) + 1)]
            rows.append(row)
            print(line(name, str(seed), row), flush=True)
        print(line(name, "mean", [fmean(column) for column in zip(*rows, strict=True)]), flush=True)


def line(name: str, seed: str, row: list[float]) -> str:
    return f"| {name} | {seed} | {' | '.join(f'{each:.3f}' for each in row[:-1])} | {row[-1]:.1f} |"


if __name__ == "__main__":
    main()
