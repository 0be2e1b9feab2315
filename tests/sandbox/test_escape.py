"""Harnesses that try to get out: to the host's files, its network, its processes, and what runs beside them.

Every attack runs under every sandbox. Where a sandbox cannot stop one, the test
asserts that its guarantees say so.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest

import sia_core
from sia_core import hookspecs
from sia_runtime.sandbox import launch, tree
from sia_runtime.worker import verifier_process

pytestmark = pytest.mark.real

SECRET = "the-label-is-7"
TRY = """
    import os
    def attempt(function, *args):
        try:
            return function(*args)
        except Exception as error:
            return f"{type(error).__name__}"
"""


@pytest.fixture(params=["setup", "solve"])
def place(request: pytest.FixtureRequest) -> str:
    """Where the attack runs: set-up has the whole sandbox, a solve is confined further."""
    return str(request.param)


def outcome_of(bench: Any, body: str, argument: Any, place: str = "solve") -> Any:
    """The value of ``body``, run with ``target`` and ``ctx``."""
    lines = textwrap.indent(textwrap.dedent(body).strip(), "    ")
    code = f"{textwrap.dedent(TRY)}\ndef run(ctx):\n    target = {argument!r}\n{lines}\n"
    if place == "setup":
        code += "setup = run\ndef solve(instance, ctx): return ctx.state\n"
    else:
        code += "def solve(instance, ctx): return run(ctx)\n"
    (result,) = bench.solve(code, [0])
    assert result.outcome == "ok", result
    return json.loads(result.answer)


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    """A file of the host's that any user may read, in a folder that any user may write."""
    folder = tmp_path / "hidden"
    folder.mkdir()
    for parent in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        parent.chmod(0o755)
    folder.chmod(0o777)
    (folder / "labels.json").write_text(SECRET)
    (folder / "labels.json").chmod(0o644)
    return folder / "labels.json"


# Files.


def test_a_file_of_the_host_cannot_be_read_by_any_path(bench: Any, place: str, labels: Path) -> None:
    body = """
        os.symlink(target, ctx.scratch / "link")
        os.symlink("/", ctx.scratch / "root")
        paths = [
            target, f"/proc/1/root{target}", f"/proc/self/root{target}", f"/proc/self/cwd/../../..{target}",
            f"../../../../../../..{target}", ctx.scratch / "link", f"{ctx.scratch}/root{target}",
            f"/dev/fd/0/../../..{target}",
        ]
        def read(path):
            with open(path) as file:
                return file.read()
        def hard_link():
            os.link(target, ctx.scratch / "hard")
            return read(ctx.scratch / "hard")
        def by_handle():
            import ctypes
            libc = ctypes.CDLL(None, use_errno=True)
            handle = ctypes.create_string_buffer(136)
            handle[0:4] = (128).to_bytes(4, "little")
            mount = ctypes.c_int()
            if libc.name_to_handle_at(-100, target.encode(), handle, ctypes.byref(mount), 0) < 0:
                raise OSError(ctypes.get_errno())
            return read(libc.open_by_handle_at(-100, handle, 0))
        return [attempt(read, path) for path in paths] + [attempt(hard_link), attempt(by_handle)]
    """
    for outcome in outcome_of(bench, body, str(labels), place):
        assert outcome in {"FileNotFoundError", "PermissionError", "NotADirectoryError", "OSError"}, outcome


def test_no_walk_over_the_file_system_finds_what_is_hidden(bench: Any, place: str, labels: Path) -> None:
    body = """
        found = []
        for folder, _, names in os.walk("/"):
            found += [os.path.join(folder, name) for name in names if name in target]
        return found
    """
    ours = [launch.__file__, verifier_process.__file__, hookspecs.__file__]
    names = [labels.name, "harness.toml", *(Path(path).name for path in ours), "shadow", "authorized_keys"]
    assert outcome_of(bench, body, names, place) == []


