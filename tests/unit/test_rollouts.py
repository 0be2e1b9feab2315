"""A sweep goes through the ledger batch by batch, in order, and what is recorded is not run again."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lazy_jobs import Lazy, wait

from sia_core.errors import SiaError
from sia_core.hookspecs import Event
from sia_core.plugins import Source
from sia_core.run import rollouts as rollouts_module
from sia_core.run.ledger import Ledger
from sia_core.run.observe import Emitter
from sia_core.run.rollouts import BATCH, GivenUp, Rollouts, Setting, Sweep
from sia_core.types import Instance, Job, OfferRef, OnProgress, Split
from sia_runtime.worker.batch import _requests, instance_seed

SETTING = Setting("/nowhere", OfferRef("fake"), OfferRef("exact"), "none", 0)


@pytest.fixture(autouse=True)
def _waiting_lets_the_fake_backend_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """The futures of the fake backend below are finished by whoever asks for a result."""
    monkeypatch.setattr(rollouts_module, "wait", wait)


def sweep(n: int, *, split: Split = "search", purpose: str = "search", hasty: bool = False) -> Sweep:
    return Sweep(purpose, "agent", "digest", split, tuple(f"i{index}" for index in range(n)), hasty=hasty)


class Batches:
    """A backend that finishes the last job first; it gives up the batches ``gives_up``, and ``fails`` fail."""

    def __init__(self, slots: int = 2, gives_up: tuple[int, ...] = (), fails: tuple[int, ...] = ()) -> None:
        self.slots, self.gives_up, self.fails = slots, gives_up, fails
        self.jobs: list[Job] = []
        self.waiting: list[tuple[Job, Future[Any]]] = []
        self.most = 0

    def submit(self, job: Job) -> Future[Any]:
        self.jobs.append(job)
        self.waiting.append((job, Lazy(self.finish)))
        self.most = max(self.most, len(self.waiting))
        return self.waiting[-1][1]

    def finish(self) -> None:
        for job, future in reversed(self.waiting):
            part = job.payload["sweep"]
            if part["batch"] in self.fails:
                future.set_exception(SiaError(f"batch {part['batch']} failed"))
                continue
            rollouts = [
                {"instance": name, "outcome": "ok", "reward": float(name[1:]), "step_rewards": [0.5]}
                for name in part["instances"]
            ]
            why = "hopeless" if part["batch"] in self.gives_up else ""
            future.set_result({"sandbox": "none", "given_up": why, "rollouts": rollouts})
        self.waiting = []

    def close(self) -> None:
        self.closed = True


class Run:
    """Rollouts on a ledger, with the events that they give."""

    def __init__(self, ledger: Ledger, backend: Batches) -> None:
        self.events: list[Event] = []
        emit = Emitter([(Source("test", "test", "0"), self.events.append)])
        self.ledger, self.backend = ledger, backend
        self.rollouts = Rollouts(SETTING, ledger, backend, emit)


@given(st.integers(0, 200), st.integers(1, 5))
def test_rollouts_come_in_the_order_of_the_instances_whatever_the_order_of_the_results(
    tmp_path_factory: pytest.TempPathFactory, n: int, slots: int
) -> None:
    backend, whole = Batches(slots), sweep(n)
    with Ledger.create(tmp_path_factory.mktemp("run")) as ledger:
        results = Run(ledger, backend).rollouts.run(whole)
        assert [each.instance for each in results] == list(whole.instances)
        assert [each.step_rewards for each in results] == [(0.5,)] * n
        assert [key for key, _, _ in ledger.events()] == [key for key, _ in whole.batches()]
    assert backend.most <= slots


def test_batches_are_keyed_by_purpose_agent_and_place_and_hold_every_instance_once() -> None:
    batches = sweep(2 * BATCH + 1, purpose="gate").batches()
    assert [key for key, _ in batches] == [f"rollouts/gate/agent/000{index}" for index in range(3)]
    assert [len(part.instances) for _, part in batches] == [BATCH, BATCH, 1]
    assert tuple(name for _, part in batches for name in part.instances) == sweep(2 * BATCH + 1).instances


def test_a_job_is_one_batch_as_json_and_knows_its_place(tmp_path: Path) -> None:
    backend = Batches()
    with Ledger.create(tmp_path) as ledger:
        Run(ledger, backend).rollouts.run(sweep(3 * BATCH, hasty=True))
    assert {job.function for job in backend.jobs} == {"sia_runtime.worker.batch:run_batch"}
    assert [Sweep(**job.payload["sweep"]).batch for job in backend.jobs] == [0, 1, 2]
    assert all(job.payload["sweep"]["hasty"] for job in backend.jobs)
    assert all(Setting.from_json(job.payload["setting"]) == SETTING for job in backend.jobs)


def test_batches_that_are_recorded_are_not_submitted_and_count_all_the_same(tmp_path: Path) -> None:
    whole = sweep(4 * BATCH)
    with Ledger.create(tmp_path) as ledger:
        first = Run(ledger, Batches(fails=(2,)))
        with pytest.raises(SiaError, match="batch 2 failed"):
            first.rollouts.run(whole)
        assert len(list(ledger.events())) == 2
        second = Run(ledger, Batches())
        results = second.rollouts.run(whole)
        assert [job.payload["sweep"]["batch"] for job in second.backend.jobs] == [2, 3]
        third = Run(ledger, Batches())
        assert third.rollouts.run(whole) == results
        assert third.backend.jobs == []
        assert third.events == second.events
    assert [each.instance for each in results] == list(whole.instances)


def test_the_start_and_the_progress_of_a_sweep_are_told(tmp_path: Path) -> None:
    with Ledger.create(tmp_path) as ledger:
        run = Run(ledger, Batches(slots=3))
        run.rollouts.run(sweep(BATCH + 1))
    about = {"purpose": "search", "agent": "agent", "total": BATCH + 1}
    assert run.events == [
        Event("rollouts.started", about),
        Event("rollouts.progress", {**about, "done": BATCH, "mean": (BATCH - 1) / 2}),
        Event("rollouts.progress", {**about, "done": BATCH + 1, "mean": BATCH / 2}),
    ]


def test_of_sealed_instances_no_mean_is_told(tmp_path: Path) -> None:
    with Ledger.create(tmp_path) as ledger:
        run = Run(ledger, Batches())
        run.rollouts.run(sweep(2 * BATCH, split="sealed", purpose="sealed"))
    assert [event.kind for event in run.events] == ["rollouts.started", "rollouts.progress", "rollouts.progress"]
    assert all(not {"mean", "rewards", "value"} & event.data.keys() for event in run.events)


@pytest.mark.parametrize("slots", [1, 2, 4, 9])
def test_a_sweep_is_given_up_at_the_first_such_batch_in_order_also_when_it_is_resumed(
    tmp_path: Path, slots: int
) -> None:
    whole, results = sweep(6 * BATCH, hasty=True), []
    with Ledger.create(tmp_path) as ledger:
        for _ in range(3):  # the first time, and twice from the ledger
            run = Run(ledger, Batches(slots, gives_up=(2, 4, 5)))
            with pytest.raises(GivenUp, match=r"^hopeless$") as raised:
                run.rollouts.run(whole)
            results.append(raised.value.rollouts)
            assert run.events[-1].data["done"] == 3 * BATCH
            assert run.backend.waiting == []
            assert [key for key, _, _ in ledger.events()] == [key for key, _ in whole.batches()][:3]
    assert results[0] == results[1] == results[2]
    assert [each.instance for each in results[0]] == list(whole.instances[: 3 * BATCH])


def test_a_record_that_gives_up_what_is_never_given_up_ends_nothing(tmp_path: Path) -> None:
    """Somebody else's record, or a worker, may say so of sealed rollouts, whose sweep nobody expects to end early."""
    with Ledger.create(tmp_path / "run") as ledger:
        assert len(Run(ledger, Batches(gives_up=(0,))).rollouts.run(sweep(2, split="sealed"))) == 2


