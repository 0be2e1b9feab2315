"""The task as the core and its users see it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from sia_core.errors import UsageError
from sia_core.types import Discovers, Split, Task, Verifier
from sia_testing.tasks import TaskContract
from sia_trimul import plugin, toolchain
from sia_trimul.device import DeviceJudge
from sia_trimul.task import TriMul
from sia_trimul.verifier import KernelJudge

SPLITS: tuple[Split, ...] = ("public", "search", "gate", "sealed")


def test_it_is_a_task_to_discover() -> None:
    task: Task = TriMul()
    assert isinstance(task, Task)
    assert isinstance(task, Discovers)
    assert isinstance(KernelJudge(**task.verifier.settings), Verifier)
    assert task.kind == "discover"
    assert json.loads(json.dumps(task.verifier.settings)) == task.verifier.settings


class TestTriMul(TaskContract):
    @pytest.fixture
    def make(self) -> Callable[[int], Task]:
        return lambda seed: TriMul(seed=seed)


def test_searches_are_told_apart() -> None:
    task = TriMul()
    inputs = [json.dumps(each.input) for split in SPLITS for each in task.instances(split)]
    assert len(inputs) == len(set(inputs)) == 50
    assert len(task.instances("gate")) >= 12  # fewer show nothing at the gate's doubling looks


def test_the_brief_shows_the_function_and_the_shapes() -> None:
    brief = TriMul().brief
    assert "torch.einsum" in brief
    assert "64/1/128 normal masked" in brief
    assert "{" not in brief.replace("{x", "").split("def kernel")[0].replace('{"code"', "")


def test_an_answer_is_code_with_or_without_a_plan() -> None:
    answer = TriMul().answer
    answer.model_validate({"code": "x = 1", "plan": {"pack": "one"}})
    answer.model_validate({"code": "x = 1"})
    wrong: tuple[Any, ...] = ({"plan": None}, {"code": ""}, {"code": "x" * 200_001}, {"code": "x", "more": 1})
    for each in wrong:
        with pytest.raises(ValidationError):
            answer.model_validate(each)


def test_a_device_that_is_not_there_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="'tpu' is none of cpu, cuda: --set device=cpu"):
        TriMul(device="tpu")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UsageError, match="finds no CUDA device here; the CPU edition needs none: --set device=cpu"):
        TriMul(device="cuda")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr(toolchain, "_installed", lambda name: name != "cuda-bindings")
    with pytest.raises(UsageError, match=r"need pip install 'sia-trimul\[cuda\]'"):
        TriMul(device="cuda")


def test_the_cuda_edition_says_where_its_kernels_run_and_what_they_earn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "check_device", lambda: "NVIDIA H100")
    task: Task = TriMul(device="cuda")
    assert isinstance(task, Discovers)
    assert (task.metric.name, task.verifier.name) == ("reward", "trimul-cuda")
    assert all(word in task.brief for word in ("a CUDA device, NVIDIA H100,", "1024/1/384 normal", "1500 divided by"))
    assert task.fingerprint != TriMul().fingerprint
    assert len(task.instances("gate")) >= 12
    assert isinstance(DeviceJudge(**task.verifier.settings), Verifier)
    monkeypatch.setattr(toolchain, "check_device", lambda: "NVIDIA H200")
    assert TriMul(device="cuda").fingerprint != task.fingerprint


def test_what_is_exported_is_the_kernel_and_how_to_try_it(tmp_path: Path) -> None:
    reference = (TriMul().public_dir([]) / "reference.py").read_text()
    files = TriMul().artefact({"code": reference, "plan": None})
    assert files.keys() == {"kernel.py", "reference.py", "README.md"}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    command = files["README.md"].decode().partition('python -c "')[2].rpartition('"')[0]
    script = "\n".join(line.removeprefix("    ") for line in command.splitlines())
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)


def test_the_plugin_offers_a_task_and_its_verifiers() -> None:
    assert [offer.name for offer in (*plugin.sia_tasks(), *plugin.sia_verifiers())] == [
        "trimul",
        "trimul",
        "trimul-cuda",
    ]


def test_the_entry_module_imports_nothing_heavy() -> None:
    code = "import sys, sia_trimul.plugin; print({'numpy', 'torch', 'pydantic'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
