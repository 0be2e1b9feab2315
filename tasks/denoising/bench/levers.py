"""What each lever earns on denoising: every arm with every seed, the differences between the arms, and MAGIC.

    python tasks/denoising/bench/levers.py [--data FILE] [--reward mse_norm] [--seeds 3] [--budget seconds=600]

An arm is a run of its own, with the levers that it names, at the same budget. A run that is in the
folder already is not run again. A run's figure is its best answer's mean over the sealed instances;
intervals are those of the mean over seeds (Student's t), since instances of a run share their cells.
``--budget verifications=N`` compares arms on a busy machine, where seconds would not.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from itertools import combinations
from math import sqrt
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from scipy.stats import t as student

from sia_core.ledger import Ledger
from sia_core.report import build

ARMS = ("harness", "weights", "harness,weights")


def run(arm: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """The run's report; made where it is not there, gone on with where it was stopped."""
    folder = options.runs_dir / f"{options.reward}-{arm.replace(',', '-')}-{seed}"
    if not list(folder.glob("denoising-*")):
        words = ["run", "--plugin", "denoising", "--levers", arm, "--seed", str(seed), "--budget", options.budget]
        words += ["--set", f"reward={options.reward}", *(["--data", str(options.data)] if options.data else [])]
    else:
        words = ["resume"]
    command = [sys.executable, "-m", "sia_core", *words, "--runs-dir", str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (made,) = folder.glob("denoising-*")
    with Ledger.read(made) as ledger:
        times = [at for _, _, at in ledger.events()]
        return {**build(ledger), "seconds": times[-1] - times[0]}


def row(arm: str, seed: int, report: dict[str, Any]) -> str:
    """A run as a line of the table."""
    first, final = (report["sealed"][which]["value"] for which in ("initial", "final"))
    kept = [each["algorithm"] or each["name"] for each in report["generations"] if each["accepted"]]
    trained = sum(1 for each in report["generations"] if each["algorithm"])
    return (
        f"| {arm} | {seed} | {first:.4f} | {final:.4f} | {', '.join(kept) or 'none'} | {trained} "
        f"| {report['seconds']:.0f} s |"
    )


def interval(values: list[float]) -> str:
    """A mean with the 95% interval of Student's t."""
    if len(values) < 2:
        return f"{values[0]:+.4f}"
    half = student.ppf(0.975, len(values) - 1) * stdev(values) / sqrt(len(values))
    return f"{fmean(values):+.4f} [{fmean(values) - half:+.4f}, {fmean(values) + half:+.4f}]"


def main() -> None:
    """Print the table of runs, then means and differences of the arms."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a file of counts; without it, the made-up tissue")
    parser.add_argument("--reward", default="mse_norm")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--budget", default="seconds=600", help="each run's")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs/denoising-levers"))
    options = parser.parse_args()
    options.data = options.data.absolute() if options.data else None
    found: dict[str, list[float]] = {arm: [] for arm in ARMS}
    print(
        f"| levers | seed | first agent's answer | best answer, sealed {options.reward} | promoted | updates | took |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for seed in range(options.seeds):
        for arm in ARMS:
            report = run(arm, seed, options)
            found[arm].append(report["sealed"]["final"]["value"])
            print(row(arm, seed, report), flush=True)
    print("\n| arm | mean over seeds [95%] |\n| --- | --- |")
    for arm, values in found.items():
        print(f"| {arm} | {interval(values)} |")
    for less, more in combinations(ARMS, 2):
        print(f"| {more} less {less} | {interval([b - a for a, b in zip(found[less], found[more], strict=True)])} |")


if __name__ == "__main__":
    main()
