"""As root, whose sandboxes are other users: what a strict umask has closed to others is read all the same."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from sandbox.conftest import LIMITS, SANDBOXES, probed

from sia_core.harness import HarnessTree, Manifest
from sia_core.run.trees import Trees
from sia_runtime.sandbox.contract import GUARANTEES, Sandbox
from sia_runtime.worker import harness_worker as worker
from sia_runtime.worker.harness_folder import harness_folder
from sia_runtime.worker.harness_worker import HarnessWorker, SolveRequest

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root's sandboxes are other users")

HARNESS = """
import os
import closed_library, closed_module

def setup(ctx):
    return (ctx.public / "cases.txt").read_text()

def solve(instance, ctx):
    (ctx.scratch / "file").write_text("mine")
    secret = instance.input["do"]
    seen = os.path.exists(secret) and os.access(secret, os.R_OK)
    return [ctx.state, closed_library.VALUE, closed_module.VALUE, seen]
"""


@pytest.fixture(params=[0o027, 0o077], ids=oct)
def mask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.fixture(params=list(SANDBOXES))
def fresh(request: pytest.FixtureRequest, mask: int) -> Sandbox:
    """A sandbox whose processes were all started under the umask."""
    if set(GUARANTEES) <= probed(request.param)[1].keys():
        pytest.skip(f"{request.param} does not start here")
    return SANDBOXES[request.param]()


def test_a_harness_its_libraries_and_public_files_are_read(
    fresh: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages, public, run = (tmp_path / name for name in ("site-packages", "public", "run"))
    for folder in (packages / "closed_library", public, run):
        folder.mkdir(parents=True)
    (packages / "closed_library" / "__init__.py").write_text("from .inner import VALUE")
    (packages / "closed_library" / "inner.py").write_text("VALUE = 'library'")
    (packages / "closed_module.py").write_text("VALUE = 'module'")
    (public / "cases.txt").write_text("public")
    hidden = tmp_path / "hidden"
    hidden.write_text("not shown")
    libraries = (packages / "closed_library", packages / "closed_module.py")
    monkeypatch.setattr(worker, "library_paths", lambda requires: libraries)
    trees = Trees(run)
    folder = harness_folder(run, trees.put(HarnessTree({"harness.py": HARNESS.encode()})))
    solver = HarnessWorker(fresh, folder, Manifest(), public, LIMITS)
    try:
        request = SolveRequest("0", {"id": "i0", "input": {"do": str(hidden)}, "start": None}, 0)
        (result,) = solver.solve([request])
    finally:
        solver.close()
    assert result.outcome == "ok", result
    assert result.answer == '["public", "library", "module", false]'


def test_what_a_worker_elsewhere_puts_down_is_read_by_other_users(mask: int, tmp_path: Path) -> None:
    from hashlib import sha256

    from sia_runtime.jobs import Parcel, Receiver

    content = b"def solve(i, c): return 1\n"
    digest = sha256(content).hexdigest()
    receiver = Receiver(tmp_path, None)  # type: ignore[arg-type]
    receiver._place(tmp_path / "home", Parcel("", {}, {f"run/blobs/{digest}": digest}).files, lambda _: [content])
    assert (tmp_path / "home" / "run" / "blobs" / digest).stat().st_mode & 0o777 == 0o644
