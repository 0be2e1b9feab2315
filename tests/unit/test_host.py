"""State of a machine between batches: warm harnesses for many threads, and the end of hopeless sweeps."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from lazy_jobs import Lazy, wait
from table_policy import TableEngine

from sia_core.errors import SandboxError, SiaError
from sia_core.evidence import Rollout
from sia_core.harness import HarnessTree
from sia_core.plugins import Plugins
from sia_core.run import rollouts as rollouts_module
from sia_core.run.ledger import Ledger
from sia_core.run.observe import Emitter
from sia_core.run.rollouts import BATCH, GivenUp, Rollouts, Setting, Sweep
from sia_core.run.trees import Trees
from sia_core.types import Job, OfferRef, Score, Split
from sia_runtime.worker import host as host_module
from sia_runtime.worker.batch import run_batch
from sia_runtime.worker.harness_worker import SolveRequest, SolveResult
from sia_runtime.worker.host import PATIENCE, WARM_HARNESSES, Host
from sia_runtime.worker.verifier_process import Question, Verdict, VerifierProcess
from sia_testing.fakes import FakeTask

OUTCOMES = Callable[[str], str]


def _number(key: str) -> int:
    """The instance's, out of a rollout's key: purpose/agent/search-N/member."""
    return int(key.split("/")[2].partition("-")[2])


class FakeWorker:
    """Stands in for a sandbox. Notices when it is used after its end, or by two at once."""

    made: list[FakeWorker]
    faults: list[str]
    outcome: OUTCOMES

    def __init__(
        self,
        sandbox: Any,
        tree_dir: Path,
        manifest: Any,
        public_dir: Path,
        limits: Any,
        model: Any = None,
        judge: Any = None,
        rows: int = 0,
    ) -> None:
        self.name, self.closed, self.solved = tree_dir.name, False, []  # type: ignore[var-annotated]
        self._busy = threading.Lock()
        self.made.append(self)

    def solve(self, requests: Sequence[SolveRequest]) -> Generator[SolveResult, None, None]:
        if not self._busy.acquire(blocking=False):
            self.faults.append(f"{self.name} is used by two at once")
        try:
            for request in requests:
                if self.closed:
                    self.faults.append(f"{self.name} is used after it was closed")
                    raise SandboxError("closed")
                time.sleep(0)  # lets another thread run
                self.solved.append(request.key)
                yield SolveResult(request.key, type(self).outcome(request.key), answer="1.0")
        finally:
            self._busy.release()

    def close(self) -> None:
        if self._busy.locked() and not self.closed:
            self.faults.append(f"{self.name} is closed while it is used")
        self.closed = True


class FakeVerifier:
    """Stands in for the verifier's process: every answer is right."""

    def __init__(self, *_: Any, sealed: bool = False, secret: str = "") -> None:
        self.sealed, self.secret, self.closed = sealed, secret, False

    def score(self, questions: Sequence[Question]) -> list[Verdict]:
        return [Verdict("ok", Score(1.0)) for _ in questions]

    def close(self) -> None:
        self.closed = True


class FakePlugins(Plugins):
    def create(self, kind: str, name: str, /, **settings: Any) -> Any:
        return FakeTask(4 * BATCH) if kind == "task" else object()


class OwnWords(TableEngine):
    """An engine that calls its model its policy, as the one of sia-torch does."""

    def __init__(self) -> None:
        super().__init__()
        self.policy = self.table


@pytest.fixture(autouse=True)
def _waiting_lets_the_fake_backend_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """The futures of the fake backend below are finished by whoever asks for a result."""
    monkeypatch.setattr(rollouts_module, "wait", wait)


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> type[FakeWorker]:
    """The class of the fake workers of one test: those that were made, what went wrong, and how instances end."""
    fresh = type("FreshWorker", (FakeWorker,), {"made": [], "faults": [], "outcome": staticmethod(lambda key: "ok")})
    monkeypatch.setattr(host_module, "HarnessWorker", fresh)
    monkeypatch.setattr(host_module, "VerifierProcess", FakeVerifier)
    return fresh


