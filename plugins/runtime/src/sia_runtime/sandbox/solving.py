"""Loading a harness, its ``ctx`` and ``instance``, and one solve from input to answer.

Runs inside the sandbox and in exported agents, on the standard library alone.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace

from sia_runtime.sandbox.frames import LARGEST, MAX_STEP_REWARDS, MODEL_BYTES, FrameReader, Header, encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from logging import Logger
    from typing import Any

MODULE = "harness"
_MESSAGE = 4000
_CAUSES = 5

ENVIRONMENT = {
    "PYTHONHASHSEED": "0",
    "PYTHONUTF8": "1",
    "LANG": "C.UTF-8",
    # A pool of threads that was started before a fork hangs after it, and each solve has one core anyway.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NUMEXPR_NUM_THREADS": "1",
}
"""The environment of a process that solves."""

Ask = Callable[[str, bytes], "tuple[Header, bytes]"]


class ModelError(Exception):
    """A call of the policy failed, or this run has none. The message says which."""


class ContextLengthExceeded(ModelError):
    """Prompt and reply are longer than the policy's context. The message says by how much."""


class EvaluationError(Exception):
    """An answer could not be evaluated, or no evaluation is left. The message says which."""


class Context:
    """The argument of ``setup``, and the second one of ``solve``.

    ``public`` is the folder of the task's public files, ``scratch`` a folder of
    this call's own, ``seed`` the rollout's seed, and ``state`` what ``setup``
    returned. ``has_model`` says whether the run has a policy, which only ``solve``
    may ask; ``evaluations`` how often ``solve`` may still have an answer evaluated.
    """

    ModelError, ContextLengthExceeded, EvaluationError = ModelError, ContextLengthExceeded, EvaluationError

    def __init__(
        self,
        public: str,
        scratch: str,
        seed: int,
        state: Any,
        *,
        has_model: bool,
        evaluations: int = 0,
        ask: Ask | None = None,
    ) -> None:
        self.public, self.scratch = Path(public), Path(scratch)
        self.seed, self.state, self.has_model, self.evaluations = seed, state, has_model, evaluations
        self.step_rewards: list[float] = []
        self._ask = ask

    @property
    def log(self) -> Logger:
        """A logger whose lines come back with the result."""
        import logging

        logger = logging.getLogger(MODULE)
        if not logger.handlers:
            handler = logging.StreamHandler()
            handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
            logger.addHandler(handler)
            logger.setLevel(logging.INFO)
            logger.propagate = False
        return logger

    def reward(self, value: float) -> None:
        """Record a step reward. It is the harness's own word and kept as such."""
        if len(self.step_rewards) >= MAX_STEP_REWARDS:
            raise ValueError(f"more than {MAX_STEP_REWARDS} step rewards")
        number = float(value)
        if not abs(number) < LARGEST:
            raise ValueError(f"a step reward is a number below {LARGEST:g}, not {number}")
        self.step_rewards.append(number)

    def model(self, messages: list[dict[str, Any]], **settings: Any) -> dict[str, Any]:
        """Ask the run's policy, in the shape of chat completions.

        Raises ``ctx.ModelError`` where that fails, and its subclass ``ctx.ContextLengthExceeded``
        where messages and reply are longer than the policy's context.
        """
        if self._ask is None or not self.has_model:
            why = (
                "set-up may not ask it; solve may"
                if self.has_model
                else "--policy gives this run one; see ctx.has_model"
            )
            raise ModelError(f"there is no policy to ask: {why}")
        request = json.dumps({**settings, "messages": messages}).encode()
        if len(request) > MODEL_BYTES:
            raise ModelError(f"a request of {len(request)} bytes is longer than {MODEL_BYTES}")
        header, body = self._ask("model", request)
        if "error" in header:
            kind = ContextLengthExceeded if header.get("code") == "context_length_exceeded" else ModelError
            raise kind(str(header["error"]))
        reply: dict[str, Any] = json.loads(body)
        return reply

    def evaluate(self, answer: Any) -> SimpleNamespace:
        """Have the verifier score an answer: its ``reward``, ``valid``, ``metrics`` and ``feedback``.

        Raises EvaluationError where none is left (see ``evaluations``) or this one fails.
        The answer that ``solve`` returns is scored again, on inputs that no evaluation shows.
        """
        if self._ask is None or self.evaluations <= 0:
            raise EvaluationError("no evaluation is left; see ctx.evaluations")
        self.evaluations -= 1
        header, body = self._ask("evaluate", json.dumps(answer, allow_nan=False, ensure_ascii=False).encode())
        if "error" in header:
            raise EvaluationError(str(header["error"]))
        return SimpleNamespace(**json.loads(body))


_WAITED_FOR = 0x80 | 0x200 | 0x20
"""Flags of the code of coroutines, asynchronous generators and generators, as in the module inspect."""


