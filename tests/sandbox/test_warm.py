"""Workers start as forks of a template that has imported what they require, and that shares nothing between them."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sandbox.conftest import SANDBOXES, probed

from sia_core.errors import SandboxError
from sia_runtime.sandbox import tree
from sia_runtime.sandbox.contract import GUARANTEES, Sandbox, SandboxSpec
from sia_runtime.sandbox.warm import MOST_TEMPLATES, Template, Templates

pytestmark = pytest.mark.real

WARM = """
    import sys
    warm = "numpy" in sys.modules
    import numpy
    def solve(instance, ctx):
        import numpy.polynomial.chebyshev as late
        return [warm, numpy.__file__, late.__file__, int(numpy.arange(4).sum())]
"""


@pytest.fixture(params=["namespaces", "process"])
def sandbox(request: pytest.FixtureRequest) -> Sandbox:
    """The sandboxes that have templates, each with none yet."""
    instance, lacks = probed(request.param)
    if set(GUARANTEES) <= lacks.keys():
        pytest.skip(f"{instance.name} does not start here: {lacks['files']}")
    return SANDBOXES[request.param]()


def template_of(worker: Any) -> Template:
    """The template that a worker was forked from."""
    template: Template = worker._session._process._process._template
    return template


def config(**changes: Any) -> dict[str, Any]:
    """For a template of the sandbox ``process``, with nothing to import."""
    filtered = {"own_files": False, "own_user": False}
    return {"stage": None, "folder": "", "links": [], "imports": [], "filter": filtered, **changes}


def library(folder: Path, name: str, code: str) -> dict[str, Any]:
    """For a template that imports a module of this code."""
    (folder / f"{name}.py").write_text(code)
    return config(folder=f"{folder}/", links=[[str(folder / f"{name}.py"), f"{name}.py"]], imports=[name])


def ended(pid: int) -> bool:
    """Whether a process has ended, or does so within a while."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([handle], [], [], 10)[0])
    finally:
        os.close(handle)


def test_what_a_harness_requires_is_there_before_it_starts(bench: Any) -> None:
    (result,) = bench.solve(WARM, [0], requires=("numpy",))
    warm, path, late, total = json.loads(result.answer or result.message)
    assert (warm, total) == (True, 6)
    assert late.startswith(path.removesuffix("__init__.py"))


def test_what_it_does_not_require_is_not(bench: Any) -> None:
    bench.solve(WARM, [0], requires=("numpy",))
    (result,) = bench.solve("import sys\ndef solve(instance, ctx): return 'numpy' in sys.modules", [0])
    assert result.answer == "false"


def test_workers_that_require_the_same_come_of_one_template(bench: Any) -> None:
    code = "def solve(instance, ctx): return 1"
    workers = [bench.worker(code, requires=requires) for requires in (("numpy",), ("numpy",), ("packaging",))]
    for worker in workers:
        bench.run(worker, [0])
    one, two, other = map(template_of, workers)
    assert one is two
    assert one is not other


def test_a_template_holds_nothing_of_its_owners(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "the-key")
    worker = bench.worker("def solve(instance, ctx): return 1")
    bench.run(worker, [0])
    pid = template_of(worker)._process.pid
    assert b"the-key" not in Path(f"/proc/{pid}/environ").read_bytes()
    opened = {os.readlink(f"/proc/{pid}/fd/{name}").partition(":")[0] for name in os.listdir(f"/proc/{pid}/fd")}
    assert opened == {"/dev/null", "socket"}


def test_no_descriptor_of_the_templates_is_left_in_a_worker(bench: Any) -> None:
    code = """
        import os, stat
        def solve(instance, ctx):
            kinds = []
            for descriptor in range(1024):
                try:
                    kinds.append(stat.filemode(os.fstat(descriptor).st_mode)[0])
                except OSError:
                    pass
            return kinds
    """
    (result,) = bench.solve(code, [0], requires=("numpy",))
    assert json.loads(result.answer or result.message) == ["c", "p", "p", "p", "p"]


