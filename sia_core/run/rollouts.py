"""Rolling a harness out over instances: a sweep is cut into batches, which a backend runs and the ledger records.

The work of a batch is :mod:`sia_runtime.worker.batch`, a job: nothing here solves or scores.
"""

from __future__ import annotations

import math
import secrets
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from sia_core.errors import Unfinished
from sia_core.evidence import Rollout
from sia_core.run import record
from sia_core.run.allowance import Allowance
from sia_core.run.ledger import Ledger
from sia_core.run.observe import Emitter
from sia_core.types import Backend, Job, Json, OfferRef, OnProgress, ReportsProgress, Split

BATCH = 64
"""Rollouts a step, or answers to score: what a kill may cost at most."""

SHARED = 2
"""Batches of an agent that are under way at once, at most, where tokens are handed out: shares depend on how many."""

REPORT_SECONDS = 1.0
"""Observers are told at most this often of rollouts that are not recorded yet."""


class GivenUp(Unfinished):
    """A sweep is given up: it timed out too often, or is ``short`` of tokens. ``done`` is what it came to."""

    def __init__(self, why: str, rollouts: Sequence[Rollout], *, short: bool = False) -> None:
        super().__init__(why)
        self.rollouts, self.short = rollouts, short


SECRET_BYTES = 32


def new_secret() -> str:
    """A new secret, from the operating system's randomness."""
    return secrets.token_hex(SECRET_BYTES)


@dataclass(frozen=True)
class Setting:
    """Settings shared by every batch of a run, as JSON. ``run`` is the run's folder, which a worker must see.

    ``secret`` is for the verifier's process alone; it is never recorded, shown or handed to a sandbox.
    """

    run: str
    task: OfferRef
    verifier: OfferRef
    sandbox: str
    seed: int
    engine: OfferRef | None = None
    secret: str = field(default_factory=new_secret, repr=False)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Setting:
        offers = {name: value[name] and OfferRef(**value[name]) for name in ("task", "verifier", "engine")}
        return cls(**{**value, **offers})


