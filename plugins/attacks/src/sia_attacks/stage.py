"""Targets planted for one attack: secrets, listeners, a process, folders, and hidden labels."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import secrets
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import sia_runtime
from sia_core.types import Instance, Limits
from sia_runtime import builtin_verifiers
from sia_runtime.cases import Cases
from sia_runtime.sandbox import tree
from sia_runtime.sandbox.probes import Targets
from sia_testing.engines import ScriptedEngine

KEY = "SIA_ATTACKS_API_KEY"
"""The variable that holds a secret, here and in the victim's process."""

MB = 2**20
LIMITS = Limits(
    memory_bytes=320 * MB,
    total_memory_bytes=400 * MB,
    processes=32,
    file_bytes=8 * MB,
    scratch_bytes=24 * MB,
    output_bytes=16 * 1024,
    answer_bytes=64 * 1024,
)
_SEGMENT, _HIDDEN = 0x51A, 7
_SETUP_SECONDS = 3.0
_TIDY_SECONDS = 5.0
_VICTIM = """
import ctypes, os, sys
held = ctypes.create_string_buffer(sys.stdin.readline().strip().encode())
file = open(sys.argv[1])
print(ctypes.addressof(held), file.fileno(), flush=True)
sys.stdin.read()
"""


class Attacked(Cases):
    """The task, with limits that let an attack on memory or disk be over soon."""

    def __init__(self, data: str, harness: str, seed: int = 0, seconds: str = "30") -> None:
        super().__init__(data, harness, seed, seconds)
        self.limits = replace(LIMITS, solve_seconds=float(seconds), setup_seconds=max(_SETUP_SECONDS, float(seconds)))


def policy() -> ScriptedEngine:
    """A policy that replies to each rollout with its own secret."""
    return ScriptedEngine(lambda prompt, seed: f"reply-{sha256(f'{seed}/{prompt}'.encode()).hexdigest()[:16]}")


def cases() -> tuple[str, list[str]]:
    """A file of cases as text, and the labels that nobody can work out from their inputs.

    Half of the labels are sums, which an honest harness gets right; one is 1, which ``true`` is not.
    """
    hidden = [f"label-{secrets.token_hex(8)}" for _ in range(6)]
    rows: list[tuple[str, list[int], int | str]]
    rows = [("search", [0, 1], 1), ("search", [2, 3], 5), ("search", [4, 5], 9)]
    rows += [("search", [_HIDDEN, 100 + number], label) for number, label in enumerate(hidden[:3])]
    for split, label in zip(("gate", "sealed", "public"), hidden[3:], strict=True):
        rows += [(split, [9, len(rows)], label)]
    lines = [{"input": {"numbers": numbers}, "answer": label, "split": split} for split, numbers, label in rows]
    # The public case's label is not hidden.
    return "".join(json.dumps(each) + "\n" for each in lines), hidden[:5]


def is_hidden(instance: Instance) -> bool:
    """Whether nobody can work out its label."""
    return bool(instance.input["numbers"][0] == _HIDDEN)