@pytest.mark.parametrize(
    "path",
    [sia_core.__file__, "/etc/passwd", "/etc/hostname", "/proc/cmdline", "/proc/version", "/root/.bashrc", "/bin/sh"],
)
def test_files_that_no_harness_needs_cannot_be_read(bench: Any, place: str, path: str) -> None:
    body = "return attempt(lambda: open(target, 'rb').read(1) and 'read')"
    assert outcome_of(bench, body, path, place) in {"FileNotFoundError", "PermissionError", "NotADirectoryError"}


def test_installed_packages_cannot_be_read(bench: Any, place: str) -> None:
    import pluggy

    standard_library = Path(os.__file__).parent
    folders = [str(Path(pluggy.__file__).parents[1]), str(standard_library / "site-packages"), *sys.path]
    body = """
        read = []
        for folder in target:
            for name in ("__init__.py", "pip/__init__.py", "pluggy/__init__.py", "README.txt"):
                path = f"{folder}/{name}"
                if "packages" in path and attempt(lambda: open(path).close() or "opened") == "opened":
                    read.append(path)
        return read
    """
    assert outcome_of(bench, body, folders, place) == []


def test_nothing_outside_of_scratch_can_be_changed(bench: Any, place: str, labels: Path) -> None:
    written = labels.parent / "written"
    body = """
        import json as module
        targets = [
            str(target[0]), str(target[1]), __file__, str(ctx.public / "cases.txt"), str(ctx.public / "new"),
            module.__file__, os.__file__, "/etc/new", "/new", "/sia/new", "/dev/new", "/dev/shm/new", "/tmp/new",
            "/proc/self/oom_score_adj", "/proc/sys/kernel/core_pattern", str(ctx.scratch.parent.parent / "new"),
        ]
        def write(path):
            with open(path, "w") as file:
                return file.write("x") and path
        changes = [
            lambda: os.chmod(__file__, 0o777), lambda: os.unlink(__file__), lambda: os.rename(__file__, "/x"),
            lambda: os.rename(ctx.public / "cases.txt", ctx.scratch / "cases.txt"),
            lambda: os.mkdir(ctx.public / "folder"), lambda: os.symlink("/", ctx.public / "link"),
            lambda: os.mknod(ctx.scratch / "disk", 0o60600, os.makedev(254, 0)) or "made a device",
            lambda: os.chown(ctx.scratch, 0, 0) or "changed the owner",
        ]
        return [attempt(write, path) for path in targets] + [attempt(change) for change in changes]
    """
    outcomes = outcome_of(bench, body, [str(labels), str(written)], place)
    refused = {"FileNotFoundError", "PermissionError", "OSError", "NotADirectoryError", "IsADirectoryError"}
    assert [each for each in outcomes if each not in refused] == []
    assert not written.exists()
    assert labels.read_text() == SECRET
    assert sorted(path.name for path in bench.public.iterdir()) == ["cases.txt"]


# The environment and descriptors.


