"""The task as the core sees it, and what it keeps to itself."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from scipy import sparse

from sia_core.errors import UsageError
from sia_core.types import Discovers, Split, Task
from sia_denoising import picture, plugin
from sia_denoising.problems import Problems
from sia_denoising.task import Denoising
from sia_testing.tasks import TaskContract

SPLITS: tuple[Split, ...] = ("search", "gate", "sealed")


@pytest.fixture
def task(data: str) -> Denoising:
    return Denoising(data)


def test_it_is_a_task_to_discover(task: Denoising) -> None:
    checked: Task = task
    assert isinstance(checked, Task)
    assert isinstance(task, Discovers)
    assert task.kind == "discover"
    assert task.metric.bounds is None
    assert json.loads(json.dumps(task.verifier.settings)) == task.verifier.settings
    assert len(task.instances("gate")) >= 12
    assert {offer.name for offer in (*plugin.sia_tasks(), *plugin.sia_verifiers())} == {"denoising"}


def test_instances_tell_the_size_and_nothing_to_draw_them_with(task: Denoising) -> None:
    for split in SPLITS:
        instances = task.instances(split)
        assert instances == task.instances(split)
        assert len({instance.id for instance in instances}) == len(instances)
        for instance in instances:
            assert instance.input.keys() == {"data", "cells", "genes", "depth", "draw"}
    assert task.instances("public") == []


class TestDenoising(TaskContract):
    @pytest.fixture
    def make(self, data: str) -> Callable[[int], Task]:
        return lambda seed: Denoising(data, seed=seed)


def test_search_and_gate_look_alike(data: str) -> None:
    task = Denoising(data)
    first, second = ({**task.instances(split)[0].input, "draw": ""} for split in ("search", "gate"))
    assert first == second


def rows(matrix: Any) -> set[bytes]:
    return {row.tobytes() for row in matrix.toarray()}


def test_splits_differ_in_cells(data: str) -> None:
    problems = Problems(data, None, 0)
    pools = {split: rows(problems.pool(split).counts) for split in SPLITS}
    assert not pools["search"] & pools["gate"]
    assert not pools["search"] & pools["sealed"]
    assert not pools["gate"] & pools["sealed"]
    assert sum(map(len, pools.values())) == 240
    assert rows(Problems(data, None, 1).pool("search").counts) != pools["search"]


def test_what_is_final_is_other_cells_than_evaluations_show(data: str) -> None:
    problems = Problems(data, None, 0)
    first = problems.judge("gate-0", "gate", 7, final=False)
    final = problems.judge("gate-0", "gate", 7, final=True)
    assert first is problems.judge("gate-0", "gate", 7, final=False)
    pool = problems.pool("gate").counts.toarray()
    halves = pool[: len(pool) // 2], pool[len(pool) // 2 :]
    for judge, half in ((first, halves[0]), (final, halves[1])):
        whole = half.sum(axis=1)
        depths = judge.train.sum(axis=1)
        assert len(depths) == len(whole)
        assert 0.85 < depths.sum() / whole.sum() < 0.95
    assert first.train.shape != final.train.shape or not np.array_equal(first.train, final.train)


def test_other_seeds_and_instances_are_other_draws(data: str) -> None:
    problems = Problems(data, None, 0)
    cases = (("sealed-0", 1), ("sealed-1", 1), ("sealed-0", 2))
    drawn = [problems.judge(name, "sealed", seed, final=True) for name, seed in cases]
    totals = {float(judge.train.sum()) for judge in drawn}
    assert len(totals) == 3


def test_sealed_data_is_all_that_the_report_is_on(data: str, other_data: str) -> None:
    problems = Problems(data, other_data, 0)
    assert problems.pool("sealed").counts.shape[0] == 150
    assert problems.pool("search").counts.shape[0] + problems.pool("gate").counts.shape[0] == 240
    with pytest.raises(UsageError, match="sealed_data nowhere is not a file"):
        Denoising(data, sealed_data="nowhere")


def test_without_a_file_the_truth_is_known(monkeypatch: pytest.MonkeyPatch, data: str) -> None:
    from sia_denoising import problems as module
    from sia_denoising.generator import Generator

    monkeypatch.setattr(module, "TISSUE", Generator(cells=120, genes=200, depth=400))
    judge = Problems(None, None, 0).judge("search-0", "search", 0, final=False)
    assert {"true_mse", "true_kl"} <= judge.measure(judge.train + 0.1).keys()
    assert "true_mse" not in Problems(data, None, 0).judge("search-0", "search", 0, final=False).measure(
        Problems(data, None, 0).judge("search-0", "search", 0, final=False).train + 0.1
    )


def test_judges_are_forgotten_before_they_fill_the_memory(data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from sia_denoising import problems as module

    problems = Problems(data, None, 0)
    first = problems.judge("gate-0", "gate", 0, final=True)
    monkeypatch.setattr(module, "KEPT_BYTES", int(2.5 * first.bytes))
    for place in range(1, 5):
        problems.judge(f"gate-{place}", "gate", 0, final=True)
    assert len(problems._judges) == 2
    again = problems.judge("gate-0", "gate", 0, final=True)
    assert again is not first
    assert np.array_equal(again.train, first.train)


def test_the_fingerprint_follows_content_and_settings(data: str, other_data: str, tmp_path: Path) -> None:
    copy = tmp_path / "copy.npz"
    copy.write_bytes(Path(data).read_bytes())
    same = Denoising(data).fingerprint
    assert Denoising(str(copy)).fingerprint == same
    for other in (
        Denoising(other_data),
        Denoising(data, seed=1),
        Denoising(data, reward="balanced"),
        Denoising(data, sealed_data=other_data),
    ):
        assert other.fingerprint != same


def test_an_answer_is_a_module_and_perhaps_its_plan(task: Denoising) -> None:
    assert task.answer.model_validate({"code": "x", "plan": {"t": "3"}})
    assert task.answer.model_validate({"code": "x"})
    for wrong in ({}, {"code": ""}, {"code": "x" * 65_000}, {"code": "x", "plan": {"t": 3}}, {"code": "x", "a": 1}):
        with pytest.raises(ValidationError):
            task.answer.model_validate(wrong)


def test_an_unknown_reward_is_told_what_there_is(data: str) -> None:
    with pytest.raises(UsageError, match="reward=best is none of mse_norm, poisson_norm"):
        Denoising(data, reward="best")


def test_the_public_folder_holds_no_counts(task: Denoising) -> None:
    folder = task.public_dir(["public", "search", "gate"])
    assert [path.name for path in folder.iterdir()] == ["brief.txt"]
    with pytest.raises(UsageError, match="sealed cells are for the report alone"):
        task.public_dir(["sealed"])


ANSWER = {"code": "def denoise(counts):\n    return counts + 0.5\n", "plan": None}


def test_the_artefact_is_a_command_on_a_file(task: Denoising, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sia_denoising.task.picture", lambda *_: None)
    files = task.artefact(ANSWER)
    assert files.keys() == {"denoiser.py", "read_counts.py", "HOW-TO-USE.md"}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    counts = sparse.csr_array(np.eye(4, dtype=np.int32))
    sparse.save_npz(tmp_path / "in.npz", counts)
    command = [sys.executable, "denoiser.py", "in.npz", "out.npz"]
    subprocess.run(command, check=True, cwd=tmp_path)
    assert np.array_equal(np.load(tmp_path / "out.npz")["denoised"], np.eye(4) + 0.5)


def test_what_the_seed_renders_is_a_command_too(
    task: Denoising, seed: Any, tmp_path: Path, data: str, denoiser: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sia_denoising.task.picture", lambda *_: None)
    answer = seed.render(seed.plans.MAGIC)
    for name, content in task.artefact(answer).items():
        (tmp_path / name).write_bytes(content)
    subprocess.run([sys.executable, "denoiser.py", data, "out.npz"], check=True, cwd=tmp_path)
    matrix = np.load(tmp_path / "out.npz")["denoised"]
    assert np.array_equal(matrix, denoiser(answer)(sparse.load_npz(data)))


def test_the_picture_is_drawn_of_what_the_sandbox_returned(seed: Any) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: sia-denoising[picture]")
    before = np.random.default_rng(0).poisson(1.0, (60, 30)).astype(np.float32)
    assert picture.drawn(before, before + 0.1)[:8] == b"\x89PNG\r\n\x1a\n"


def test_the_two_genes_shown_are_a_pair_that_noise_kept_apart() -> None:
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=200)
    after = rng.normal(size=(200, 20))
    after[:, 4], after[:, 9] = hidden, hidden
    before = rng.normal(size=(200, 20))
    assert picture.two_genes(before, after) == (4, 9)
    assert picture.two_genes(np.zeros((5, 3)), np.zeros((5, 3))) == (0, 1)


@pytest.mark.real
@pytest.mark.slow
def test_the_picture_runs_the_code_in_a_sandbox_and_is_left_out_where_it_fails(seed: Any) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: sia-denoising[picture]")
    counts = np.random.default_rng(0).poisson(1.0, (60, 30)).astype(np.int32)
    image = picture.picture(seed.render(seed.plans.MAGIC)["code"], "denoiser", counts)
    assert image is not None
    assert picture.picture("def denoise(counts):\n    return 1 / 0\n", "denoiser", counts) is None


def test_it_says_which_way_what_it_measures_beside_the_reward_is_better(data: str) -> None:
    beside = Denoising(data).metric.beside
    assert beside["true_mse"] == beside["true_kl"] == "minimize"
    assert beside["poisson_norm"] == "maximize"
    assert "mse_norm" not in beside
    assert "mse_norm" in Denoising(data, reward="balanced").metric.beside