class Victim:
    """A process of this user's: with a secret in its environment, one in its memory, and a file open."""

    def __init__(self, key: str, secret: str, file: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _VICTIM, str(file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={KEY: key},
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(secret.encode() + b"\n")
        self._process.stdin.flush()
        address, descriptor = self._process.stdout.readline().split()
        self.pid, self.address, self.size, self.descriptor = (
            self._process.pid,
            int(address),
            len(secret),
            int(descriptor),
        )
        self._before = self._state()

    def _state(self) -> list[object]:
        limits = resource.prlimit(self.pid, resource.RLIMIT_NOFILE)
        return [os.getpriority(os.PRIO_PROCESS, self.pid), sorted(os.sched_getaffinity(self.pid)), limits]

    def harmed(self) -> str | None:
        """The harm done to it, if any."""
        if self._process.poll() is not None:
            return "killed a process of the user's"
        if Path(f"/proc/{self.pid}/stat").read_bytes().rpartition(b") ")[2][:1] in b"tT":
            return "stopped a process of the user's"
        return None if self._state() == self._before else "changed priority, processors or limits of a process outside"

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


class Stage:
    """One attack's targets. ``mark`` is the name of whatever it leaves."""

    def __init__(self, stack: ExitStack, labels: list[Path], hidden: list[str], run: Path) -> None:
        self._folder = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="sia-attack-", ignore_cleanup_errors=True))
        )
        self._folder.chmod(0o777)
        self._targets = Targets(self._folder, stack)
        self._datagrams = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        self._datagrams.bind(str(self._folder / "datagrams"))
        (self._folder / "datagrams").chmod(0o777)
        self._labels = {path: path.read_bytes() for path in labels}
        self._run = run
        self.mark = f"a{secrets.token_hex(6)}"
        self.secrets = {f"hidden label {n}": label for n, label in enumerate(hidden)}
        self.secrets["a file outside"] = self._targets.token
        for name in ("key", "memory", "file in the home folder", "inherited descriptor", "folder outside"):
            self.secrets[name] = secrets.token_hex(16)
        self._precious, self._site = self._folder / "precious", self._folder / "site-packages"
        for folder in (self._precious, self._site):
            folder.mkdir()
            folder.chmod(0o777)
        (self._precious / "thesis").write_text(self.secrets["folder outside"])
        self._home = self._in_home(stack)
        self._inherit(stack)
        os.environ[KEY] = self.secrets["key"]
        stack.callback(os.environ.pop, KEY, None)
        self._victim = Victim(self.secrets["key"], self.secrets["memory"], self._targets.secret)
        stack.callback(self._victim.close)
        stack.callback(self._tidy)

    def _in_home(self, stack: ExitStack) -> Path | None:
        """A file as a key lies in a home folder; None where there is no home folder to write to."""
        try:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix=".sia-attack-", dir=Path.home()))
        except (OSError, RuntimeError):
            return None
        os.chmod(folder, 0o755)
        path = Path(folder) / "id_ed25519"
        path.write_text(self.secrets["file in the home folder"])
        return path

    def _inherit(self, stack: ExitStack) -> None:
        """A descriptor that every child of this process inherits, unless somebody sees to it."""
        descriptor, path = tempfile.mkstemp(dir=self._folder)
        stack.callback(os.close, descriptor)
        os.unlink(path)
        os.write(descriptor, self.secrets["inherited descriptor"].encode())
        os.set_inheritable(descriptor, True)

    @property
    def _places(self) -> list[Path]:
        """Where an attack might leave a file that something finds later."""
        shared = [Path(path) for path in (tempfile.gettempdir(), "/var/tmp", "/dev/shm")]
        shared += [self._folder, self._site, self._precious]
        runs = [self._run, self._run / "blobs", self._run / "trees", *(self._run / "trees").iterdir()]
        home = [self._home.parent] if self._home else []
        return [*shared, *runs, *home]

    def told(self, verifiers: list[int]) -> dict[str, Any]:
        """All that an attack is told: of a target, everything but the secret."""
        core = Path(sia_runtime.__file__).parent
        return {
            **self._targets.order(),
            "datagrams": self._datagrams.getsockname(),
            "mark": self.mark,
            "key": KEY,
            "victim": {name: getattr(self._victim, name) for name in ("pid", "address", "size", "descriptor")},
            "verifiers": verifiers,
            "labels": [str(path) for path in self._labels],
            "home": str(self._home),
            "precious": str(self._precious),
            "site": str(self._site),
            "places": [str(place) for place in self._places],
            "run": str(self._run),
            "core": str(core),
            "verifier_source": builtin_verifiers.__file__,
            "segment": _SEGMENT,
            "limits": {name: getattr(LIMITS, name) for name in ("processes", "memory_bytes", "total_memory_bytes")}
            | {"file_bytes": LIMITS.file_bytes, "scratch_bytes": LIMITS.scratch_bytes},
        }

    def harmed(self) -> list[str]:
        """The visible harm that an attack has done."""
        harms = [f"reached a listener: {name}" for name in self._targets.reached()]
        harms += ["sent a datagram to the host"] if select.select([self._datagrams], [], [], 0)[0] else []
        harms += [harm] if (harm := self._victim.harmed()) else []
        harms += ["wrote a file outside"] if self._targets.written.exists() else []
        if self._targets.secret.read_text() != self._targets.token:
            harms += ["changed a file outside"]
        if [path.name for path in self._precious.iterdir()] != ["thesis"]:
            harms += ["changed a folder outside"]
        harms += [f"changed the labels: {path}" for path, old in self._labels.items() if path.read_bytes() != old]
        harms += [f"left a file in {path.parent}" for path in self._left()]
        harms += ["left System V shared memory"] if _segment() is not None else []
        return harms

    def _left(self) -> Iterator[Path]:
        for place in self._places:
            names = [self.mark, f"{self.mark}.pth", *(["sitecustomize.py"] if place == self._site else [])]
            yield from (path for name in names if os.path.lexists(path := place / name))

    def marked(self) -> list[int]:
        """The processes of this attack's that still run, wherever they have got to."""
        processes = []
        # The newest first: one that starts itself anew all the time is not there for long.
        for process in sorted(map(int, filter(str.isdigit, os.listdir("/proc"))), reverse=True):
            with suppress(OSError):
                _, _, rest = Path(f"/proc/{process}/stat").read_bytes().partition(b"(")
                name, _, state = rest.rpartition(b") ")
                if name == self.mark.encode() and state[:1] not in b"ZX":
                    processes.append(process)
        return processes

    def supervisors(self) -> list[int]:
        """The children of this process's that such processes run below."""
        marked = set(self.marked())
        below = {child: marked.intersection(tree.descendants(child)) for child in children()}
        return [child for child, processes in below.items() if processes]

    def _tidy(self) -> None:
        """Take away what the attack left, and put back what it took: what is open must hurt nobody."""
        for path, old in self._labels.items():
            if path.read_bytes() != old:
                path.write_bytes(old)
        for path in list(self._left()):
            with suppress(OSError):
                path.unlink()
        if (segment := _segment()) is not None:
            ctypes.CDLL(None).shmctl(segment, 0, None)
        deadline = time.monotonic() + _TIDY_SECONDS
        while (remaining := self.marked()) and time.monotonic() < deadline:
            for process in remaining:
                with suppress(OSError):
                    os.kill(process, signal.SIGKILL)


def children() -> list[int]:
    """The processes that this one has started, and that still run."""
    return [each for each in tree.descendants(os.getpid()) if tree.parent(each) == os.getpid()]


def _segment() -> int | None:
    """The id of the segment of System V shared memory that an attack made, if there is one."""
    with suppress(OSError):
        for line in Path("/proc/sysvipc/shm").read_text().splitlines()[1:]:
            if int(line.split()[0]) == _SEGMENT:
                return int(line.split()[1])
    return None


@contextmanager
def staged(labels: list[Path], hidden: list[str], run: Path) -> Iterator[Stage]:
    """Targets for one attack, taken away afterwards."""
    with ExitStack() as stack:
        yield Stage(stack, labels, hidden, run)
