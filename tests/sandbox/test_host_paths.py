"""A harness is not told where on the host its run, the cache or the libraries lie."""

from __future__ import annotations

import json
import mmap
import os
from pathlib import Path

import pytest
from sandbox.conftest import Bench

from sia_core.errors import SandboxError
from sia_runtime.sandbox import layout, linux

LOOKS = """
import gc, os, sys

def solve(instance, ctx):
    backwards, found = instance.input["do"], []  # as it is, this harness would find its own copy

    def look(name, value):
        if backwards in str(value)[::-1]:
            found.append(name)

    def read(path):
        try:
            with open(path) as file:
                return file.read()
        except OSError:
            return ""

    for name in ("mountinfo", "mounts", "mountstats", "maps", "cmdline", "environ", "status"):
        for process in ("self", "1", os.getppid()):
            look(f"/proc/{process}/{name}", read(f"/proc/{process}/{name}"))
    look("arguments", (sys.argv, sys.orig_argv, sys.path, os.getcwd()))
    frame = sys._getframe()
    while frame is not None:
        look(f"frame of {frame.f_code.co_name}", frame.f_locals)
        frame = frame.f_back
    for each in gc.get_objects():
        if type(each) in (dict, list, tuple):
            try:
                look(type(each).__name__, each)
            except Exception:
                continue
    return found
"""


@pytest.mark.parametrize("private", [False, True])
def test_a_mount_shows_nothing_that_a_link_points_to(bench: Bench, private: bool, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "file").write_text("the secret")
    if private:  # its entries are shown one by one to another user
        (bench.public / "link").symlink_to(secret / "file")
        bench.public.chmod(0o700)
    else:
        bench.public = tmp_path / "link"
        bench.public.symlink_to(secret)
    code = """
        def solve(instance, ctx):
            try:
                return [path.read_text() for path in ctx.public.iterdir() if path.name != "cases.txt"]
            except OSError:
                return []
    """
    try:
        text = str(bench.solve(code, [0])[0].answer)
    except SandboxError as refused:
        text = str(refused)
    assert "the secret" not in text
    assert "is a link; put" in text or (private and text in ("[]", "None"))


@pytest.fixture
def walled(bench: Bench) -> Bench:
    if bench.sandbox.name == "process":
        pytest.skip("its mounts are the host's own folders, as docs/security.md says")
    return bench


def test_no_file_of_the_kernels_frame_or_object_tells_where_the_mounts_lie(walled: Bench, tmp_path: Path) -> None:
    marked = tmp_path / "where-the-run-lies"
    for name in ("public", "tree"):
        (marked / name).mkdir(parents=True)
    walled.folder, walled.public = marked, marked / "public"
    (result,) = walled.solve(LOOKS, [marked.name[::-1]])
    assert result.outcome == "ok", result
    assert json.loads(result.answer or "") == []


def test_a_file_that_this_process_has_mapped_may_bear_any_name(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/\xff"  # as the ledger in a folder of that name
    Path(os.fsdecode(name)).write_bytes(b"x")
    with open(name, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ):
        assert layout.system.__wrapped__().paths
        linux.collapse_memory()