def test_no_environment_comes_in(bench: Any, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", SECRET)
    body = """
        texts = [repr(dict(os.environ))]
        for process in ["self", "1", str(os.getppid()), *map(str, target)]:
            for name in ("environ", "cmdline", "maps", "mem"):
                texts.append(str(attempt(lambda: open(f"/proc/{process}/{name}", "rb").read(10**5))))
        return texts
    """
    texts = outcome_of(bench, body, [os.getpid(), os.getppid()], place)
    assert not any(SECRET in text for text in texts)
    assert set(eval(texts[0])) <= {
        *("PYTHONHASHSEED", "PYTHONUTF8", "LANG", "LC_CTYPE", "HOME", "TMPDIR"),
        *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"),
    }


def test_no_descriptor_is_inherited(bench: Any, labels: Path) -> None:
    with labels.open() as file:
        os.set_inheritable(file.fileno(), True)
        body = """
            import stat
            kinds = []
            for descriptor in range(1024):
                try:
                    kinds.append(stat.filemode(os.fstat(descriptor).st_mode)[0])
                except OSError:
                    pass
            return kinds
        """
        # Standard streams and two pipes; nothing that is a file, a folder or the host's channel.
        assert outcome_of(bench, body, 0) == ["c", "p", "p", "p", "p"]


# The network.


@pytest.mark.parametrize("kind", ["tcp", "udp", "tcp6", "unix", "unix datagram", "abstract"])
def test_no_listener_of_the_host_is_reached(bench: Any, place: str, kind: str, tmp_path: Path) -> None:
    family = {"t": socket.AF_INET, "u": socket.AF_UNIX, "a": socket.AF_UNIX}[kind[0]]
    family = socket.AF_INET if kind == "udp" else socket.AF_INET6 if kind == "tcp6" else family
    form = socket.SOCK_DGRAM if kind in ("udp", "unix datagram") else socket.SOCK_STREAM
    address: Any = ("::1" if kind == "tcp6" else "127.0.0.1", 0)
    if family == socket.AF_UNIX:
        address = f"\0sia-test-{os.getpid()}" if kind == "abstract" else str(tmp_path / "s")
    with socket.socket(family, form) as listener:
        listener.bind(address)
        if form == socket.SOCK_STREAM:
            listener.listen()
        if kind.startswith("unix"):
            Path(address).chmod(0o777)
        where = listener.getsockname()
        body = """
            import socket
            family, form, where = target
            where = tuple(where) if isinstance(where, list) else where
            def connect():
                with socket.socket(family, form) as connection:
                    connection.settimeout(1)
                    connection.connect(where)
                    connection.send(b"out")
                    return "sent"
            def by_pair():
                one, two = socket.socketpair(socket.AF_UNIX, form)
                one.sendto(b"out", where)
                return "sent"
            return [attempt(connect), attempt(by_pair)]
        """
        where = where.decode() if isinstance(where, bytes) else list(where) if isinstance(where, tuple) else where
        outcomes = outcome_of(bench, body, [int(family), int(form), where], place)
        assert "sent" not in outcomes
        assert select.select([listener], [], [], 0)[0] == []


def test_only_pairs_of_sockets_can_be_made_where_the_file_system_is_the_hosts(bench: Any, place: str) -> None:
    body = """
        import socket
        families = {"unix": socket.AF_UNIX, "inet": socket.AF_INET, "vsock": 40, "netlink": 16, "packet": 17, "alg": 38}
        made = [name for name, family in families.items() if not isinstance(attempt(socket.socket, family), str)]
        return [made, not isinstance(attempt(socket.socketpair), str)]
    """
    own = [] if bench.sandbox.name == "process" else ["unix"]
    assert outcome_of(bench, body, 0, place) == [own, True]


# Processes and the kernel.

CALLS = """
    import ctypes, errno
    libc = ctypes.CDLL(None, use_errno=True)
    def call(number, *args):
        result = libc.syscall(ctypes.c_long(number), *map(ctypes.c_long, args))
        return "ok" if result >= 0 else errno.errorcode[ctypes.get_errno()]
"""


def test_dangerous_calls_are_refused(bench: Any, place: str) -> None:
    from sia_runtime.sandbox import linux, seccomp

    column = seccomp._COLUMN[linux.machine()]
    numbers = {name: pair[column] for name, pair in seccomp._REFUSED.items() if pair[column] is not None}
    body = (
        textwrap.dedent(CALLS)
        + "return {name: call(number, -1, -1, -1, -1, -1, -1) for name, number in target.items()}"
    )
    outcomes = outcome_of(bench, body, numbers, place)
    assert {name for name, result in outcomes.items() if result != "EPERM"} == set()


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="call numbers of x86_64")
def test_calls_are_judged_by_their_arguments(bench: Any) -> None:
    body = (
        textwrap.dedent(CALLS)
        + """
namespaces = [0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000]
return {
    "clone": sorted({call(56, flag | 17, 0, 0, 0, 0) for flag in namespaces}),
    "clone3": call(435, 0, 0),
    "a call from the future": call(500),
    "type into a terminal": call(16, 0, 0x5412, 0),
    "outlive the supervisor": call(157, 1, 0, 0, 0, 0),
    "leave the group": [call(112), call(109, 0, 0)],
    "another user": call(117, 0, 0, 0),
}
"""
    )
    outcomes = outcome_of(bench, body, 0)
    assert outcomes.pop("another user") in {"EPERM", "EINVAL"}
    assert outcomes == {
        "clone": ["EPERM"],
        "clone3": "ENOSYS",
        "a call from the future": "ENOSYS",
        "type into a terminal": "EPERM",
        "outlive the supervisor": "EPERM",
        "leave the group": ["EPERM", "EPERM"],
    }


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="x32 is of x86_64")
def test_a_call_of_another_architecture_kills(bench: Any) -> None:
    code = TRY + textwrap.indent(CALLS, "") + "\n    def solve(instance, ctx): return call(0x40000000 + 39)\n"
    (result,) = bench.solve(code, [0])
    assert (result.outcome, "31" in result.message) == ("killed", True), result