def setting(folder: Path) -> Setting:
    return Setting(str(folder), OfferRef("fake"), OfferRef("exact"), "none", 0, secret="5e" * 32)


def tree(folder: Path, text: str = "") -> str:
    """A harness in the run's folder; its digest."""
    return Trees(folder).put(HarnessTree({"harness.py": text.encode()}))


def sweep(harness: str, *, batch: int = 0, n: int = BATCH, hasty: bool = False, purpose: str = "search") -> Sweep:
    names = tuple(f"search-{batch * BATCH + index}" for index in range(n))
    return Sweep(purpose, harness[:12], harness, "search", names, hasty=hasty, batch=batch)


def run(host: Host, folder: Path, part: Sweep) -> dict[str, Any]:
    return run_batch({"setting": asdict(setting(folder)), "sweep": asdict(part)}, host)


# Warm harnesses


def test_12_harnesses_by_24_threads_never_deadlock_and_no_closed_worker_is_used(
    tmp_path: Path, workers: type[FakeWorker]
) -> None:
    host, harnesses = Host(FakePlugins()), [tree(tmp_path, str(index)) for index in range(12)]
    go, failed, counts = threading.Barrier(24), list[BaseException](), list[int]()

    def work(seed: int) -> None:
        mine = random.Random(seed)
        try:
            go.wait(30)
            for _ in range(25):
                part = sweep(mine.choice(harnesses), n=mine.randrange(1, 5))
                batch = run(host, tmp_path, part)
                assert [each["instance"] for each in batch["rollouts"]] == list(part.instances)
                counts.append(len(part.instances))
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=[seed], daemon=True) for seed in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert (failed, workers.faults) == ([], [])
    assert sum(len(worker.solved) for worker in workers.made) == sum(counts)
    run(host, tmp_path, sweep(harnesses[0]))
    still = [worker for worker in workers.made if not worker.closed]
    assert len({worker.name for worker in still}) == len(still) <= WARM_HARNESSES
    host.stop()
    assert all(worker.closed for worker in workers.made)


def test_a_harness_stays_warm_until_so_many_others_were_used_later(tmp_path: Path, workers: type[FakeWorker]) -> None:
    host, harnesses = Host(FakePlugins()), [tree(tmp_path, str(index)) for index in range(WARM_HARNESSES + 1)]
    for each in harnesses[:-1]:
        run(host, tmp_path, sweep(each))
    run(host, tmp_path, sweep(harnesses[0]))
    assert len(workers.made) == WARM_HARNESSES
    run(host, tmp_path, sweep(harnesses[-1]))
    assert [worker.name for worker in workers.made if worker.closed] == [harnesses[1]]
    run(host, tmp_path, sweep(harnesses[0]))
    assert len(workers.made) == WARM_HARNESSES + 1
    run(host, tmp_path, sweep(harnesses[1]))
    assert len(workers.made) == WARM_HARNESSES + 2


def test_a_harness_that_is_forgotten_is_ended_and_set_up_anew_when_it_is_asked_again(
    tmp_path: Path, workers: type[FakeWorker]
) -> None:
    host, whole, part = Host(FakePlugins()), sweep(tree(tmp_path, "kept")), sweep(tree(tmp_path, "forgotten"))
    host.forget(setting(tmp_path), part)  # nothing is known of it yet
    for each in (whole, part):
        run(host, tmp_path, each)
    host.forget(setting(tmp_path), part)
    assert [worker.closed for worker in workers.made] == [False, True]
    run(host, tmp_path, part)
    assert len(workers.made) == 3


def test_a_sweep_that_is_run_once_leaves_no_sandbox_unless_another_sweep_used_it_too(
    tmp_path: Path, workers: type[FakeWorker]
) -> None:
    host, whole, part = Host(FakePlugins()), sweep(tree(tmp_path, "kept")), sweep(tree(tmp_path, "checked"))
    for each in (whole, replace(whole, once=True), replace(part, once=True)):
        run(host, tmp_path, each)
    assert [worker.closed for worker in workers.made] == [False, True]


