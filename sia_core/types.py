"""The protocols that plugins implement, and the values that pass between them.

Rewards are floats; inside a run higher is better. Values that cross a process are JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from pydantic import BaseModel

from sia_core.harness import HarnessTree
from sia_core.values import LARGEST_REWARD as LARGEST_REWARD
from sia_core.values import Instance as Instance
from sia_core.values import Json as Json
from sia_core.values import Kind as Kind
from sia_core.values import Limits as Limits
from sia_core.values import Metric as Metric
from sia_core.values import OfferRef as OfferRef
from sia_core.values import Score as Score
from sia_core.values import Split as Split

if TYPE_CHECKING:
    from sia_core.decision import Decision
    from sia_core.evidence import Evidence, TaskView
    from sia_core.playbook import Playbook


@runtime_checkable
class Task(Protocol):
    """A problem with a metric, its instances, a verifier and a seed harness.

    Its factory is called with the run's ``seed``, an int, and what ``--data`` (a path) and ``--set KEY=VALUE`` (text)
    give, as keyword arguments.

    Attributes
    ----------
    name : what reports call it.
    metric : what the rewards of its verifier measure, in which direction and between which bounds.
    kind : ``solve`` or ``discover``.
    brief : what an improver is told of the problem; names no label of a hidden split.
    answer : a pydantic model; answers that it refuses are invalid.
    verifier : the offer that scores answers, resolved in the verifier's process only.
    failure_reward : what a rollout without a valid answer earns, in units of the metric.
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


@runtime_checkable
class Discovers(Protocol):
    """A task of kind ``discover``, whose result is the best answer.

    ``evaluations``, at least 1, is how many answers a rollout on search or gate may have evaluated before it returns
    one; in training it is none.
    """

    evaluations: int

    def artefact(self, answer: Any) -> Mapping[str, bytes]:
        """The files that an answer is handed over as, by their paths: what a user of it wants."""


@runtime_checkable
class Perturbs(Protocol):
    """A task that can show an instance in another guise, of the same answer for whoever understands it.

    ``perturbation`` says in a few words what is changed.
    """

    perturbation: str

    def perturbed(self, instance: Instance) -> Mapping[str, Any]:
        """The input of the instance in its other guise; the same one every time."""


@dataclass(frozen=True)
class VerifierContext:
    """The last argument of ``score``: how to ``run`` a candidate's code once, or ``open`` it to call it, and seeds.

    An answer is ``final`` unless a harness had it evaluated and goes on searching (``discover``). All chance
    comes from ``seed`` and, for data that it makes up, from ``data_seed``, one a run: no harness can predict them.
    """

    run: RunInSandbox
    seed: int
    open: OpenInSandbox
    final: bool = True
    data_seed: int = 0


@runtime_checkable
class Verifier(Protocol):
    """Scores answers. Holds the hidden truth, so it lives in a separate process.

    Its factory is called there, with the settings beside its name. With ``--verifier NAME:ARG`` these are the task's
    verifier's settings and ``arg``. One that takes long says so by an attribute ``seconds_per_answer``: after two
    minutes, or as many, it is stopped.
    """

    def score(self, instance: Instance, answer: Any, ctx: VerifierContext) -> Score:
        """Score one answer: plain JSON that the task's model accepts. The same input gives the same score."""


@runtime_checkable
class Improver(Protocol):
    """Drafts the first harness and decides each next change. Both are pure functions of what they are given."""

    def draft(self, task: TaskView, seed: int) -> HarnessTree:
        """The first harness; most often ``task.seed``."""

    def decide(self, evidence: Evidence) -> Sequence[Decision]:
        """Decide what to change next: candidates of one generation, each with its parent. None lets it pass."""


@dataclass(frozen=True)
class Job:
    """Work for a backend: a ``function`` by name, ``"module:attribute"``, and a JSON ``payload``. Never a closure."""

    function: str
    payload: Mapping[str, Any]


