"""CUDA devices in a sandbox, with a node that every machine has in the place of the driver's."""

from __future__ import annotations

import errno
import os
import resource
from pathlib import Path
from typing import Any

import pytest

from sia_core.errors import SandboxError
from sia_core.types import Limits
from sia_runtime.sandbox import cuda, layout
from sia_runtime.sandbox.contract import SandboxSpec
from sia_runtime.sandbox.docker import Docker
from sia_runtime.sandbox.process import Process
from sia_runtime.sandbox.program_host import open_program

STAND_IN = "/dev/full"
"""Whoever may write to it is told that no space is left, and it knows no call of a driver's."""

LIMITS = Limits(setup_seconds=30.0, solve_seconds=30.0, processes=16)
CODE = f"""
import fcntl, os, resource
def tried(act):
    try:
        act()
    except OSError as error:
        return error.errno
def name():
    with open(f"/proc/self/task/{{os.getpid()}}/comm", "w") as file:
        file.write("named")
    if open("/proc/self/comm").read() != "named\\n":
        raise OSError(1, "not named")
def look():
    return {{
        "write": tried(lambda: os.write(os.open("{STAND_IN}", os.O_RDWR), b"x")),
        "control": tried(lambda: fcntl.ioctl(os.open("{STAND_IN}", os.O_RDWR), 0x4600)),
        "addresses": resource.getrlimit(resource.RLIMIT_AS)[0],
        "elsewhere": tried(lambda: os.open("/dev/tty", os.O_RDWR)),
        "maps": os.path.exists("/proc/self/maps"),
        "others": os.path.exists("/proc/{os.getpid()}/maps"),
        "machine": os.path.isdir("/sys/devices"),
        "named": tried(name),
        "memory": tried(lambda: os.memfd_create("x")),
        "tuned": tried(lambda: open("/proc/sys/kernel/core_pattern", "w")),
        "module": os.path.isdir("/sys/module"),
        "written": tried(lambda: open("/sys/kernel/profiling", "w")),
    }}
"""


def look(sandbox: Any, **more: Any) -> dict[str, Any]:
    with open_program(sandbox, {"module.py": CODE.encode()}, "module", limits=LIMITS, **more) as program:
        called = program.call("look")
    assert called.ended == "ok", called.message
    report: dict[str, Any] = called.value
    return report


@pytest.mark.real
def test_a_program_drives_the_devices_that_it_is_given(sandbox: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if sandbox.name == "process":
        pytest.skip("hands out none")
    monkeypatch.setattr(cuda, "nodes", lambda: [STAND_IN])
    report = look(sandbox, cuda=True)
    assert (report["write"], report["control"]) == (errno.ENOSPC, errno.ENOTTY)
    assert (
        report["addresses"] == resource.RLIM_INFINITY
        or report["addresses"] == resource.getrlimit(resource.RLIMIT_AS)[1]
    )
    assert (report["machine"], report["module"], report["named"], report["memory"]) == (True, True, None, None)
    assert report["tuned"] in (errno.EACCES, errno.EROFS, errno.EPERM)
    assert report["written"] in (errno.EACCES, errno.EROFS, errno.ENOENT)
    assert report["elsewhere"] in (errno.EACCES, errno.ENOENT)
    assert (report["maps"], report["others"]) == (True, False)


@pytest.mark.real
def test_no_other_program_is_given_any(sandbox: Any) -> None:
    report = look(sandbox)
    assert report["write"] in (errno.EACCES, errno.ENOENT)
    assert report["addresses"] == LIMITS.memory_bytes
    assert report["named"] in (errno.EACCES, errno.EROFS, errno.ENOENT)
    assert report["memory"] == errno.EPERM


def test_a_root_that_cannot_become_another_user_hands_out_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "nodes", lambda: [STAND_IN])
    monkeypatch.setattr("os.geteuid", lambda: 0)
    with pytest.raises(SandboxError, match="by a root that cannot become another user"):
        layout.inside(SandboxSpec(tmp_path, cuda=True), as_other_user=False)
    assert layout.inside(SandboxSpec(tmp_path, cuda=True), as_other_user=True).devices == [STAND_IN]


def test_the_nodes_are_those_of_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "nvidia-uvm-tools"}
    for name in names | {"nvidia-modeset", "nvidia-caps", "nvidia0.txt", "sda"}:
        os.symlink("/dev/null", tmp_path / name)
    (tmp_path / "nvidia2").touch()
    monkeypatch.setattr(cuda, "_FOLDER", str(tmp_path))
    assert cuda.nodes() == sorted(str(tmp_path / name) for name in names)


def test_where_there_are_none_or_the_sandbox_hands_out_none_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "_FOLDER", str(tmp_path))
    with pytest.raises(SandboxError, match="has none of the NVIDIA driver's nodes"):
        cuda.nodes()
    for sandbox in (Docker(), Process()):
        with pytest.raises(SandboxError, match="hands out no CUDA device"):
            sandbox.start(SandboxSpec(tmp_path, cuda=True))


COMPUTES = """
import torch
def compute():
    return [torch.cuda.is_available(), float(torch.ones(8, device="cuda").sum()) if torch.cuda.is_available() else 0.0]
"""


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("cuda_too", [True, False])
def test_pytorch_computes_on_a_device_that_is_handed_out(sandbox: Any, *, cuda_too: bool) -> None:
    torch = pytest.importorskip("torch", reason="needs PyTorch")
    if not torch.cuda.is_available():
        pytest.skip("takes a CUDA device")
    if sandbox.name == "process":
        pytest.skip("hands out none")
    files = {"module.py": COMPUTES.encode()}
    limits = Limits(setup_seconds=60.0, solve_seconds=60.0, processes=128, total_memory_bytes=16 * 2**30)
    with open_program(sandbox, files, "module", requires=("torch",), limits=limits, cuda=cuda_too) as program:
        called = program.call("compute")
    assert (called.ended, called.value) == ("ok", [True, 8.0] if cuda_too else [False, 0.0]), called.message