def test_the_experiments_of_a_conversation_share_a_sandbox_which_ends_with_it(
    tmp_path: Path, workers: type[FakeWorker]
) -> None:
    host, own = Host(FakePlugins()), setting(tmp_path)
    for place in ("a", "a", "b"):
        with host.experiments(own, place, (), 9.0):
            pass
    assert len(workers.made) == 2
    host.end_experiments(own, "a")
    host.end_experiments(own, "nobody's")
    assert [worker.closed for worker in workers.made] == [True, False]
    with host.experiments(own, "b", ("numpy",), 9.0):
        assert [worker.closed for worker in workers.made] == [True, True, False]
    host.stop()
    assert all(worker.closed for worker in workers.made)


def test_no_experiment_that_is_under_way_is_ended_for_another_conversations(
    tmp_path: Path, workers: type[FakeWorker]
) -> None:
    host, own = Host(FakePlugins()), setting(tmp_path)
    with ExitStack() as under_way:
        for place in range(2 * WARM_HARNESSES):
            under_way.enter_context(host.experiments(own, str(place), (), 9.0))
        assert not any(worker.closed for worker in workers.made)
    with host.experiments(own, "another", (), 9.0):
        assert sum(not worker.closed for worker in workers.made) == WARM_HARNESSES
    host.stop()


def test_what_a_set_up_may_read_makes_another_worker(tmp_path: Path, workers: type[FakeWorker]) -> None:
    host, harness = Host(FakePlugins()), tree(tmp_path)
    run(host, tmp_path, sweep(harness))
    splits: tuple[Split, ...] = ("public", "search", "gate")
    run(host, tmp_path, Sweep("sealed", harness[:12], harness, "sealed", ("sealed-0",), splits))
    assert len(workers.made) == 2


def test_tasks_and_verifiers_are_made_once_and_the_sealed_verifier_is_another(
    tmp_path: Path, workers: type[FakeWorker]
) -> None:
    host, ref = Host(FakePlugins()), OfferRef("fake")
    assert host.task(ref) is host.task(OfferRef("fake"))
    assert host.task(ref) is not host.task(OfferRef("fake", {"seed": 1}))
    assert host.instances(ref, "gate")["gate-3"].split == "gate"
    open_one, sealed = (host.verifier(setting(tmp_path), sealed=each) for each in (False, True))
    assert open_one is host.verifier(setting(tmp_path), sealed=False)
    assert isinstance(open_one, FakeVerifier)
    assert isinstance(sealed, FakeVerifier)
    assert (open_one.sealed, sealed.sealed) == (False, True)
    host.stop()
    assert open_one.closed
    assert sealed.closed


def test_runs_with_different_secrets_share_no_verifier(tmp_path: Path, workers: type[FakeWorker]) -> None:
    host, one = Host(FakePlugins()), setting(tmp_path)
    other = replace(one, secret="ab" * 32)
    verifiers: list[Any] = [host.verifier(each, sealed=False) for each in (one, one, other)]
    assert verifiers[0] is verifiers[1]
    assert [each.secret for each in verifiers[1:]] == [one.secret, other.secret]


def test_a_harness_that_cannot_be_set_up_can_be_tried_again(
    tmp_path: Path, workers: type[FakeWorker], monkeypatch: pytest.MonkeyPatch
) -> None:
    host, harness = Host(FakePlugins()), tree(tmp_path)

    def failing(*_: Any, **__: Any) -> Any:
        raise SandboxError("no memory just now")

    with monkeypatch.context() as patch:
        patch.setattr(host_module, "HarnessWorker", failing)
        with pytest.raises(SandboxError, match="just now"):
            run(host, tmp_path, sweep(harness))
    assert len(run(host, tmp_path, sweep(harness))["rollouts"]) == BATCH


class StoppedAtSetUp(Host):
    """Is stopped just when a harness is set up, before anybody else can know of it."""

    def _set_up(self, *arguments: Any) -> Any:
        worker = super()._set_up(*arguments)
        self.stop()
        return worker


