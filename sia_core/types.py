"""The protocols that plugins implement, and the small values that pass between them.

Rewards are floats, higher is better. Values that cross a process are JSON.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from pydantic import BaseModel

from sia_core.harness import HarnessTree

if TYPE_CHECKING:
    from sia_core.decision import RewriteHarness, Stop, UpdateWeights
    from sia_core.evidence import Evidence, TaskView
    from sia_core.opening import OpenInSandbox, RunInSandbox
    from sia_core.playbook import Playbook

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
Split = Literal["public", "search", "gate", "sealed"]
Kind = Literal["solve", "discover"]


@dataclass(frozen=True)
class Metric:
    """What a task measures. ``bounds`` are the least and the largest reward, None where there is none.

    ``ordinal`` says that only the order of rewards means something, not how far apart they are.
    """

    name: str
    direction: Literal["maximize", "minimize"] = "maximize"
    unit: str = ""
    bounds: tuple[float, float] | None = (0.0, 1.0)
    ordinal: bool = False

    @property
    def span(self) -> float:
        """From the least to the largest reward; 1 where there is none."""
        return self.bounds[1] - self.bounds[0] if self.bounds else 1.0


@dataclass(frozen=True)
class Instance:
    """One thing to solve. ``id`` derives from content and says nothing of the label; ``input`` is JSON."""

    id: str
    split: Split
    input: Mapping[str, Any]
    start: Json = None


@dataclass(frozen=True)
class OfferRef:
    """An offer by its name, and the settings to call its factory with, as JSON."""

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Score:
    """A verifier's word on one answer. An answer that is not ``valid`` counts as a failure, whatever its reward."""

    reward: float
    valid: bool = True
    metrics: Mapping[str, float] = field(default_factory=dict)
    feedback: str = ""


@dataclass(frozen=True)
class Limits:
    """What one sandbox may use. Memory is per process, and in total for all of its processes together."""

    memory_bytes: int = 4 * 2**30
    total_memory_bytes: int = 8 * 2**30
    processes: int = 64
    file_bytes: int = 512 * 2**20
    scratch_bytes: int = 1 * 2**30
    output_bytes: int = 64 * 1024
    answer_bytes: int = 1 * 2**20
    setup_seconds: float = 300.0
    solve_seconds: float = 30.0


@runtime_checkable
class Task(Protocol):
    """A problem with a metric, its instances, a verifier and a seed harness.

    Its factory is called with the run's ``seed``, an int, and what ``--data`` (a
    path) and ``--set KEY=VALUE`` (text) give, as keyword arguments.

    Attributes
    ----------
    kind : ``solve`` or ``discover``.
    brief : what an improver is told of the problem; names no label of a hidden split.
    answer : a pydantic model; answers that it refuses are invalid.
    verifier : the offer that scores answers, resolved in the verifier's process only.
    failure_reward : what a rollout without a valid answer earns.
    limits : what a harness may use for its set-up and for one instance.
    fingerprint : digest of data and settings; a run is resumed only with the same one.
    """

    name: str
    kind: Kind
    brief: str
    metric: Metric
    answer: type[BaseModel]
    verifier: OfferRef
    failure_reward: float
    limits: Limits
    fingerprint: str

    def instances(self, split: Split) -> Sequence[Instance]:
        """The instances of a split without labels, in a stable order. The four splits are disjoint."""

    def public_dir(self, splits: Sequence[Split]) -> Path:
        """A folder that harnesses may read, holding the labelled cases of ``splits`` and nothing of the others."""

    def seed_harness(self) -> HarnessTree:
        """The harness that a run starts from."""

    def playbook(self) -> Playbook | None:
        """The task's own catalogue of harness edits, if it has one."""


@dataclass(frozen=True)
class VerifierContext:
    """What a verifier is handed beside the answer: ways to run what it judges, once or call by call, and its seed.

    An answer is ``final`` unless a harness had it evaluated and goes on searching (``discover``).
    """

    run: RunInSandbox
    seed: int
    open: OpenInSandbox
    final: bool = True


@runtime_checkable
class Verifier(Protocol):
    """Gives an answer its score. Holds the hidden truth; lives in a process of its own.

    Its factory is called there, with the settings beside its name. With ``--verifier
    NAME:ARG`` these are the task's verifier's settings and ``arg``. One that takes long says
    so by an attribute ``seconds_per_answer``: after two minutes, or as many, it is stopped.
    """

    def score(self, instance: Instance, answer: Any, ctx: VerifierContext) -> Score:
        """Score one answer: plain JSON that the task's model accepts. The same input gives the same score."""