@runtime_checkable
class Backend(Protocol):
    """Where work runs. A job's function is called as ``function(payload, host)`` on a worker.

    ``slots``, at least 1, is how many jobs of one agent it can make use of at once. Its factory is called with
    ``plugins``, the :class:`sia_core.plugins.Plugins` of the run.
    """

    slots: int

    def submit(self, job: Job) -> Future[Any]:
        """Run a job; the future holds its JSON result, or the exception that it raised."""

    def close(self) -> None:
        """Stop every worker."""


OnProgress = Callable[[Mapping[str, Any]], None]
"""Takes the figures by which a job reports how far it is. They are the worker's word."""


@runtime_checkable
class ReportsProgress(Protocol):
    """A backend that passes on what a job reports while it runs. No backend has to."""

    def submit_watched(self, job: Job, on_progress: OnProgress) -> Future[Any]:
        """Run a job as ``submit`` does, and call ``on_progress`` with each of its reports, before it ends."""


# Running what a candidate wrote, for verifiers.


class RunInSandbox(Protocol):
    """Runs files that a candidate wrote, in a fresh sandbox, timed by the caller."""

    def __call__(
        self, files: Mapping[str, bytes], command: Sequence[str], stdin: bytes = b"", *, limits: Limits | None = None
    ) -> Ran: ...


@dataclass(frozen=True)
class Ran:
    """Result of a program in a sandbox. ``ended`` is ``ok`` or why it was stopped, ``exit_code`` None where it was.

    ``stdout`` and ``stderr``, cut to the limits' ``output_bytes``, are data, never a score. ``seconds`` are by the
    caller's clock.
    """

    ended: str
    exit_code: int | None
    stdout: bytes
    stderr: bytes
    seconds: float


@dataclass(frozen=True)
class Called:
    """The result of one call.

    ``ended`` is ``ok``; ``error`` where the function, or the loading of its module, raised; or why there is no program
    any more: ``timeout``, ``memory``, ``processes``, ``disk``, ``killed`` or ``protocol``. ``value`` is what it
    returned: JSON, with numpy arrays at any place and lists for tuples, copied before it is looked at. ``seconds``
    is by the caller's clock, from the order until that copy is whole; ``processor_seconds`` is what the program used,
    but for ended processes; 0 if unknown. ``message`` says what is wrong, in the candidate's words or the sandbox's.
    """

    ended: str
    value: Any = None
    seconds: float = 0.0
    message: str = ""
    processor_seconds: float = 0.0


class OpenedProgram(AbstractContextManager["OpenedProgram", None], Protocol):
    """A candidate's module in a separate process, which is stopped between calls where that is possible.

    Used by one thread. It ends with the ``with`` block.
    """

    def call(
        self,
        function: str,
        arguments: Sequence[Any] = (),
        seconds: float | None = None,
        handles: Sequence[int] = (),
        at_reply: Callable[[], None] | None = None,
    ) -> Called:
        """Call a function of the module; by default it has the limits' ``solve_seconds``.

        Arguments are JSON with numpy arrays at any place, of numbers or booleans. The arrays are the candidate's for
        the length of the call: it sees a copy, and that is gone afterwards. ``handles`` are descriptors: the function
        gets its own, after the other arguments, and keeps what they stand for. ``at_reply`` is called when a reply has
        been read, before the program is made to stand still. Where a program has ended, each later call says so again.
        SandboxError for handles where none can be handed over.
        """

    def close(self) -> None:
        """Kill it. May be called twice."""


class OpenInSandbox(Protocol):
    """Loads ``module`` from ``files`` in a fresh sandbox, and returns once it is loaded or has failed.

    A failure of the candidate is reported by the first call. The module may import the other files, the distributions
    that ``requires`` names, and numpy. With ``cuda`` it may use the host's CUDA devices; SandboxError where that
    cannot be.
    """

    def __call__(
        self,
        files: Mapping[str, bytes],
        module: str,
        *,
        requires: tuple[str, ...] = (),
        limits: Limits | None = None,
        cuda: bool = False,
    ) -> OpenedProgram: ...