def test_a_template_that_was_killed_is_replaced_and_takes_its_workers_along(bench: Any) -> None:
    worker, later = (bench.worker("def solve(instance, ctx): return 1") for _ in range(2))
    bench.run(worker, [0])
    old = template_of(worker)
    supervisor = worker._session._process._process.pid
    inside = tree.descendants(supervisor)
    os.kill(old._process.pid, signal.SIGKILL)
    assert all(ended(pid) for pid in (supervisor, *inside))
    assert [result.outcome for result in bench.run(later, [0])] == ["ok"]
    assert template_of(later) is not old


def test_a_template_ends_with_its_owner(tmp_path: Path) -> None:
    code = f"""
import sys
from sia_runtime.sandbox.warm import Templates
template = Templates().get({library(tmp_path, "plain", "")!r})
print(template._process.pid, template.sys_path[0], flush=True)
sys.stdin.read()
"""
    owner = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    pid, folder = owner.stdout.readline().split()
    assert Path(folder, "plain.py").exists()
    owner.kill()
    owner.communicate()
    assert ended(int(pid))
    assert not Path(folder).parent.exists()


LEFT_BEHIND = {
    "thread": "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()",
    "descriptor": "import os\nleft = os.open('/tmp', os.O_RDONLY)",
    "process": "import ctypes, os, signal\nif os.fork() == 0:\n    ctypes.CDLL(None).prctl(1, 9)\n    signal.pause()",
    "memory": "import mmap\nleft = mmap.mmap(-1, 4096)",
}


@pytest.mark.parametrize("kind", LEFT_BEHIND)
def test_a_library_that_leaves_something_to_share_is_not_imported_beforehand(kind: str, tmp_path: Path) -> None:
    about = library(tmp_path, f"leaves_{kind}", LEFT_BEHIND[kind])
    shared = Template(about).shares
    assert [each.split()[0] for each in shared] == [kind]
    assert Templates().get(about).shares == []


def test_a_library_that_cannot_be_imported_is_the_harnesss_to_see(tmp_path: Path) -> None:
    about = library(tmp_path, "broken", "raise RuntimeError('not here')")
    assert Templates().get(about).shares == []


def test_a_template_that_cannot_be_prepared_says_why(tmp_path: Path) -> None:
    with pytest.raises(SandboxError, match=r"cannot be prepared: FileNotFoundError"):
        Templates().get(config(folder=f"{tmp_path}/", links=[["a", "no/such"]]))


def test_a_program_that_cannot_be_loaded_costs_its_own_start(sandbox: Sandbox, tmp_path: Path) -> None:
    broken, fine = tmp_path / "broken.py", tmp_path / "fine.py"
    broken.write_text("raise RuntimeError('no program')")
    fine.write_text("import os\ndef main(channel, world): os.write(channel, b'hello')")
    with pytest.raises(SandboxError, match="RuntimeError: no program"):
        sandbox.start(SandboxSpec(broken))
    process = sandbox.start(SandboxSpec(fine))
    assert process.channel.recv(5) == b"hello"
    assert process.channel.recv(1) == b""  # it ends by itself
    process.kill()
    assert process.ended() == "exit 0"


def test_only_the_latest_templates_are_kept_and_what_they_started_lives_on(sandbox: Sandbox, tmp_path: Path) -> None:
    echo = tmp_path / "echo.py"
    echo.write_text("import os\ndef main(channel, world): os.write(channel, os.read(channel, 5))")
    process = sandbox.start(SandboxSpec(echo))
    for number in range(MOST_TEMPLATES + 1):
        sandbox.start(SandboxSpec(echo, imports=(f"absent_{number}",))).kill()
    assert len(sandbox._templates._places) == MOST_TEMPLATES  # type: ignore[attr-defined]
    process.channel.sendall(b"alive")
    assert process.channel.recv(5) == b"alive"
    process.kill()
