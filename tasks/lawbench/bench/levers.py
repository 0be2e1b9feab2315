"""Each lever's score on LawBench: every arm with every seed, and the differences between the arms.

    python tasks/lawbench/bench/levers.py [--arms harness ...] [--seeds 3] [--seconds 420] [--runs-dir runs/levers]

An arm is a separate run with the levers that it names, at the same safety stop in seconds.
A run that is already in the folder is not repeated. Differences are paired: the same 913
sealed cases, each case's mean over the seeds, with the interval of the mean over cases.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections import defaultdict
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

from sia_core.evidence import Rollout
from sia_core.run.intervals import normal
from sia_core.run.ledger import Ledger
from sia_reading.report import build

ARMS = ("weights", "harness", "harness,weights")


def run(arm: str, seed: int, seconds: int, folder: Path) -> Path:
    """The run's folder, made if it is missing; a run that was stopped is resumed."""
    if not list(folder.glob("lawbench-*")):
        words = ["run", "--plugin", "lawbench", "--levers", arm, "--seed", str(seed)]
        words += ["--generations", "16", "--budget", f"seconds={seconds}"]
    else:
        words = ["resume"]
    command = [sys.executable, "-m", "sia_cli", *words, "--runs-dir", str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (made,) = folder.glob("lawbench-*")
    return made


def look(folder: Path) -> tuple[dict[str, Any], dict[str, float]]:
    """A run's report, with the seconds that it took, and the final agent's rewards on the sealed cases."""
    with Ledger.read(folder) as ledger:
        report = build(ledger)
        times = [at for _, _, at in ledger.events()]
        promoted = [each["agent"] for each in report["generations"] if each["accepted"]]
        final = f"{promoted[-1]}/" if promoted else ""  # the only one there is
        batches = [batch for _, batch, _ in ledger.events(f"rollouts/sealed/{final}")]
    rollouts = [Rollout.from_json(each) for batch in batches for each in batch["rollouts"]]
    return {**report, "seconds": times[-1] - times[0]}, {each.instance: each.reward for each in rollouts}


def row(arm: str, seed: int, report: dict[str, Any]) -> str:
    """A run as a line of the table."""
    first, final = report["sealed"]["initial"], report["sealed"]["final"]
    kept = [each["algorithm"] or each["name"] for each in report["generations"] if each["accepted"]]
    tried = [each["algorithm"] for each in report["generations"] if each["algorithm"] and not each["accepted"]]
    low, high = final["ci95"]
    changes = ", ".join(kept) + (f" (not promoted: {', '.join(tried)})" if tried else "")
    return (
        f"| {arm} | {seed} | {first['value']:.4f} | {final['value']:.4f} [{low:.4f}, {high:.4f}] | {changes} "
        f"| {report['seconds']:.0f} s |"
    )


def main() -> None:
    """Print the table of runs, then the table of differences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=420, help="each run's budget")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs/levers"))
    options = parser.parse_args()
    rewards: dict[str, dict[str, list[float]]] = {arm: defaultdict(list) for arm in options.arms}
    print("| levers | seed | first agent | final agent, sealed top-1 [95%] | promoted, in order | took |")
    print("| --- | --- | --- | --- | --- | --- |")
    for seed in range(options.seeds):
        for arm in options.arms:
            folder = options.runs_dir / f"{arm.replace(',', '-')}-{seed}"
            report, sealed = look(run(arm, seed, options.seconds, folder))
            for case, reward in sealed.items():
                rewards[arm][case].append(reward)
            print(row(arm, seed, report), flush=True)
    print("\n| difference | mean over cases and seeds [95%] |\n| --- | --- |")
    for less, more in combinations(options.arms, 2):
        a, b = ([fmean(rewards[arm][case]) for case in sorted(rewards[arm])] for arm in (less, more))
        paired = normal([after - before for before, after in zip(a, b, strict=True)])
        print(f"| {more} less {less} | {paired.value:+.4f} [{paired.ci95[0]:+.4f}, {paired.ci95[1]:+.4f}] |")


if __name__ == "__main__":
    main()
