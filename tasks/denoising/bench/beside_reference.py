"""MAGIC here beside the reference package: agreement, seconds and memory, interleaved on two threads.

    python tasks/denoising/bench/beside_reference.py [--counts FILE.npz] [--rounds 3] [--large]

``pip install sia-denoising[test]`` brings the reference. Each measurement is a process of
its own; memory is what the process came to hold at most, above what it held before it
began. ``--large`` runs 20,000 cells x 15,000 genes through this implementation alone.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from statistics import median
from typing import Any

THREADS = 2


def prepared(counts: Any) -> Any:
    """Counts scaled to the median depth, square-rooted: what both are given."""
    import numpy as np
    from scipy import sparse

    depth = np.asarray(counts.sum(axis=1)).ravel()
    values = sparse.csr_matrix(sparse.diags(np.median(depth) / depth) @ counts)
    values.data = np.sqrt(values.data)
    return values


def one(which: str, counts: Path, result: Path | None) -> None:
    """Run one implementation; print its seconds and the bytes that it took, and keep what it made."""
    import numpy as np
    from scipy import sparse

    warnings.simplefilter("ignore")
    given = sparse.load_npz(counts)
    values = prepared(given)
    if which == "here":
        from sia_denoising.magic import Magic

        operator: Any = Magic(threads=THREADS).impute
    else:
        import magic

        operator = magic.MAGIC(random_state=0, n_jobs=THREADS, verbose=0).fit_transform
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    made = operator(values)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if result:
        np.save(result, np.asarray(made, dtype=np.float32))
    print(json.dumps({"seconds": seconds, "bytes": 1024 * (peak - before), "peak": 1024 * peak}))


def measured(which: str, counts: Path, result: Path | None = None) -> dict[str, float]:
    """One implementation in a separate process."""
    command = [sys.executable, __file__, "--one", which, "--counts", str(counts)]
    command += ["--result", str(result)] if result else []
    limits = {f"{name}_NUM_THREADS": str(THREADS) for name in ("OMP", "OPENBLAS", "MKL", "NUMBA")}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, **limits})
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def beside(name: str, counts: Path, rounds: int, folder: Path) -> str:
    """A row of the table: both implementations on some counts."""
    import numpy as np

    of: dict[str, list[dict[str, float]]] = {"here": [], "reference": []}
    for _ in range(rounds):
        for which, all_rounds in of.items():
            all_rounds.append(measured(which, counts, folder / f"{which}.npy"))
    ours, theirs = np.load(folder / "here.npy"), np.load(folder / "reference.npy")
    apart = float(np.abs(ours - theirs).mean() / np.abs(theirs).mean())
    seconds = {which: median(each["seconds"] for each in found) for which, found in of.items()}
    ratio = median(b["seconds"] / a["seconds"] for a, b in zip(of["here"], of["reference"], strict=True))
    memory = {which: median(each["bytes"] for each in found) / 2**20 for which, found in of.items()}
    return (
        f"| {name} | {apart:.1e} | {seconds['here']:.2f} s | {seconds['reference']:.2f} s | {ratio:.1f} "
        f"| {memory['here']:.0f} MiB | {memory['reference']:.0f} MiB |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=Path, help="counts as .npz, beside the generator's")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--one", choices=["here", "reference"], help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        one(options.one, options.counts, options.result)
        return
    from scipy import sparse

    from sia_denoising.counts import read_counts
    from sia_denoising.generator import Generator

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        sets = {f"generator, {cells:,} cells": Generator(cells=cells).draw(0).counts for cells in (600, 3_000)}
        if options.counts:
            sets[options.counts.stem] = read_counts(options.counts)
        print("| counts | mean difference | here | reference | times as fast | memory here | reference |")
        print("| --- | --- | --- | --- | --- | --- | --- |")
        for name, counts in sets.items():
            sparse.save_npz(folder / "counts.npz", sparse.csr_matrix(counts))
            print(beside(name, folder / "counts.npz", options.rounds, folder), flush=True)
        if options.large:
            large = Generator(cells=20_000, genes=15_000, depth=5_000).draw(0, truth=False).counts
            sparse.save_npz(folder / "counts.npz", sparse.csr_matrix(large))
            found = measured("here", folder / "counts.npz")
            print(f"\n20,000 x 15,000: {found['seconds']:.0f} s, {found['peak'] / 2**30:.1f} GiB at most")


if __name__ == "__main__":
    main()