def test_no_process_outside_can_be_signalled_or_read(bench: Any, place: str) -> None:
    body = """
        said = []
        for process in [*target, os.getppid() or target[0]]:
            said.append(attempt(lambda: os.kill(process, 0) or f"may signal {process}"))
            said.append(attempt(lambda: os.pidfd_open(process) and "may watch"))
        import resource
        said.append(attempt(lambda: resource.prlimit(target[0], resource.RLIMIT_NOFILE) and "may read limits"))
        said.append(attempt(lambda: os.sched_setaffinity(target[0], [0]) or "may move"))
        return said
    """
    outcomes = outcome_of(bench, body, [os.getpid()], place)
    bad = [each for each in outcomes if each not in {"ProcessLookupError", "PermissionError", "may watch"}]
    assert bad == []


def test_a_solve_cannot_kill_what_runs_it_or_its_neighbour(bench: Any) -> None:
    code = """
    import os, signal
    def solve(instance, ctx):
        if instance.input["do"] == "attack":
            for number in (os.getppid(), *range(2, 40)):
                if number != os.getpid():
                    try:
                        os.kill(number, signal.SIGTERM)
                    except OSError:
                        pass
            return "tried"
        for _ in range(10**6): pass
        return 42
    """
    if os.getuid() == 0 and bench.sandbox.name == "process":
        pytest.skip("not with numbers of the machine's own processes")
    results = bench.solve(code, [0, "attack", 0, 0], slots=3)
    assert [result.outcome for result in results] == ["ok"] * 4


def test_capabilities_are_gone(bench: Any, place: str) -> None:
    body = textwrap.dedent(CALLS) + (
        "header = (ctypes.c_uint32 * 2)(0x20080522, 0)\n"
        "data = (ctypes.c_uint32 * 6)()\n"
        "libc.capget(header, data)\n"
        "return [list(data), libc.prctl(39, 0, 0, 0, 0), libc.prctl(21, 0, 0, 0, 0), os.getuid() == 0]"
    )
    effective, no_new_privileges, filtered, is_root = outcome_of(bench, body, 0, place)
    read_search = 4 if bench.sandbox.name == "process" and os.getuid() == 0 else 0
    assert effective == [read_search, read_search, 0, 0, 0, 0]
    assert no_new_privileges == 1
    assert filtered == 2
    assert not is_root


# The end.

LEAVES_DAEMONS = """
    import os, signal
    def leave(depth=0):
        if os.fork() == 0:
            os.setsid()
            if os.fork():
                os._exit(0)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            while True: signal.pause()
    def setup(ctx):
        for _ in range(3): leave()
    def solve(instance, ctx): return os.getpid()
"""


def inside(worker: Any) -> list[int]:
    """The host's numbers of all processes of a worker's sandbox."""
    return tree.descendants(worker._session._process._process.pid)


def ended(processes: list[int]) -> bool:
    """Whether all of them have ended, or do so within a while."""
    for process in processes:
        try:
            handle = os.pidfd_open(process)
        except ProcessLookupError:
            continue
        try:
            if not select.select([handle], [], [], 10)[0]:
                return False
        finally:
            os.close(handle)
    return True


