"""Plans of the seed harness beside MAGIC: every metric, and the true error where the truth is known.

    python tasks/denoising/bench/methods.py [--data FILE]... [--denoiser FILE]... [--draws 3]

Without ``--data`` it measures on made-up tissues of several kinds. ``--denoiser`` is a module with
``denoise(counts)``, such as ``sia export`` writes, measured beside the plans. It runs them in its
own process, without a sandbox: for modules that you have read.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from sia_denoising.counts import read_counts
from sia_denoising.generator import Generator
from sia_denoising.magic import Magic
from sia_denoising.metrics import Judge, deal
from sia_denoising.task import HERE

AVERAGES = {"components": "20", "neighbours": "10", "t": "2"}
COUNTED = {**AVERAGES, "posterior": "nb", "scales": "2", "rank": "8"}

DEPTHS = ("0.6", "0.8", "1", "1.25", "2")

PLANS: Mapping[str, Mapping[str, str]] = {
    "MAGIC by plan": {},
    "average shares": {**AVERAGES, "output": "rates"},
    "average shares, gamma posterior": {**COUNTED, "output": "rates"},
    **{f"expected logarithm at depth {depth}": {**COUNTED, "output": depth} for depth in DEPTHS},
    "expected logarithm, no posterior": {**AVERAGES, "output": "1"},
}

TISSUES = {
    "made-up tissue": Generator(cells=300),
    "deep and dispersed": Generator(cells=300, depth=24_000, dispersion=0.6),
    "shallow, many programs": Generator(cells=300, depth=2_000, programs=16),
    "uneven genes": Generator(cells=300, spread=2.2),
    "dropout": Generator(cells=300, dropout=0.2),
}

COLUMNS = ("mse_norm", "poisson_norm", "balanced", "mass_lifted", "surprise", "true_mse", "true_kl")

Denoise = Callable[[Any], Any]


def methods(files: list[Path]) -> dict[str, Denoise]:
    """Everything that is measured, by name."""
    sys.path.insert(0, str(HERE / "seed"))
    harness = importlib.import_module("harness")
    found: dict[str, Denoise] = {"MAGIC": Magic().denoise}
    for name, plan in PLANS.items():
        found[name] = loaded(harness.render(harness.plans.settled(plan))["code"])
    return {**found, **{path.name: loaded(path.read_text(encoding="utf-8")) for path in files}}


def loaded(code: str) -> Denoise:
    """The function of a module."""
    names: dict[str, Any] = {"__name__": "denoiser"}
    exec(code, names)
    made: Denoise = names["denoise"]
    return made


def sets(files: list[Path], draws: int) -> Iterator[tuple[str, list[Judge]]]:
    """The data, each with some draws of its molecules."""
    for path in files:
        counts = read_counts(path)
        yield path.name, [Judge(*deal(counts, np.random.default_rng(draw))[:2]) for draw in range(draws)]
    if not files:
        for name, tissue in TISSUES.items():
            judges = []
            for draw in range(draws):
                made = tissue.draw(draw)
                train, test, genes = deal(made.counts, np.random.default_rng(draw))
                assert made.rates is not None
                judges.append(Judge(train, test, made.rates[:, genes]))
            yield name, judges


def row(name: str, denoise: Denoise, judges: list[Judge]) -> str:
    """A line of the table: means over the draws."""
    found, faults, start = [], set[str](), time.perf_counter()
    for judge in judges:
        made = denoise(judge.train.astype(np.int32))
        faults.add(judge.fault(made))
        found.append(judge.measure(made))
    seconds = (time.perf_counter() - start) / len(judges)
    known = [f"{fmean(each[column] for each in found):.3f}" if column in found[0] else "" for column in COLUMNS]
    return f"| {name} | {' | '.join(known)} | {seconds:.1f} s | {'refused' if faults - {''} else ''} |"


def main() -> None:
    """Print a table for each set of data."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, action="append", default=[])
    parser.add_argument("--denoiser", type=Path, action="append", default=[])
    parser.add_argument("--draws", type=int, default=3)
    options = parser.parse_args()
    measured = methods(options.denoiser)
    for name, judges in sets(options.data, options.draws):
        print(f"\n{name}: {judges[0].train.shape[0]} cells x {judges[0].train.shape[1]} genes, {len(judges)} draws\n")
        print(f"| method | {' | '.join(COLUMNS)} | took | |\n| --- |{' --- |' * (len(COLUMNS) + 2)}")
        for method, denoise in measured.items():
            print(row(method, denoise, judges), flush=True)


if __name__ == "__main__":
    main()
