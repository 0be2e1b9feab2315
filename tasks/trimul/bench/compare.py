"""Does learning help the search? Entropic updates against sampling alone and against random plans.

    python tasks/trimul/bench/compare.py tasks/trimul/results/plans.json [--evaluations 256] [--seeds 5]

A plan is measured once and its reward kept in the file, so that all searches meet the same
rewards and none costs the other's time. Each has the same number of evaluations:
``random`` draws plans evenly, ``best-of-n`` samples the policy ``tiny`` as it begins, and
``entropic`` trains it, in groups, on what its samples earned. Each search's answer is
chosen among its best plans as a run chooses one, on other inputs, and measured on yet others.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

import sia_trimul
from sia_core.learning import Request, Sample
from sia_core.plugins import Plugins
from sia_core.run.discover import ROUNDS, ValidAnswer, best_of

sys.path.insert(0, str(Path(sia_trimul.__file__).parent / "seed"))

import harness
import plans
from rewards import Rewards

GROUP, TOKENS, LAST = 16, 512, 32
CHOSEN_ON, MEASURED_ON = [[str(seed) for seed in range(first, first + 24)] for first in (1000, 2000)]
"""Seeds of inputs."""

Earned = tuple[float, dict[str, str]]
"""A plan's reward, and the plan."""

CHECKED = (32, 64, 128, 256, 512)


def randomly(rewards: Rewards, seed: int) -> Iterator[Earned]:
    rng = random.Random(seed)
    while True:
        plan = plans.random_plan(rng)
        yield rewards(plan), plan


def by_policy(rewards: Rewards, seed: int, algorithm: str | None) -> Iterator[Earned]:
    """The policy's plans, a group at a time; with an algorithm, it learns from each group."""
    plugins = Plugins.discover()
    engine = plugins.create("engine", "torch", policy="tiny", seed=seed)
    learner = plugins.create("algorithm", algorithm, kl_weight=0.0) if algorithm else None
    prompt = engine.tokens.render([{"role": "user", "content": harness.PROMPT}])
    step = 0
    while True:
        seeds = range(seed * 10**6 + step * GROUP, seed * 10**6 + (step + 1) * GROUP)
        (drawn,) = engine.sample([Request(prompt, seeds, TOKENS, schema=plans.schema())])
        named = [json.loads(each.text) for each in drawn]
        earned = [rewards(plan) for plan in named]
        yield from zip(earned, named, strict=True)
        step += 1
        if learner is not None and len(set(earned)) > 1:
            group = [
                Sample("plan", "agent", reward, [each.trace(prompt)])
                for each, reward in zip(drawn, earned, strict=True)
            ]
            engine.forward_backward(learner.credit([group]), learner.loss, learner.config.model_dump())
            engine.optim_step()


def answered(rewards: Rewards, found: Sequence[Earned]) -> float:
    """A search answer's reward on inputs that neither the search nor the choice of the answer saw."""
    plan_of = {json.dumps(plan): (reward, plan) for reward, plan in found}
    best_first = sorted(plan_of, key=lambda text: -plan_of[text][0])[: ROUNDS[0][0]]
    finalists = [ValidAnswer(text, plan_of[text][0], "", "", None) for text in best_first]

    def score(each: ValidAnswer, seeds: Sequence[str]) -> list[float]:
        return [rewards.on(plan_of[each.answer][1], int(seed)) for seed in seeds]

    best, _ = best_of(finalists, CHOSEN_ON, score)
    return fmean(score(best, MEASURED_ON))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rewards", type=Path)
    parser.add_argument("--evaluations", type=int, default=256)
    parser.add_argument("--seeds", type=int, default=5)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rewards = Rewards(asked.rewards)
    points = [each for each in CHECKED if each <= asked.evaluations]
    names = [*(f"best of {each}" for each in points), "answer on other inputs", f"mean of the last {LAST}"]
    print(f"| search | seed | {' | '.join(names)} |")
    print("| --- " * (len(names) + 2) + "|")
    arms: dict[str, Any] = {
        "random": randomly,
        "best-of-n": lambda rewards, seed: by_policy(rewards, seed, None),
        "entropic": lambda rewards, seed: by_policy(rewards, seed, "entropic"),
    }
    for name, arm in arms.items():
        rows = []
        for seed in range(asked.seeds):
            found = list(islice(arm(rewards, seed), asked.evaluations))
            earned = [reward for reward, _ in found]
            row = [*(max(earned[:point]) for point in points), answered(rewards, found), fmean(earned[-LAST:])]
            rows.append(row)
            print(line(name, str(seed), row), flush=True)
            rewards.keep()
        print(line(name, "mean", [fmean(column) for column in zip(*rows, strict=True)]), flush=True)


def line(name: str, seed: str, row: list[float]) -> str:
    return f"| {name} | {seed} | {' | '.join(f'{each:.3f}' for each in row)} |"


if __name__ == "__main__":
    main()
