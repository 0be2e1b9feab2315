"""Running what a candidate wrote, once or call by call: what verifiers are given, as protocols.

What runs it is :mod:`sia_core.sandbox.run` and :mod:`sia_core.sandbox.calling`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from sia_core.types import Limits


class RunInSandbox(Protocol):
    """Runs files that a candidate wrote, in a sandbox of its own, timed by the caller."""

    def __call__(
        self, files: Mapping[str, bytes], command: Sequence[str], stdin: bytes = b"", *, limits: Limits | None = None
    ) -> Ran: ...


@dataclass(frozen=True)
class Ran:
    """What a program in a sandbox did. ``ended`` is ``ok`` or why it was stopped; output is data, never a score."""

    ended: str
    exit_code: int | None
    stdout: bytes
    stderr: bytes
    seconds: float


@dataclass(frozen=True)
class Called:
    """What came of one call.

    ``ended`` is ``ok``; ``error`` where the function, or the loading of its module,
    raised; or why there is no program any more: ``timeout``, ``memory``,
    ``processes``, ``disk``, ``killed`` or ``protocol``. ``value`` is what it returned:
    JSON, with numpy arrays at any place and lists for tuples, copied before it is
    looked at. ``seconds`` is by the caller's clock, from the order until that copy is
    whole. ``message`` says what is wrong, in the candidate's words or the sandbox's.
    """

    ended: str
    value: Any = None
    seconds: float = 0.0
    message: str = ""


class OpenedProgram(Protocol):
    """A module of a candidate's in a process of its own, which stands still between calls where that can be.

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

        Arguments are JSON with numpy arrays at any place, of numbers or booleans. The
        arrays are the candidate's for the length of the call: it sees a copy, and that
        is gone afterwards. ``handles`` are descriptors: the function gets its own, after the
        other arguments, and keeps what they stand for. ``at_reply`` is called when a reply has been
        read, before the program is made to stand still. Where a program has ended, each later
        call says so again. SandboxError for handles where none can be handed over.
        """

    def close(self) -> None:
        """Kill it. May be called twice."""

    def __enter__(self) -> OpenedProgram: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class OpenInSandbox(Protocol):
    """Loads ``module`` from ``files`` in a sandbox of its own, and returns when it is loaded or cannot be.

    A failure of the candidate's is told by the first call. The module may import the
    other files, the distributions that ``requires`` names, and numpy. With ``cuda`` it
    may use the host's CUDA devices; SandboxError where that cannot be.
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