def test_a_host_that_is_stopped_during_a_set_up_leaves_no_worker(tmp_path: Path, workers: type[FakeWorker]) -> None:
    with pytest.raises(SandboxError, match="closed"):
        run(StoppedAtSetUp(FakePlugins()), tmp_path, sweep(tree(tmp_path)))
    assert [worker.closed for worker in workers.made] == [True]
    assert workers.made[0].solved == []


@pytest.mark.real
def test_a_verifier_that_is_first_asked_for_after_the_stop_is_closed(
    tmp_path: Path, workers: type[FakeWorker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_module, "VerifierProcess", VerifierProcess)
    host = Host(FakePlugins())
    host.stop()
    verifier = host.verifier(setting(tmp_path), sealed=False)
    with pytest.raises(SiaError, match="verifier 'exact' is closed"):
        verifier.score([Question(FakeTask().instances("search")[0], "1", 0)])


# Hopeless sweeps


def hanging(*batches: int) -> OUTCOMES:
    """Every instance of these batches times out."""
    return lambda key: "timeout" if _number(key) // BATCH in batches else "ok"


def test_a_hasty_batch_is_given_up_after_so_many_timeouts_and_later_ones_return_at_once(
    tmp_path: Path, workers: type[FakeWorker]
) -> None:
    workers.outcome = staticmethod(hanging(1))
    host, harness = Host(FakePlugins()), tree(tmp_path)
    first, second, third = (run(host, tmp_path, sweep(harness, batch=index, hasty=True)) for index in range(3))
    assert first["given_up"] == ""
    why = f"{PATIENCE} instances of one batch timed out, so the rest was not run"
    assert second["given_up"] == third["given_up"] == why
    assert len(workers.made[0].solved) == BATCH + PATIENCE
    assert len(second["rollouts"]) == len(third["rollouts"]) == BATCH
    assert {each["outcome"] for each in (*second["rollouts"], *third["rollouts"])} == {"timeout"}
    assert [each["message"] for each in second["rollouts"]] == [""] * PATIENCE + [f"not run: {why}"] * 48
    assert {each["message"] for each in third["rollouts"]} == {f"not run: {why}"}


def test_one_timeout_less_is_borne_and_the_order_in_which_instances_end_does_not_matter(
    tmp_path: Path, workers: type[FakeWorker]
) -> None:
    host, harness = Host(FakePlugins()), tree(tmp_path)
    workers.outcome = staticmethod(lambda key: "timeout" if _number(key) < PATIENCE - 1 else "ok")
    assert run(host, tmp_path, sweep(harness, hasty=True))["given_up"] == ""
    for slow in (range(PATIENCE), range(BATCH - PATIENCE, BATCH)):  # the first to end, or the last
        workers.outcome = staticmethod(lambda key, slow=slow: "timeout" if _number(key) in slow else "ok")
        host = Host(FakePlugins())
        assert run(host, tmp_path, sweep(harness, hasty=True))["given_up"].startswith(f"{PATIENCE} instances")


def test_a_sweep_that_is_not_hasty_is_never_given_up(tmp_path: Path, workers: type[FakeWorker]) -> None:
    workers.outcome = staticmethod(hanging(0, 1, 2))
    host, harness = Host(FakePlugins()), tree(tmp_path)
    for hasty in (False, True, False):  # also where a hasty one of the same harness was
        batches = [run(host, tmp_path, sweep(harness, batch=index, hasty=hasty)) for index in range(3)]
        assert {each["given_up"] == "" for each in batches} == {not hasty}
    assert len(workers.made[0].solved) == 2 * 3 * BATCH + PATIENCE


def test_another_sweep_of_the_harness_has_patience_of_its_own(tmp_path: Path, workers: type[FakeWorker]) -> None:
    workers.outcome = staticmethod(hanging(0))
    host, harness = Host(FakePlugins()), tree(tmp_path)
    assert run(host, tmp_path, sweep(harness, hasty=True))["given_up"]
    assert run(host, tmp_path, sweep(harness, batch=1, hasty=True, purpose="gate"))["given_up"] == ""


class PermutedBackend:
    """Runs the jobs that are under way on one host in its own order, once somebody waits for one of them."""

    def __init__(self, host: Host, order: Sequence[int], slots: int) -> None:
        self.host, self.order, self.slots = host, order, slots
        self.waiting: list[tuple[Job, Future[Any]]] = []
        self.submitted: list[int] = []

    def submit(self, job: Job) -> Future[Any]:
        self.waiting.append((job, Lazy(self.finish)))
        self.submitted.append(job.payload["sweep"]["batch"])
        return self.waiting[-1][1]

    def finish(self) -> None:
        for job, future in sorted(self.waiting, key=lambda each: self.order.index(each[0].payload["sweep"]["batch"])):
            future.set_result(run_batch(job.payload, self.host))
        self.waiting = []

    def close(self) -> None:
        self.host.stop()


def given_up(folder: Path, backend: Any, whole: Sweep, ledger: Ledger) -> tuple[str, list[Rollout]]:
    with pytest.raises(GivenUp) as raised:
        Rollouts(setting(folder), ledger, backend, Emitter()).run(whole)
    return str(raised.value), list(raised.value.rollouts)


@pytest.mark.thorough
@pytest.mark.parametrize("slots", [2, 4])
@pytest.mark.parametrize("hangs", [(0,), (2,), (1, 3)], ids=str)
def test_what_comes_of_a_hopeless_sweep_is_the_same_whichever_batch_is_the_fastest(
    tmp_path: Path, workers: type[FakeWorker], hangs: tuple[int, ...], slots: int
) -> None:
    workers.outcome = staticmethod(hanging(*hangs))
    harness = tree(tmp_path)
    whole = sweep(harness, n=4 * BATCH, hasty=True)
    outcomes = []
    for number, order in enumerate(itertools.permutations(range(4))):
        folder, backend = tmp_path / f"{number}", PermutedBackend(Host(FakePlugins()), order, slots)
        with Ledger.create(folder) as ledger:
            outcomes.append(given_up(tmp_path, backend, whole, ledger))
            recorded = [key for key, _, _ in ledger.events()]
        assert recorded == [key for key, _ in whole.batches()][: hangs[0] + 1]
        with Ledger.open(folder) as ledger:  # resumed, on a host that knows of nothing
            again = PermutedBackend(Host(FakePlugins()), order, slots)
            assert given_up(tmp_path, again, whole, ledger) == outcomes[-1]
            assert not set(again.submitted) & set(range(hangs[0] + 1))
    assert all(each == outcomes[0] for each in outcomes)
    why, rollouts = outcomes[0]
    assert why.startswith(f"{PATIENCE} instances of one batch timed out")
    assert [each.instance for each in rollouts] == list(whole.instances[: (hangs[0] + 1) * BATCH])
    assert [each.outcome for each in rollouts] == ["ok"] * hangs[0] * BATCH + ["timeout"] * BATCH


def test_a_job_ends_when_its_host_is_stopped(tmp_path: Path, workers: type[FakeWorker]) -> None:
    host, harness, begun, ended = Host(FakePlugins()), tree(tmp_path), threading.Event(), threading.Event()

    def slow(key: str) -> str:
        begun.set()
        time.sleep(0.01)
        return "ok"

    workers.outcome = staticmethod(slow)

    def work() -> None:
        with suppress(SandboxError):
            for _ in range(1000):
                run(host, tmp_path, sweep(harness))
        ended.set()

    threading.Thread(target=work, daemon=True).start()
    assert begun.wait(30)
    host.stop()
    assert ended.wait(30)


def test_an_engine_may_call_its_model_what_it_likes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakePlugins, "create", lambda *_, **__: OwnWords())
    with closing(Host(FakePlugins()).policy(replace(setting(tmp_path), engine=OfferRef("own")))) as policy:
        assert policy.version == "base+0"
