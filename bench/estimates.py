"""Whether estimates of trained agents hold: their change on held-out search beside the same change on the gate.

    python bench/estimates.py FOLDER [FOLDER ...]

Reads every run beneath the folders. A line is an update that the gate compared on all its
instances, with its changes against its parent, both paired by instance.
"""

from __future__ import annotations

import argparse
import math
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

from sia_core.evidence import Rollout
from sia_core.run.intervals import Interval, normal
from sia_core.run.ledger import Ledger
from sia_core.run.record import RunRecord

HEADER = "| run | update | change on held-out search [95%] | change on the gate [95%] | search less gate [95%] |"


def change(before: list[Rollout], after: list[Rollout]) -> Interval:
    """The mean change over the instances of both, each instance's mean over its rollouts."""
    old, new = by_instance(before), by_instance(after)
    return normal([new[instance] - old[instance] for instance in new if instance in old])


def by_instance(rollouts: list[Rollout]) -> dict[str, float]:
    rewards = defaultdict(list)
    for each in rollouts:
        rewards[each.instance].append(each.reward)
    return {instance: fmean(each) for instance, each in rewards.items()}


def updates(folder: Path) -> Iterator[tuple[str, Interval, Interval]]:
    """The name and both changes of each update of a run whose estimates are of instances held out of training."""
    with Ledger.read(folder) as ledger:
        record = RunRecord(ledger)
        if not record.gate.get("held_out"):
            return
        first = (record.draft or "")[:12]
        for row in record.candidates():
            gate, parent = row["gate"], row["parent"] or first
            if row["lever"] == "weights" and gate and gate["n"] == gate.get("planned"):
                trained = row["agent"] or ""
                sides = [
                    change(record.rollouts(purpose, parent), record.rollouts(purpose, trained))
                    for purpose in ("search", "gate")
                ]
                yield row["algorithm"] or "", sides[0], sides[1]


def cell(value: float, half: float) -> str:
    return f"{value:+.4f} [{value - half:+.4f}, {value + half:+.4f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    paths = sorted({path.parent for folder in parser.parse_args().folders for path in folder.rglob("ledger.db")})
    print(HEADER, "| --- | --- | --- | --- | --- |", sep="\n")
    gaps, runs = [], set()
    for folder in paths:
        for name, search, gate in updates(folder):
            halves = [each.ci95[1] - each.value for each in (search, gate)]
            gap, half = search.value - gate.value, math.hypot(*halves)
            sides = [cell(each.value, each_half) for each, each_half in zip((search, gate), halves, strict=True)]
            print(f"| {folder.parent.name}/{folder.name} | {name} | {sides[0]} | {sides[1]} | {cell(gap, half)} |")
            gaps.append((gap, abs(gap) <= half))
            runs.add(folder)
    if gaps:
        agree, mean = sum(agrees for _, agrees in gaps), fmean(gap for gap, _ in gaps)
        print(
            f"\n{agree} of {len(gaps)} updates of {len(runs)} runs agree; search less gate is {mean:+.4f} in the mean."
        )


if __name__ == "__main__":
    main()
