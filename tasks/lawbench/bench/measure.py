"""Measures harnesses of the catalogue on labelled cases; never opens the sealed ones.

    python tasks/lawbench/bench/measure.py                                # each edit alone: public -> gate
    python tasks/lawbench/bench/measure.py linear-svc+c-10                 # a composition: public -> gate
    python tasks/lawbench/bench/measure.py --folds 5 linear-svc           # cross-validation on all labelled cases

It runs harnesses in its own process, without a sandbox: for the edits of this
catalogue alone, not for a harness that somebody else wrote.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace

from sia_core.harness import HarnessTree, applies, apply_edits
from sia_lawbench.data import Case, Data
from sia_lawbench.source import locate
from sia_lawbench.task import LawBench

SEED = "seed"


@contextmanager
def imported(tree: HarnessTree) -> Iterator[ModuleType]:
    """The entry module of a harness, forgotten again afterwards with all that it brought along."""
    with tempfile.TemporaryDirectory() as folder:
        tree.write_to(Path(folder))
        sys.path.insert(0, folder)
        importlib.invalidate_caches()
        try:
            yield importlib.import_module(tree.manifest.entry.removesuffix(".py"))
        finally:
            sys.path.remove(folder)
            for path in tree.files:
                sys.modules.pop(path.removesuffix(".py"), None)


def composition(task: LawBench, names: Sequence[str]) -> HarnessTree:
    """The seed harness after some edits, in order."""
    edits = {entry.name: entry.change for entry in task.playbook().edit}
    tree = task.seed_harness()
    for name in names:
        tree = apply_edits(tree, edits[name])
    return tree


def solve_all(
    tree: HarnessTree, charges: Sequence[str], known: Sequence[Case], asked: Sequence[Case]
) -> tuple[list[str], float, float]:
    """The charges it named, the seconds of the set-up, and the seconds of a case."""
    with tempfile.TemporaryDirectory() as folder, imported(tree) as harness:
        public = Path(folder)
        lines = (json.dumps(vars(case), ensure_ascii=False) + "\n" for case in known)
        (public / "cases.jsonl").write_text("".join(lines), encoding="utf-8")
        (public / "charges.json").write_text(json.dumps(charges, ensure_ascii=False), encoding="utf-8")
        ctx = SimpleNamespace(public=public, state=None, has_model=False)
        start = time.perf_counter()
        ctx.state = harness.setup(ctx)
        ready = time.perf_counter()
        answers = [harness.solve(SimpleNamespace(input={"text": case.text}), ctx)["charge"] for case in asked]
        done = time.perf_counter()
    return answers, ready - start, (done - ready) / len(asked)


def runs(data: Data, folds: int) -> list[tuple[list[Case], list[Case]]]:
    """Cases to learn from and to ask: public and gate, or each fold of all labelled cases."""
    if not folds:
        return [(list(data.labelled["public"]), list(data.labelled["gate"]))]
    # In the order of charge and content-derived id, every k-th case makes a stratified fold.
    every = [case for cases in data.labelled.values() for case in cases]
    every.sort(key=lambda case: (case.charge, case.id))
    return [
        ([case for index, case in enumerate(every) if index % folds != fold], every[fold::folds])
        for fold in range(folds)
    ]


def main() -> None:
    """Print one line a harness."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("compositions", nargs="*", help="edits joined by +, or 'seed'; default: each edit alone")
    parser.add_argument("--folds", type=int, default=0, help="cross-validate on all labelled cases")
    parser.add_argument("--seed", type=int, default=0, help="the task's seed, which decides the splits")
    parser.add_argument("--data", help="a folder with a local copy of the data")
    options = parser.parse_args()
    task, data = LawBench(options.data, options.seed), Data(locate(options.data), options.seed)
    for name in options.compositions or alone(task):
        tree = composition(task, [part for part in name.split("+") if part != SEED])
        right: list[bool] = []
        setup, solve = 0.0, 0.0
        for known, asked in runs(data, options.folds):
            answers, setup, solve = solve_all(tree, data.charges, known, asked)
            right += [answer == case.charge for answer, case in zip(answers, asked, strict=True)]
        times = f"set-up {setup:5.1f} s  solve {1000 * solve:5.2f} ms"
        print(f"{name:42s} top1 {sum(right) / len(right):.4f}  {times}", flush=True)


def alone(task: LawBench) -> list[str]:
    """Each edit alone on the seed harness, or on the linear classifier where it needs that one."""
    seed = task.seed_harness()
    return [SEED] + [
        entry.name if applies(seed, entry.change) else f"linear-svc+{entry.name}" for entry in task.playbook().edit
    ]


if __name__ == "__main__":
    # Set-up and solving have one core in the sandbox.
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = "1"
    main()
