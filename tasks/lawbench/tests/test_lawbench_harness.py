"""The seed harness and the catalogue of edits: each applies somewhere, runs, and stays within bounds."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import permutations
from pathlib import Path
from statistics import fmean
from types import ModuleType

import pytest

from sia_core.harness import HarnessTree, applies, apply_edits
from sia_core.playbook import Playbook
from sia_lawbench.data import Data
from sia_lawbench.source import locate
from sia_lawbench.task import HERE, LawBench

PLAYBOOK = Playbook.from_toml(HERE / "playbook.toml")
SEED = HarnessTree.from_folder(HERE / "seed")
EDITS = {entry.name: entry.change for entry in PLAYBOOK.edit}
CLASSIFIERS = [entry.name for entry in PLAYBOOK.edit if entry.family == "classifier"]
ON_SEED = [name for name, edits in EDITS.items() if applies(SEED, edits)]
LINEAR = apply_edits(SEED, EDITS["linear-svc"])
ON_LINEAR = [name for name, edits in EDITS.items() if applies(LINEAR, edits) and name not in CLASSIFIERS]


def composed(*names: str) -> HarnessTree:
    tree = SEED
    for name in names:
        tree = apply_edits(tree, EDITS[name])
    return tree


def accuracy(tree: HarnessTree, folder: Path, measure: ModuleType) -> float:
    """On the made-up gate split, with its public one to learn from."""
    data = Data(locate(str(folder)), seed=0)
    cases = data.labelled["gate"]
    answers, _, _ = measure.solve_all(tree, data.charges, data.labelled["public"], cases)
    model = LawBench(str(folder)).answer
    for answer in answers:
        assert model.model_validate_json(json.dumps({"charge": answer}), strict=True)
    return fmean(answer == case.charge for answer, case in zip(answers, cases, strict=True))


def test_the_seed_harness_learns_nothing_from_labels(folder: Path, measure: ModuleType, task: LawBench) -> None:
    data = Data(locate(str(folder)), seed=0)
    with_cases, _, _ = measure.solve_all(SEED, data.charges, data.labelled["public"], data.labelled["gate"])
    without, _, _ = measure.solve_all(SEED, data.charges, [], data.labelled["gate"])
    assert with_cases == without
    assert set(with_cases) <= set(data.charges)


def test_the_seed_harness_needs_the_standard_library_alone() -> None:
    for path, content in SEED.files.items():
        if path.endswith(".py"):
            lines = [line.split() for line in content.decode().splitlines() if line]
            imported = {words[1] for words in lines if words[0] in ("import", "from")}
            assert imported <= {*sys.stdlib_module_names, "scorer"}


def test_every_edit_applies_to_the_seed_or_to_the_linear_classifier() -> None:
    assert {*ON_SEED, *ON_LINEAR} == set(EDITS)
    assert 12 <= len(EDITS) <= 30


def test_few_edits_apply_to_the_seed_so_that_a_short_search_tries_each() -> None:
    assert set(CLASSIFIERS) <= set(ON_SEED)
    assert len(ON_SEED) <= 6


@pytest.mark.parametrize("name", ["nearest-neighbours", "naive-bayes"])
def test_a_weaker_classifier_leaves_the_others_to_try(name: str) -> None:
    assert [other for other, edits in EDITS.items() if applies(composed(name), edits)] == [
        other for other in CLASSIFIERS if other != name
    ]


@pytest.mark.parametrize("before", ON_SEED)
def test_a_classifier_comes_out_the_same_whatever_was_tried_before(before: str) -> None:
    assert composed(before, "linear-svc").digest == LINEAR.digest or before == "linear-svc"


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_is_not_applied_twice_and_leaves_the_manifest_alone(name: str) -> None:
    base = SEED if name in ON_SEED else LINEAR
    edited = apply_edits(base, EDITS[name])
    assert edited.digest != base.digest
    assert not applies(edited, EDITS[name])
    assert edited.manifest == base.manifest
    for path, content in edited.files.items():
        if path.endswith(".py"):
            compile(content, path, "exec")


@pytest.mark.parametrize("name", EDITS)
def test_every_edit_makes_a_harness_that_answers(name: str, folder: Path, measure: ModuleType) -> None:
    if name in ON_SEED:
        accuracy(composed(name), folder, measure)
    if name in ON_LINEAR:
        accuracy(composed("linear-svc", name), folder, measure)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifier_learns_what_is_easy(name: str, folder: Path, measure: ModuleType) -> None:
    assert accuracy(composed(name), folder, measure) > 0.9


def test_edits_of_different_families_compose(folder: Path, measure: ModuleType) -> None:
    names = ["linear-svc", "drop-names", "commoner-n-grams", "c-10", "class-priors", "add-names", "names-as-cases"]
    names += ["shortlist-of-three", "weaker-prior", "model-asked-when-close", "model-reads-400"]
    assert accuracy(composed(*names), folder, measure) > 0.5


def test_edits_of_different_families_apply_in_either_order() -> None:
    family = {entry.name: entry.family for entry in PLAYBOOK.edit}
    for first, second in permutations(ON_LINEAR, 2):
        if family[first] != family[second] and "together" not in (family[first], family[second]):
            assert applies(composed("linear-svc", first), EDITS[second]), f"{second} after {first}"


def test_the_measuring_script_prints_a_line_a_harness(folder: Path) -> None:
    script = Path(__file__).parents[1] / "bench" / "measure.py"
    options = ["--data", str(folder), "--folds", "3", "seed", "linear-svc+c-10"]
    result = subprocess.run([sys.executable, str(script), *options], capture_output=True, text=True, check=True)
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["seed", "linear-svc+c-10"]


@pytest.mark.real
@pytest.mark.slow
def test_the_linear_classifier_on_the_real_gate(real_task: LawBench, measure: ModuleType) -> None:
    data = Data(locate(None), seed=0)
    cases = data.labelled["gate"]
    answers, setup, solve = measure.solve_all(LINEAR, data.charges, data.labelled["public"], cases)
    assert fmean(answer == case.charge for answer, case in zip(answers, cases, strict=True)) > 0.73
    assert setup < 60
    assert solve < 0.05