def test_daemons_end_with_their_worker(bench: Any) -> None:
    worker = bench.worker(LEAVES_DAEMONS)
    assert bench.run(worker, [0])[0].outcome == "ok"
    processes = inside(worker)
    assert len(processes) >= 4
    worker.close()
    assert ended(processes)


def test_a_program_that_forks_without_end_ends_with_its_worker_where_that_is_guaranteed(bench: Any) -> None:
    if "processes" not in bench.sandbox.guarantees:
        assert "processes" in bench.sandbox.probe()
        return
    code = """
    import os
    def setup(ctx):
        if os.fork() == 0:
            os.setsid()
            while True:
                try:
                    if os.fork():
                        os._exit(0)
                except OSError:
                    pass
    def solve(instance, ctx): return 1
    """
    worker = bench.worker(code)
    assert bench.run(worker, [0])[0].outcome in {"ok", "processes"}
    channel = worker._session._process.channel.dup()
    worker.close()
    channel.settimeout(10)
    assert channel.recv(1) == b""
    channel.close()


@pytest.mark.parametrize("who", ["supervisor", "orchestrator"])
def test_nothing_outlives_what_started_it(bench: Any, who: str, tmp_path: Path) -> None:
    if who == "supervisor" and "processes" not in bench.sandbox.guarantees:
        assert "processes" in bench.sandbox.probe()
        return
    with Orchestrator(bench.sandbox.name, tmp_path) as (process, supervisor, processes):
        assert len(processes) >= 4
        os.kill(supervisor if who == "supervisor" else process.pid, signal.SIGKILL)
        assert ended([*processes, supervisor])
    if who == "orchestrator":
        assert left_in(tmp_path / "temporary") == []


def left_in(folder: Path) -> list[Path]:
    """All below a folder for temporary files, but the empty one that SIA keeps there."""
    return [path for path in folder.rglob("*") if path != folder / f"sia-{os.geteuid()}"]


class Orchestrator:
    """Another Python that runs a worker whose harness leaves daemons, and then waits."""

    def __init__(self, sandbox: str, folder: Path) -> None:
        code = f"""
            import sys, textwrap
            from pathlib import Path
            from sia_core.harness import Manifest
            from sia_runtime.sandbox import tree
            from sia_runtime.worker.harness_worker import HarnessWorker, SolveRequest
            from sandbox.conftest import SANDBOXES
            from sia_core.types import Limits
            folder = Path({str(folder)!r})
            worker = HarnessWorker(SANDBOXES[{sandbox!r}](), folder / "leaves", Manifest(), folder / "public", Limits())
            list(worker.solve([SolveRequest("0", {{"id": "0", "input": {{}}, "start": None}}, 0)]))
            supervisor = worker._session._process._process.pid
            print(supervisor, *tree.descendants(supervisor), flush=True)
            sys.stdin.read()
        """
        (folder / "leaves").mkdir()
        (folder / "temporary").mkdir()
        (folder / "leaves" / "harness.py").write_text(textwrap.dedent(LEAVES_DAEMONS))
        self._process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": str(folder / "temporary"), "PYTHONPATH": str(Path(__file__).parents[1])},
        )

    def __enter__(self) -> tuple[subprocess.Popen[str], int, list[int]]:
        assert self._process.stdout is not None
        supervisor, *processes = map(int, self._process.stdout.readline().split())
        return self._process, supervisor, processes

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


def test_a_sandbox_outlives_the_thread_that_started_it(bench: Any) -> None:
    # The kernel's signal at a parent's death is sent when the parent's thread ends.
    worker = bench.worker("def solve(instance, ctx): return 1")
    thread = threading.Thread(target=bench.run, args=(worker, [0]))
    thread.start()
    thread.join()
    session = worker._session
    assert bench.run(worker, [0])[0].outcome == "ok"
    assert worker._session is session


def test_the_scratch_folder_of_the_host_is_removed(bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    bench.solve("def setup(ctx): (ctx.scratch / 'file').write_text('x')\ndef solve(instance, ctx): ...", [0])
    bench.workers[-1].close()
    assert left_in(tmp_path / "temporary") == []