@dataclass(frozen=True)
class Sweep:
    """One agent over some instances. ``purpose`` names the sweep in the ledger; ``public`` is what the set-up sees.

    Each instance is rolled out ``group`` times, each time with its own seed. A ``hasty`` sweep is given up when a batch
    of it times out too often. A ``training`` sweep samples from the policy as it learns, ``distinct`` rollouts without
    replacement. A ``perturbed`` one shows each instance in its other guise. Each rollout may have ``evaluations``
    answers scored, and begins with its instance's place in ``starts``, an earlier answer, if there are any. Of a
    harness that may never be run again, a sweep is run ``once``: as one batch, with which its sandbox ends. As a job's
    payload it is one ``batch`` of the whole, by its place, of which each rollout may use ``tokens``; None is no limit.
    """

    purpose: str
    agent: str
    harness: str
    split: Split
    instances: tuple[str, ...]
    public: tuple[Split, ...] = ("public",)
    hasty: bool = False
    batch: int = 0
    adapter: str | None = None
    group: int = 1
    training: bool = False
    distinct: bool = False
    perturbed: bool = False
    tokens: int | None = None
    evaluations: int = 0
    starts: tuple[Json, ...] = ()
    once: bool = False

    def batches(self) -> list[tuple[str, Sweep]]:
        """The steps of the sweep: each with its key."""
        size = len(self.instances) if self.once else max(1, BATCH // (self.group * (1 + self.evaluations)))
        return [
            (record.batch(self.purpose, self.agent, batch), self.part(first, first + size, batch))
            for batch, first in enumerate(range(0, len(self.instances), size))
        ]

    def part(self, first: int, last: int, batch: int = 0) -> Sweep:
        """The same sweep of some of its instances only."""
        return replace(self, instances=self.instances[first:last], starts=self.starts[first:last], batch=batch)

    @property
    def total(self) -> int:
        """The rollouts of the whole sweep."""
        return len(self.instances) * self.group


class Rollouts:
    """Runs sweeps on a backend, through the ledger: a batch that is recorded is not run again."""

    def __init__(self, setting: Setting, ledger: Ledger, backend: Backend, emit: Emitter) -> None:
        self._setting, self._ledger, self._backend, self._emit = setting, ledger, backend, emit

    def run(
        self,
        sweep: Sweep,
        allowance: Allowance | None = None,
        enough: Callable[[Sequence[Rollout]], bool] | None = None,
    ) -> list[Rollout]:
        """The rollouts of a sweep, in the order of its instances; GivenUp where a hasty one is, or tokens run out.

        Batches run side by side and are looked at in their order, so that what comes of a sweep does not depend on
        which of them was the fastest. Whether those so far are ``enough`` is asked after the first batch, the second,
        the fourth, the eighth and so on; none runs past a look, so how many run at once does not matter either.
        """
        self._emit("rollouts.started", purpose=sweep.purpose, agent=sweep.agent, total=sweep.total)
        allowance = allowance or Allowance()
        abreast = self._backend.slots if math.isinf(allowance.left) else min(self._backend.slots, SHARED)
        results: list[Rollout] = []
        gained = 0.0
        running: deque[tuple[str, Sweep, Future[Any] | tuple[Any]]] = deque()  # under way, or recorded before
        solving = Solving(self._emit, purpose=sweep.purpose, agent=sweep.agent, total=sweep.total)
        waiting = deque(sweep.batches())
        look = 1 if enough else len(waiting)
        while waiting or running:
            while waiting and waiting[0][1].batch < look and len(running) < abreast:
                key, part = waiting.popleft()
                tokens = allowance.share(part.total, min(abreast - len(running), 1 + len(waiting)))
                part = replace(part, tokens=tokens)
                work = self._ledger.get(key) or self._submit(self._job(part), solving.of(part.batch))
                running.append((key, part, work))
            key, part, work = running.popleft()
            row = self._ledger.step(key, work[0].copy if isinstance(work, tuple) else work.result)  # replays count it
            batch = record.Batch.of(key, row)
            rollouts = batch.rollouts()
            results += rollouts
            gained += sum(each.reward for each in rollouts)
            used = sum(each.tokens for each in rollouts)
            allowance.settle(part.tokens, part.total, used, batch.peak, batch.short)
            solving.recorded(part.batch, len(results))
            self._progress(sweep, len(results), gained)
            out = f"{batch.short} rollouts need more tokens than the {part.tokens} that are left for each"
            if why := (sweep.hasty and str(row["given_up"])) or (out if batch.short and allowance.strict else ""):
                wait([each for _, _, each in running if isinstance(each, Future)])  # not recorded; if late, over soon
                allowance.forfeit()
                raise GivenUp(why, results, short=not row["given_up"])
            if enough and waiting and not running and waiting[0][1].batch == look:
                if enough(results):
                    break
                look *= 2
        return results

    @property
    def at_once(self) -> int:
        """The most rollouts of one sweep that are under way at once, where their tokens are counted."""
        return BATCH * min(self._backend.slots, SHARED)

    def stop(self) -> None:
        """Stop the work that is under way; its waiters get an error."""
        self._backend.close()

    def job(self, function: str, payload: Mapping[str, Any], on_progress: OnProgress | None = None) -> Any:
        """Run another job of this run's on the backend; its result.

        ``on_progress`` gets what the job reports while it runs, where the backend passes that on.
        """
        return self._submit(Job(function, {"setting": asdict(self._setting), **payload}), on_progress).result()

    def _submit(self, job: Job, on_progress: OnProgress | None) -> Future[Any]:
        if on_progress and isinstance(self._backend, ReportsProgress):
            return self._backend.submit_watched(job, on_progress)
        return self._backend.submit(job)

    def _job(self, part: Sweep) -> Job:
        return Job("sia_runtime.worker.batch:run_batch", {"setting": asdict(self._setting), "sweep": asdict(part)})

    def _progress(self, sweep: Sweep, count: int, gained: float) -> None:
        mean = {"mean": gained / count} if sweep.split != "sealed" else {}
        about = {"purpose": sweep.purpose, "agent": sweep.agent}
        self._emit("rollouts.progress", **about, done=count, total=sweep.total, **mean)


class Solving:
    """Emits how many rollouts of a sweep are solved, counting those that are not recorded yet.

    Such an event shows that work goes on. Nothing is recorded of it, and a resumed run does not repeat it.
    """

    def __init__(self, emit: Emitter, **about: Any) -> None:
        self._emit, self._about = emit, about
        self._solved: dict[int, int] = {}
        self._recorded = 0
        self._report_time = time.monotonic()

    def of(self, batch: int) -> OnProgress:
        """Listens to the job that rolls out a batch."""

        def solved(figures: Mapping[str, Any]) -> None:
            count = figures.get("solved")
            if isinstance(count, int):
                self._solved[batch] = count
                self._tell()

        return solved

    def recorded(self, batch: int, count: int) -> None:
        """Note that a batch is recorded. ``count`` is of the rollouts of all batches that are."""
        self._solved.pop(batch, None)
        self._recorded = count

    def _tell(self) -> None:
        now = time.monotonic()
        if now - self._report_time >= REPORT_SECONDS:
            self._report_time = now
            count = min(self._recorded + sum(list(self._solved.values())), self._about["total"])
            self._emit("rollouts.solving", **self._about, done=count)