@runtime_checkable
class Improver(Protocol):
    """Drafts the first harness and decides each next change. Both are pure functions of what they are given."""

    def draft(self, task: TaskView, seed: int) -> HarnessTree:
        """The first harness; most often ``task.seed``."""

    def decide(self, evidence: Evidence) -> Sequence[RewriteHarness | UpdateWeights | Stop]:
        """What to change next. Several decisions are candidates of one generation, each with its parent."""


@dataclass(frozen=True)
class Job:
    """Work for a backend: a function by name, ``"module:attribute"``, and a JSON payload. Never a closure."""

    function: str
    payload: Mapping[str, Any]


class Handle(Protocol):
    """Something that lives long on a backend: an engine or a verifier."""

    def call(self, method: str, payload: Mapping[str, Any]) -> Any: ...

    def close(self) -> None: ...


@runtime_checkable
class Backend(Protocol):
    """Where work runs. A job's function is called as ``function(payload, host)`` on a worker.

    ``slots`` is how many jobs of one agent it can make use of at once. Its factory is
    called with ``plugins``, the :class:`sia_core.plugins.Plugins` of the run.
    """

    slots: int

    def submit(self, job: Job) -> Future[Any]:
        """Run a job; the future holds its JSON result, or the exception that it raised."""

    def serve(self, name: str, payload: Mapping[str, Any]) -> Handle:
        """Start something that lives until its handle is closed."""

    def close(self) -> None:
        """Stop every worker and everything served."""


# Sandboxes.

GUARANTEES = ("files", "net", "environment", "processes", "total_memory", "total_disk")
REQUIRED_GUARANTEES = frozenset({"files", "net", "environment", "processes"})


@dataclass(frozen=True)
class Mount:
    """A file or folder of the host that a program in the sandbox may read, under a name of its own."""

    name: str
    host: Path


@dataclass(frozen=True)
class SandboxSpec:
    """A program to start: a Python file that defines ``main(channel, world)``.

    It is loaded before the sandbox is sealed and may import the standard library
    and modules of ``sia_core.sandbox`` that import nothing else; ``main`` runs
    inside, with the descriptor of its end of the channel and a
    :class:`sia_core.sandbox.launch.World` that gives each mount's path by its name
    and ``scratch``, the writable folder. ``sys.path`` holds the ``libraries``:
    packages, modules and metadata folders, at the top of one folder; modules of them named
    in ``imports`` may be imported before the sandbox is made, for many at once. With
    ``listener``, a sandbox with a network of its own gives the host a listener on its loopback;
    with ``cuda`` the program may use the host's CUDA devices, whose driver is then a wall less.
    """

    program: Path
    mounts: tuple[Mount, ...] = ()
    libraries: tuple[Path, ...] = ()
    imports: tuple[str, ...] = ()
    limits: Limits = Limits()
    listener: bool = False
    cuda: bool = False


class SandboxProcess(Protocol):
    """A running sandbox. ``channel`` is the host's end of a stream socket.

    ``listener`` accepts what the program inside connects to, the one address that it
    can; None where the spec asked for none or the sandbox can have none.
    """

    channel: socket.socket
    listener: socket.socket | None

    def kill(self) -> None:
        """Kill the whole tree of processes and remove the scratch folder. May be called twice."""

    def ended(self) -> str | None:
        """Why it ended (``exit 1``, ``signal 9``, ``memory``, ``processes``, ``disk``), or None while it runs."""

    def stderr(self) -> str:
        """The last few kilobytes of what it printed: a diagnostic, from a hostile source."""


@runtime_checkable
class Sandbox(Protocol):
    """Isolates candidate code. Declares what it guarantees rather than what it is made of."""

    name: str
    guarantees: frozenset[str]

    def probe(self) -> Mapping[str, str]:
        """Attack itself on this machine: for each guarantee that does not hold, why. Empty when all hold."""

    def start(self, spec: SandboxSpec) -> SandboxProcess:
        """Start a program; SandboxError where that fails."""


class ModelAccess(Protocol):
    """The run's policy, asked on behalf of harnesses, by several threads. Each rollout has a key of its own."""

    def begin(
        self,
        key: str,
        seed: int,
        *,
        group: int = 1,
        training: bool = False,
        place: int | None = None,
        tokens: int | None = None,
    ) -> None:
        """A rollout starts, perhaps for the second time: nothing of an earlier start counts any more but its tokens.

        ``group`` is how many rollouts of one prompt there will be; in ``training``, the
        engine's own temperature holds, whatever the harness asks for. Calls that may take
        it past ``tokens``, of prompts and replies, are refused.
        """

    def ask(self, key: str, request: Mapping[str, Any]) -> Future[Mapping[str, Any]]:
        """One call in the shape of chat completions; the future holds the reply, or ``{"error": {"message", ...}}``."""

    def end(self, key: str) -> None:
        """The rollout asks nothing more. May be called twice."""