def load(folder: str, entry: str) -> ModuleType:
    """Import the entry point, with the folders beside it importable as for a script."""
    from importlib.util import module_from_spec, spec_from_file_location

    path = os.path.join(folder, entry)
    sys.path[:0] = list(dict.fromkeys((os.path.dirname(path), folder)))
    spec = spec_from_file_location(MODULE, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{entry} is not a Python file")
    module = sys.modules[MODULE] = module_from_spec(spec)
    spec.loader.exec_module(module)
    if not callable(getattr(module, "solve", None)):
        raise AttributeError(f"{entry} defines no solve(instance, ctx)")
    if getattr(getattr(module.solve, "__code__", None), "co_flags", 0) & _WAITED_FOR:
        raise TypeError(f"{entry}: solve is async or yields, and its result is not awaited; return the answer")
    return module


def solve(module: ModuleType, instance: Mapping[str, Any], ctx: Context, folder: str) -> tuple[Header, bytes]:
    """One instance: the outcome and the answer as JSON text. ``folder`` is the harness's. Raises nothing."""
    _seed(ctx.seed)
    os.environ["TMPDIR"] = os.environ["HOME"] = str(ctx.scratch)
    os.chdir(ctx.scratch)
    try:
        answer = module.solve(SimpleNamespace(**instance), ctx)
    except BaseException as error:
        return {"outcome": outcome_of(error), "message": describe(error, folder)}, b""
    try:
        text = json.dumps(answer, allow_nan=False, ensure_ascii=False).encode()
    except BaseException as error:
        return {"outcome": "not-json", "message": f"the answer is not JSON: {describe(error)}"}, b""
    return {"outcome": "ok", "message": ""}, text


def outcome_of(error: BaseException) -> str:
    """The outcome that an exception stands for."""
    import errno

    if isinstance(error, MemoryError):
        return "memory"
    full = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
    return "disk" if isinstance(error, OSError) and error.errno in full else "crash"


def ended_as(status: int) -> tuple[str, str]:
    """The outcome and the message of a process that ended before it answered."""
    import signal

    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return "killed", f"killed by signal {number} ({signal.strsignal(number)})"
    return "crash", f"its process ended with exit code {os.waitstatus_to_exitcode(status)} before it answered"


def describe(error: BaseException, folder: str = "") -> str:
    """Type and text of an exception and of its causes, its lines in ``folder``, and the module that raised the first.

    Whatever its ``__str__`` does, and without paths of this machine beside those in its text.
    """
    lines = []
    try:
        causes = list(_causes(error))
        lines += [f"caused by {_line(each)}"[:300] for each in causes]
        lines += _frames((causes or [error])[-1], error, folder)
    except BaseException:
        lines = []
    message = "\n".join([_line(error)[: _MESSAGE // 2], *lines])[:_MESSAGE]
    return message.encode(errors="replace").decode()


def _line(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except BaseException:
        return f"{type(error).__name__}: (its text cannot be had)"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The exceptions that led to this one, the first of all last."""
    ids = {id(error)}
    for _ in range(_CAUSES):
        cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if cause is None or id(cause) in ids:
            return
        ids.add(id(cause))
        yield cause
        error = cause


def _frames(first: BaseException, last: BaseException, folder: str) -> list[str]:
    """The lines in ``folder`` that an exception passed; and where the first of its causes was raised, if elsewhere."""
    import traceback

    lines = []
    for frame in traceback.extract_tb(last.__traceback__)[-50:]:
        if folder and frame.filename.startswith(f"{folder}/"):
            name = frame.filename[len(folder) + 1 :]
            lines.append(f"  {name}:{frame.lineno} in {frame.name}: {frame.line}")
    if isinstance(last, SyntaxError) and folder and str(last.filename).startswith(f"{folder}/"):
        return [*lines, f"  {str(last.filename)[len(folder) + 1 :]}:{last.lineno}: {str(last.text).strip()}"[:300]]
    trace = first.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if folder and trace is not None and not trace.tb_frame.f_code.co_filename.startswith(f"{folder}/"):
        module = str(trace.tb_frame.f_globals.get("__name__"))
        if not module.startswith("sia_runtime."):  # which called the harness
            lines.insert(0, f"  raised in {module}.{trace.tb_frame.f_code.co_name}"[:200])
    return lines


def _seed(seed: int) -> None:
    """The same start for every rollout of this seed, whatever ran before it."""
    import random

    random.seed(seed)
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed(seed & 0xFFFFFFFF)
    if "tempfile" in sys.modules:
        setattr(sys.modules["tempfile"], "tempdir", None)  # noqa: B010 - it remembers the folder of the fork's parent


class Asking:
    """A solving process's end of its pipes: requests come in, results and model calls go out."""

    def __init__(self, source: int, sink: int, body_bytes: int) -> None:
        self._source, self._sink = source, sink
        self._reader = FrameReader(body_bytes)
        self._waiting: list[tuple[Header, bytes]] = []

    def receive(self) -> tuple[Header, bytes] | None:
        """The next frame, or None when there will be none."""
        while not self._waiting:
            data = os.read(self._source, 1 << 16)
            if not data:
                return None
            self._waiting += self._reader.feed(data)
        return self._waiting.pop(0)

    def send(self, header: Header, body: bytes = b"") -> None:
        """Write one frame."""
        data = memoryview(encode(header, body))
        while data:
            data = data[os.write(self._sink, data) :]

    def ask(self, what: str, request: bytes) -> tuple[Header, bytes]:
        """One call of the policy, ``model``, or of the verifier, ``evaluate``."""
        self.send({"op": what}, request)
        reply = self.receive()
        if reply is None:
            raise ModelError("the run has ended")
        return reply