def test_what_fails_after_the_batch_that_was_given_up_does_not_hide_it(tmp_path: Path) -> None:
    with Ledger.create(tmp_path) as ledger, pytest.raises(GivenUp):
        Run(ledger, Batches(slots=4, gives_up=(1,), fails=(2, 3))).rollouts.run(sweep(4 * BATCH, hasty=True))


def test_to_stop_is_to_close_the_backend(tmp_path: Path) -> None:
    with Ledger.create(tmp_path) as ledger:
        run = Run(ledger, Batches())
        run.rollouts.stop()
    assert run.backend.closed


def test_the_seed_of_a_rollout_is_of_the_run_the_split_and_the_instance() -> None:
    splits: tuple[Split, ...] = ("search", "gate")
    seeds = {instance_seed(run, Instance(name, split, {})) for run in (0, 1) for split in splits for name in "ab"}
    assert len(seeds) == 8
    assert instance_seed(3, Instance("a", "gate", {"x": 1})) == instance_seed(3, Instance("a", "gate", {}))
    assert all(0 <= seed < 2**48 for seed in seeds)


def test_repeats_of_an_instance_have_seeds_of_their_own_and_agents_share_them() -> None:
    instance = Instance("i0", "gate", {})
    seeds = {
        agent: [each.seed for each in _requests(SETTING, replace(sweep(1), agent=agent, group=3), instance)]
        for agent in ("one", "other")
    }
    assert seeds["one"] == seeds["other"]
    assert len(set(seeds["one"])) == 3
    assert seeds["one"][0] == instance_seed(SETTING.seed, instance)


@pytest.mark.parametrize("slots", [1, 2, 9])
def test_a_sweep_ends_at_the_look_that_finds_it_enough_however_many_batches_run_at_once(
    tmp_path: Path, slots: int
) -> None:
    whole, looks = sweep(12 * BATCH), []

    def enough(done: Sequence[Any]) -> bool:
        looks.append(len(done))
        return len(done) >= 3 * BATCH

    with Ledger.create(tmp_path) as ledger:
        for _ in range(2):
            run = Run(ledger, Batches(slots=slots))
            done = run.rollouts.run(whole, enough=enough)
            assert [each.instance for each in done] == list(whole.instances[: 4 * BATCH])
        assert run.backend.jobs == []
        assert [key for key, _, _ in ledger.events()] == [key for key, _ in whole.batches()][:4]
    assert looks == [BATCH, 2 * BATCH, 4 * BATCH] * 2


class Watched(Batches):
    """A backend whose jobs report each rollout that they solve, once they are asked for."""

    def submit_watched(self, job: Job, on_progress: OnProgress) -> Future[Any]:
        for solved in range(1, len(job.payload["sweep"]["instances"]) + 1):
            on_progress({"solved": solved})
        on_progress({"solved": "\x1b[2J"})
        return self.submit(job)


def test_observers_hear_of_rollouts_that_are_not_recorded_yet_once_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = itertools.count()
    clock = SimpleNamespace(monotonic=lambda: next(ticks) / 32)
    monkeypatch.setattr(rollouts_module, "time", clock)
    with Ledger.create(tmp_path) as ledger:
        run = Run(ledger, Watched())
        run.rollouts.run(sweep(2 * BATCH))
    counts = [(event.kind.partition(".")[2], event.data.get("done")) for event in run.events]
    assert counts == [
        ("started", None),
        *[("solving", solved) for solved in (32, 64, 96, 128)],
        ("progress", 64),
        ("progress", 128),
    ]
