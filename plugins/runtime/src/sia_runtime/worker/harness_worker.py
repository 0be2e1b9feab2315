"""Solving instances with one harness: starts its sandbox, keeps it warm, and survives whatever it does."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from sia_core.errors import SandboxError
from sia_core.harness import Manifest
from sia_core.types import Json, Limits
from sia_runtime.sandbox import guest
from sia_runtime.sandbox.contract import ModelAccess, Mount, Sandbox, SandboxSpec
from sia_runtime.sandbox.libraries import import_names, library_paths
from sia_runtime.worker.endpoint import MODEL_SECONDS
from sia_runtime.worker.session import Answered, Died, Done, Evaluates, Event, PolicyRequest, Session, Waiting

ASKING, MOST_SLOTS = 32, 256
"""Instances that are solved at once where they ask a policy, and the most that ever are."""

_GRACE_SECONDS = 10.0
_DEATHS = 4
"""A harness that killed its sandbox so often, with no instance answered in between, is given up."""

_ACCOMPANIED = frozenset({"disk"})
"""Outcomes that a neighbour in the same sandbox may have caused: such an instance is solved again, alone."""


@dataclass(frozen=True)
class SolveRequest:
    """One instance to solve: ``{"id", "input", "start"}``, under a key that comes back with the result.

    The key, the seed, ``group``, ``training``, ``place`` and ``tokens`` are what the policy is told of
    the rollout: :meth:`sia_runtime.sandbox.contract.ModelAccess.begin`. It may ask the judge
    for ``evaluations`` evaluations.
    """

    key: str
    instance: Mapping[str, Json]
    seed: int
    group: int = 1
    training: bool = False
    place: int | None = None
    tokens: int | None = None
    evaluations: int = 0


class Scorer(Protocol):
    """Scores answers on behalf of harnesses that are solving."""

    def ask(self, key: str, answer: str) -> Future[Mapping[str, Any]]:
        """Score JSON text; the future holds the evaluation, or ``{"error": {"message", ...}}``.

        A rollout may be started again, and is granted nothing anew by that.
        """


@dataclass(frozen=True)
class SolveResult:
    """The result of one instance.

    ``outcome`` is ``ok``, ``timeout``, ``crash``, ``killed``, ``memory``,
    ``processes``, ``disk``, ``flood``, ``answer-too-large``, ``not-json``,
    ``protocol``, ``setup-crash`` or ``setup-timeout``. ``answer`` is JSON text,
    there if the outcome is ``ok``. Everything here but the outcome's being one of
    these is the harness's own word.
    """

    key: str
    outcome: str
    answer: str | None = None
    message: str = ""
    log: str = ""
    seconds: float = 0.0
    step_rewards: tuple[float, ...] = ()


class HarnessWorker:
    """One harness, set up in a sandbox when the first instance comes, and kept until it is closed."""

    def __init__(
        self,
        sandbox: Sandbox,
        tree_dir: Path,
        manifest: Manifest,
        public_dir: Path,
        limits: Limits,
        model: ModelAccess | None = None,
        slots: int | None = None,
        judge: Scorer | None = None,
        rows: int = 0,
    ) -> None:
        """``slots`` is how many instances are solved at once: by default one a core, and more where they ask a policy.

        An instance that waits for the policy needs no core, and the policy answers many at once:
        at least 32, or all of its ``rows``. Half of the processes that the sandbox may have stay free.
        """
        self._sandbox, self._manifest, self._limits = sandbox, manifest, limits
        self._model, self._judge = model, judge
        self._mounts = (Mount("harness", tree_dir), Mount("public", public_dir))
        usual = min(max(ASKING, rows), max(1, limits.processes // 2)) if model else os.cpu_count() or 1
        self._slots = min(slots or usual, MOST_SLOTS)
        self._session: Session | None = None
        self._jobs = itertools.count(1)
        self._mutex = threading.Lock()
        self._closed = False

    def solve(self, requests: Sequence[SolveRequest]) -> Generator[SolveResult, None, None]:
        """Solve instances; results come as they finish, each exactly once.

        An instance that hangs or crashes costs itself alone. When a whole sandbox
        dies, those that were in it are solved again one at a time, to see which of
        them it was; a harness that goes on killing its sandbox is given up, and what
        remains gets the same outcome.
        """
        run = _Run(requests, self._jobs)
        try:
            while run.unfinished():
                for result in self._advance(run):
                    started = time.monotonic()
                    yield result
                    run.suspended += time.monotonic() - started
        finally:
            if run.flying:
                self._end(run.flying.values())
                self._drop()

    def close(self) -> None:
        """Kill the sandbox. A :meth:`solve` in another thread ends with SandboxError."""
        self._closed = True
        self._drop()

    def _advance(self, run: _Run) -> list[SolveResult]:
        """One step: start what can start, take what has come."""
        try:
            session = self._running()
        except Died as death:
            return run.give_up(death)
        results: list[SolveResult] = []
        try:
            for flight in run.launch(self._slots, self._limits):
                self._begin(flight.request)
                request = flight.request
                session.submit(flight.job, request.key, request.seed, request.instance, request.evaluations)
            for event in session.receive(run.next_deadline() - run.now()):
                results += self._handle(run, session, event)
            if run.overdue() and not results:
                raise Died("timeout", f"no answer within {self._limits.solve_seconds:g} seconds, nor any word of it")
            return results
        except Died as death:
            self._end(run.flying.values())
            self._drop()
            self._check_open()
            blamed = run.blame(death)
            run.deaths += len(blamed)
            return results + blamed + (run.give_up(death) if run.deaths >= _DEATHS else [])

    def _handle(self, run: _Run, session: Session, event: Event) -> list[SolveResult]:
        flight = run.flying.get(event.job)
        if isinstance(event, Answered | Waiting):
            if flight is not None:
                flight.asked &= not isinstance(event, Answered)
                flight.wait(run.now(), begins=isinstance(event, Waiting) and event.begins)
            return []
        if flight is None:
            raise Died("protocol", "a word on an instance that was not asked for")
        if isinstance(event, PolicyRequest | Evaluates):
            if flight.asked:
                raise Died("protocol", "a question before the last one was answered")
            session.answer_later(event.job, self._answer(flight.request.key, event))
            flight.asked = True
            flight.wait(run.now(), begins=True)
            return []
        self._end([flight])
        return run.finish(flight, event)

    def _answer(self, key: str, event: PolicyRequest | Evaluates) -> Future[Mapping[str, Any]]:
        try:
            if isinstance(event, PolicyRequest) and self._model is not None:
                return self._model.ask(key, event.request)
            if isinstance(event, Evaluates) and self._judge is not None:
                return self._judge.ask(key, event.answer)
        except Exception as error:  # over this question; whoever else asks is answered
            failed: Future[Mapping[str, Any]] = Future()
            failed.set_exception(error)
            return failed
        raise Died("protocol", "a question that nobody answers")

    def _begin(self, request: SolveRequest) -> None:
        if self._model is not None:
            self._model.begin(
                request.key,
                request.seed,
                group=request.group,
                training=request.training,
                place=request.place,
                tokens=request.tokens,
            )

    def _end(self, flights: Iterable[_Flight]) -> None:
        if self._model is not None:
            for flight in flights:
                self._model.end(flight.request.key)

    def _running(self) -> Session:
        with self._mutex:
            self._check_open()
            if self._session is not None:
                return self._session
        requires = self._manifest.requires
        spec = SandboxSpec(
            Path(guest.__file__),
            self._mounts,
            library_paths(requires),
            import_names(requires),
            self._limits,
            listener=self._model is not None,
        )
        session = Session(self._sandbox.start(spec), self._limits, self._model)
        with self._mutex:
            self._session = session
        if self._closed:
            self._drop()
        try:
            session.set_up(self._order())
        except Died:
            self._drop()
            self._check_open()
            raise
        return session

    def _order(self) -> dict[str, Any]:
        return {
            "entry": self._manifest.entry,
            "stateless": self._manifest.stateless,
            "slots": self._slots,
            "solve_seconds": self._limits.solve_seconds,
            "output_bytes": self._limits.output_bytes,
            "answer_bytes": self._limits.answer_bytes,
            "model": self._model is not None,
        }

    def _drop(self) -> None:
        with self._mutex:
            session, self._session = self._session, None
        if session is not None:
            session.close()

    def _check_open(self) -> None:
        if self._closed:
            raise SandboxError("the worker was closed while it was in use")


@dataclass
class _Flight:
    """An instance that is being solved. ``waits`` is how many of its questions are under way."""

    job: int
    request: SolveRequest
    started: float
    deadline: float
    alone: bool
    asked: bool = False
    waits: int = 0
    since: float = 0.0

    def wait(self, now: float, *, begins: bool) -> None:
        """It begins or ceases to wait for an answer: meanwhile another, longer time limit holds."""
        if begins:
            if not self.waits:
                self.since, self.deadline = now, self.deadline + MODEL_SECONDS
            self.waits += 1
        elif self.waits:
            self.waits -= 1
            if not self.waits:
                self.deadline += now - self.since - MODEL_SECONDS


class _Run:
    """The state of one call of ``solve``: what waits, what is being solved, and what must be solved alone."""

    def __init__(self, requests: Sequence[SolveRequest], jobs: Iterator[int]) -> None:
        self.waiting = deque(requests)
        self.suspects: deque[SolveRequest] = deque()
        self.flying: dict[int, _Flight] = {}
        self.deaths = 0
        self.suspended = 0.0
        self._jobs = jobs

    def now(self) -> float:
        """A clock that stands still while the caller looks at a result."""
        return time.monotonic() - self.suspended

    def unfinished(self) -> bool:
        return bool(self.waiting or self.suspects or self.flying)

    def launch(self, slots: int, limits: Limits) -> list[_Flight]:
        """The solves to start now: a suspect once nothing else runs, or as many as there are slots for."""
        if self.suspects:
            return [] if self.flying else [self._fly(self.suspects.popleft(), limits, alone=True)]
        started = []
        while self.waiting and len(self.flying) < slots:
            started.append(self._fly(self.waiting.popleft(), limits, alone=False))
        return started

    def _fly(self, request: SolveRequest, limits: Limits, *, alone: bool) -> _Flight:
        job = next(self._jobs)
        # Twice the time: a neighbour may hold all processes until its own time is up.
        deadline = self.now() + 2 * limits.solve_seconds + _GRACE_SECONDS
        flight = self.flying[job] = _Flight(job, request, self.now(), deadline, alone)
        return flight

    def next_deadline(self) -> float:
        return min(flight.deadline for flight in self.flying.values())

    def overdue(self) -> list[_Flight]:
        return [flight for flight in self.flying.values() if flight.deadline <= self.now()]

    def finish(self, flight: _Flight, event: Done) -> list[SolveResult]:
        """Take a result, unless a neighbour may have spoilt it."""
        del self.flying[flight.job]
        self.deaths = 0
        if event.outcome in _ACCOMPANIED and not flight.alone:
            self.suspects.append(flight.request)
            return []
        seconds = max(0.0, min(event.seconds, self.now() - flight.started))
        key = flight.request.key
        return [SolveResult(key, event.outcome, event.answer, event.message, event.log, seconds, event.step_rewards)]

    def blame(self, death: Died) -> list[SolveResult]:
        """The sandbox died: what was alone in it did it, or was overdue; others are tried again alone."""
        guilty = self.overdue() or (list(self.flying.values()) if len(self.flying) == 1 else [])
        self.suspects.extendleft(flight.request for flight in reversed(self.flying.values()) if flight not in guilty)
        self.flying = {}
        return [SolveResult(each.request.key, death.outcome, message=death.message) for each in guilty]

    def give_up(self, death: Died) -> list[SolveResult]:
        """Nothing more will come of this harness: each instance that is left gets the outcome."""
        requests = [flight.request for flight in self.flying.values()] + [*self.suspects, *self.waiting]
        self.flying, self.suspects, self.waiting = {}, deque(), deque()
        return [SolveResult(request.key, death.outcome, message=death.message) for request in requests]
