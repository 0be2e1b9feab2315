"""A run's use of decisions: promote, reject, refuse, stop, seal, resume; never more than the budget."""

from __future__ import annotations

import itertools
import sys
import threading
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from sia_core.decision import Prediction, Stop, UpdateWeights
from sia_core.errors import PluginError, SiaError, UsageError
from sia_core.harness import HarnessTree, Replace, Write
from sia_core.run.budget import Budget, Limit
from sia_core.run.candidate import make_agent, unrunnable
from sia_core.run.ledger import Ledger
from sia_core.run.loop import Loop
from sia_core.run.observe import Emitter
from sia_core.run.plan import Plan
from sia_core.run.robustness import taken_back
from sia_core.types import Instance
from sia_reading.report import build
from sia_runtime.worker.batch import perturb
from sia_testing.fakes import SKILL, FakeTask, InstantBackend, ScriptedImprover, edit, fake_parts, harness

CONFIG: dict[str, Any] = {
    "plan": {"levers": ["harness"], "seed": 0, "earned": 0.05},
    "budget": {},
    "improver": "scripted",
}


class World:
    """A run of the fake task, with everything that a test wants to look at afterwards."""

    def __init__(self, folder: Path, *script: Any, budget: str = "", task: FakeTask | None = None, **plan: Any) -> None:
        self.folder, self.backend, self.improver = folder, InstantBackend(), ScriptedImprover(*script)
        self.events: list[Any] = []
        self.task, self.plan, self.limit = task or FakeTask(), Plan(**plan), Limit.parse(budget)

    def run(self) -> dict[str, Any]:
        with Ledger.create(self.folder) as ledger:
            config = {**CONFIG, "plan": {**CONFIG["plan"], "earned": self.plan.earned}}
            ledger.step("run", lambda: {"config": config, "task": "fake", "metric": {"name": "right"}})
            self.loop(ledger).improve()
            return build(ledger)

    def loop(self, ledger: Ledger) -> Loop:
        emit = Emitter([(None, self.events.append)])  # type: ignore[list-item]
        budget, seed = Budget(self.limit), self.plan.seed
        parts = fake_parts(
            ledger, self.improver, task=self.task, backend=self.backend, budget=budget, emit=emit, seed=seed
        )
        return Loop(self.plan, parts)


def test_a_better_candidate_is_promoted_and_a_worse_one_is_not_each_with_its_paired_interval(tmp_path: Path) -> None:
    report = World(tmp_path, [edit("good", 0.7), edit("bad", 0.1)], search_sample=40).run()
    good, bad = report["generations"]
    assert (good["accepted"], bad["accepted"]) == (True, False)
    assert good["gate"]["n"] == good["planned"] == bad["planned"] == 200
    assert good["gate"]["p"] <= good["gate"]["level"] < bad["gate"]["p"]
    assert (good["against"], bad["against"]) == (good["parent"], good["agent"])
    assert bad["against_parent"]["value"] > bad["gate"]["delta"]
    assert good["gate"]["ci95"][0] > 0.3 > 0 > bad["gate"]["ci95"][1]
    assert report["agent"]["harness"] == harness(0.7).digest
    assert report["gate_queries"] == 2


def test_the_sealed_report_compares_the_first_and_the_final_agent(tmp_path: Path) -> None:
    sealed = World(tmp_path, [edit("good", 0.7)], task=FakeTask(1000)).run()["sealed"]
    assert sealed["initial"]["value"] == pytest.approx(0.2, abs=0.1)
    assert sealed["final"]["value"] == pytest.approx(0.7, abs=0.1)
    assert sealed["final"]["ci95"][0] < sealed["final"]["value"] < sealed["final"]["ci95"][1]


def test_sealed_instances_are_touched_only_after_the_run_is_closed(tmp_path: Path) -> None:
    World(tmp_path, [edit("good", 0.7)], [edit("bad", 0.1, old=0.7)]).run()
    with Ledger.read(tmp_path) as ledger:
        keys = [key for key, _, _ in ledger.events()]
    first_sealed = next(index for index, key in enumerate(keys) if "sealed" in key)
    assert keys.index("closed") < first_sealed
    others = ("seal/seconds", "robustness", "robustness/seconds", "finished")
    assert all("sealed" in key or key in others for key in keys[first_sealed:])


def test_evidence_never_holds_a_sealed_instance_or_a_single_gate_result(tmp_path: Path) -> None:
    world = World(tmp_path, [edit("good", 0.7)], [edit("bad", 0.1, old=0.7)])
    world.run()
    for evidence in world.improver.seen:
        assert "sealed-" not in repr(evidence)
        assert "gate-" not in repr(evidence)
        assert "search-" in repr(evidence)


def test_the_search_may_go_on_from_a_candidate_that_was_not_promoted(tmp_path: Path) -> None:
    slightly = harness(0.22).digest[:12]
    world = World(tmp_path, [edit("slightly", 0.22)], [edit("further", 0.8, old=0.22, parent=slightly)])
    first, second = world.run()["generations"]
    assert not first["accepted"]
    assert second["accepted"]
    assert second["parent"] == slightly
    assert second["gate"]["incumbent"] == pytest.approx(0.2, abs=0.1)


def test_a_candidate_that_does_not_start_costs_a_smoke_run_only(tmp_path: Path) -> None:
    broken = edit("broken", 0.5).model_copy(update={"edits": (Write(path=SKILL, text="broken\n"),)})
    world = World(tmp_path, [broken])
    (row,) = world.run()["generations"]
    assert row["why"].startswith("smoke run failed: setup-crash: SyntaxError")
    assert row["gate"] is None
    gated = {sweep.agent for sweep in world.backend.sweeps if sweep.purpose == "gate"}
    assert gated == {harness(0.2).digest[:12]}


def test_decisions_that_cannot_work_are_refused_with_the_reason_and_the_run_goes_on(tmp_path: Path) -> None:
    outside = edit("outside", 0.5).model_copy(update={"edits": (Write(path="../../etc/passwd", text=""),)})
    missing = edit("missing", 0.5).model_copy(update={"edits": (Replace(path="nowhere.py", old="a", new="b"),)})
    weights = UpdateWeights(algorithm="grpo", reason="why not", prediction=Prediction(gain=0.1))
    world = World(
        tmp_path,
        [outside, missing, weights, edit("orphan", 0.5, parent="nobody"), edit("good", 0.7), edit("again", 0.7)],
        candidates=6,
    )
    rows = {row["name"]: row for row in world.run()["generations"]}
    assert "not a path inside the harness" in rows["outside"]["why"]
    assert "no file 'nowhere.py'" in rows["missing"]["why"]
    assert "not among this run's levers" in rows["grpo"]["why"]
    assert "no agent 'nobody'" in rows["orphan"]["why"]
    assert rows["good"]["accepted"]
    assert "tried before" in rows["again"]["why"]


def test_more_candidates_than_planned_are_refused_because_the_gate_shares_out_its_error(tmp_path: Path) -> None:
    world = World(tmp_path, [edit("one", 0.3), edit("two", 0.4), edit("three", 0.5)], candidates=2)
    assert "2 candidates a generation" in world.run()["generations"][2]["why"]


def test_an_improver_that_proposes_nothing_or_stops_ends_the_run_with_a_report(tmp_path: Path) -> None:
    assert World(tmp_path / "nothing", [], [edit("half", 0.5)]).run()["generations"][0]["index"] == 1
    assert World(tmp_path / "stop", [Stop(reason="enough")]).run()["stopped"] == "enough"


@pytest.mark.parametrize("rollouts", [802, 900, 1203, 1204, 1300, 1700])
def test_the_budget_is_never_overrun_and_the_report_is_paid_for_first(tmp_path: Path, rollouts: int) -> None:
    world = World(tmp_path, *([edit(f"g{i}", 0.21 + i / 100)] for i in range(8)), budget=f"rollouts={rollouts}")
    report = world.run()
    assert report["sealed"]
    assert report["budget"]["spent"]["rollouts"] <= rollouts
    assert sum(len(sweep.instances) for sweep in world.backend.sweeps) == report["budget"]["spent"]["rollouts"]
    assert "budget" in report["stopped"]


def test_a_budget_that_cannot_pay_for_the_report_is_refused_before_anything_is_spent(tmp_path: Path) -> None:
    world = World(tmp_path, [edit("good", 0.7)], budget="rollouts=500")
    with pytest.raises(
        UsageError, match=r"--budget rollouts=500 is too small: the first agent and the sealed report take 802"
    ):
        world.run()
    assert world.backend.sweeps == []


def test_a_first_harness_that_does_not_run_is_an_error_that_says_why(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.task.seed_harness = lambda: HarnessTree({"harness.py": b"", SKILL: b"broken"})  # type: ignore[method-assign]
    with pytest.raises(SiaError, match="the first harness does not run: setup-crash: SyntaxError"):
        world.run()


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("setup-crash: ModuleNotFoundError: No module named 'numpy'", 'add requires = ["numpy"] to harness.toml'),
        ("crash: OpenAIError: Missing credentials. Please set the `OPENAI_API_KEY` environment variable.", "--policy"),
    ],
)
def test_what_keeps_a_first_harness_from_running_is_said_with_what_to_do(fault: str, says: str) -> None:
    first, hint, last = str(unrunnable(fault)).split("\n")
    assert first == f"the first harness does not run: {fault}"
    assert says in hint
    assert "start a new run" in last  # `sia resume` would say the same again


def test_what_nobody_knows_a_remedy_for_is_said_without_one() -> None:
    first, last = str(unrunnable("crash: KeyError: 'x'")).split("\n")
    assert first == "the first harness does not run: crash: KeyError: 'x'"
    assert "start a new run" in last


TASK = FakeTask(60)


def script(seed: int) -> list[Any]:
    return [[edit("good", 0.5 + seed / 10), edit("bad", 0.1)], [edit("better", 0.9, old=0.5 + seed / 10)], []]


@pytest.mark.thorough
def test_a_run_stopped_after_any_step_and_resumed_gives_the_same_report_and_repeats_no_step(tmp_path: Path) -> None:
    whole = World(tmp_path / "whole", *script(0), task=TASK)
    expected = whole.run()
    with Ledger.read(tmp_path / "whole") as ledger:
        steps = sum(1 for _ in ledger.events())
    for stop_after in range(1, steps):
        folder = tmp_path / f"stopped-{stop_after}"
        jobs = _run_until_stopped(World(folder, *script(0), task=TASK), stop_after)
        resumed = World(folder, *script(0), task=TASK)
        report = resumed.run()
        assert _comparable(report) == _comparable(expected)
        again = jobs & {_job(sweep) for sweep in resumed.backend.sweeps}
        assert not again


def _run_until_stopped(world: World, stop_after: int) -> set[Any]:
    """Run, and fall dead after a number of recorded steps; the jobs whose results were recorded."""
    with Ledger.create(world.folder) as ledger:
        ledger.step("run", lambda: {"config": CONFIG, "task": "fake", "metric": {"name": "right"}})
        record, count = ledger.record, itertools.count(2)

        def dying(key: str, value: Any) -> Any:
            if next(count) > stop_after:
                raise KeyboardInterrupt
            return record(key, value)

        ledger.record = dying  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt):
            world.loop(ledger).improve()
        recorded = {key for key, _, _ in ledger.events("rollouts/")}
    return {_job(sweep) for sweep in world.backend.sweeps if _key(sweep) in recorded}


def _job(sweep: Any) -> Any:
    return (sweep.purpose, sweep.agent, sweep.instances)


def _key(sweep: Any) -> str:
    index = 0 if sweep.purpose == "smoke" else int(sweep.instances[0].split("-")[1]) // 64
    return f"rollouts/{sweep.purpose}/{sweep.agent}/{index:04d}" if sweep.purpose != "search" else "unordered"


def _comparable(report: dict[str, Any]) -> dict[str, Any]:
    spent = {kind: amount for kind, amount in report["budget"]["spent"].items() if kind != "seconds"}
    return {**report, "run": "", "budget": spent}


def test_the_same_seed_gives_the_same_run_and_another_seed_another(tmp_path: Path) -> None:
    one, two, other = (
        World(tmp_path / name, *script(0), seed=seed) for name, seed in (("one", 5), ("two", 5), ("other", 6))
    )
    assert _comparable(one.run()) == _comparable(two.run())
    other.run()
    searched = [
        {sweep.instances for sweep in world.backend.sweeps if sweep.purpose == "search"} for world in (one, two, other)
    ]
    assert searched[0] == searched[1] != searched[2]


def test_disk_grows_linearly_and_no_file_is_stored_twice(tmp_path: Path) -> None:
    chain = [
        [edit(f"g{i}", round(0.2 + (i + 1) / 100, 2), old=round(0.2 + i / 100, 2), parent=_id(i))] for i in range(12)
    ]
    World(tmp_path, *chain, generations=12).run()
    blobs = [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()]
    contents = Counter(path.read_bytes() for path in blobs)
    assert max(contents.values()) == 1
    assert len(blobs) == 1 + 13 + 13  # the one harness.py, a skill.txt and a listing each


def _id(index: int) -> str:
    return _agent_id(round(0.2 + index / 100, 2))


def test_the_loops_own_cost_is_bounded_in_calls_and_commits(tmp_path: Path) -> None:
    """The bound of 20 ms a generation and 2 ms a rollout, held as counts: Python calls and ledger commits."""
    calls = Counter[str]()
    world = World(tmp_path, *([edit(f"g{i}", 0.3 + i / 10)] for i in range(3)), task=FakeTask(size=640), generations=3)
    with Ledger.create(tmp_path) as ledger:
        ledger.step("run", lambda: {"config": CONFIG, "task": "fake", "metric": {"name": "right"}})
        loop = world.loop(ledger)
        sys.setprofile(lambda frame, event, _: calls.update([event]) if event == "call" else None)
        try:
            loop.improve()
        finally:
            sys.setprofile(None)
        commits = sum(1 for key, _, _ in ledger.events() if not key.startswith("rollouts/"))
    rollouts = sum(len(sweep.instances) for sweep in world.backend.sweeps)
    assert calls["call"] / rollouts < 100  # a Python call is about 0.1 us to 1 us
    assert commits <= 8 + 5 * 3  # a commit is about 1 ms with its sync


def test_a_candidate_that_hangs_on_instance_after_instance_is_given_up_and_paid_for_as_far_as_it_got(
    tmp_path: Path,
) -> None:
    hangs = edit("hangs", 0.5).model_copy(update={"edits": (Write(path=SKILL, text="hangs\n"),)})
    world = World(tmp_path, [hangs, edit("good", 0.7)], task=FakeTask(640))
    report = world.run()
    hung, good = report["generations"]
    assert hung["why"] == "given up: too many instances timed out"
    assert good["accepted"]
    count = sum(len(sweep.instances) for sweep in world.backend.sweeps)
    assert report["budget"]["spent"]["rollouts"] == count - 64  # a host runs no batch of it any more


def test_a_fault_of_the_improver_is_raised_under_its_name(tmp_path: Path) -> None:
    def fault(evidence: Any) -> Any:
        raise KeyError("nothing")

    with pytest.raises(SiaError, match=r"the improver \(ScriptedImprover\) failed: KeyError: 'nothing'"):
        World(tmp_path / "raises", fault).run()
    with pytest.raises(SiaError, match=r"the improver \(ScriptedImprover\) failed: ValidationError"):
        World(tmp_path / "malformed", lambda evidence: [{"lever": "magic"}]).run()


def test_an_improver_is_told_verdicts_of_the_gate_and_figures_of_the_search_sample_only(tmp_path: Path) -> None:
    world = World(tmp_path, [edit("good", 0.7)], [Stop(reason="enough")])
    row = world.run()["generations"][0]
    (trial,) = world.improver.seen[1].trials
    assert (trial.outcome, trial.why) == ("promoted", "better")
    assert trial.gain != row["gate"]["delta"]
    assert f"delta={row['gate']['delta']}" not in repr(world.improver.seen[1])
    assert "ci95" not in repr(world.improver.seen[1])
    assert not hasattr(world.improver.drafted_from, "instances")


def test_when_one_candidate_fails_badly_the_others_are_not_waited_for(tmp_path: Path) -> None:
    world = World(tmp_path, [edit("one", 0.3), edit("two", 0.4)])
    submit, closed = world.backend.submit, threading.Event()

    def submitting(job: Any) -> Any:
        if job.payload["sweep"]["agent"] == harness(0.3).digest[:12]:
            raise SiaError("the sandbox is gone")
        if job.payload["sweep"]["agent"] == harness(0.4).digest[:12]:
            assert closed.wait(30)
        return submit(job)

    world.backend.submit, world.backend.close = submitting, closed.set  # type: ignore[method-assign]
    with pytest.raises(SiaError, match="the sandbox is gone"):
        world.run()


# Looking early, and repeats


def test_a_candidate_that_cannot_win_any_more_is_stopped_and_what_that_saves_goes_back(tmp_path: Path) -> None:
    world = World(tmp_path, [edit("bad", 0.1), edit("good", 0.7)], task=FakeTask(640), search_sample=40)
    report = world.run()
    bad, good = report["generations"]
    assert bad["gate"]["n"] == 64
    assert bad["why"].startswith("stopped after 64 of 640 instances, worse: ")
    assert good["accepted"]
    assert good["gate"]["n"] == 640
    count = sum(len(sweep.instances) for sweep in world.backend.sweeps)
    assert report["budget"]["spent"]["rollouts"] == count


def test_a_candidate_that_is_not_better_on_search_does_not_go_to_the_gate_and_stays_in_the_archive(
    tmp_path: Path,
) -> None:
    parent = make_agent(harness(0.1), None, "bad").id
    world = World(tmp_path, [edit("bad", 0.1), edit("good", 0.7)], [edit("from bad", 0.9, old=0.1, parent=parent)])
    bad, good, from_bad = world.run()["generations"]
    assert (bad["outcome"], bad["gate"]) == ("screened", None)
    assert bad["why"].startswith("not better than the incumbent on 200 search instances (by 0.")
    assert bad["gain"] < 0
    assert good["accepted"]
    assert from_bad["accepted"]
    assert not [sweep for sweep in world.backend.sweeps if sweep.purpose == "gate" and sweep.agent == bad["agent"]]
    assert [trial.outcome for trial in world.improver.seen[1].trials] == ["screened", "promoted"]


def test_a_candidate_that_changes_nothing_on_search_costs_no_comparison(tmp_path: Path) -> None:
    (row,) = World(tmp_path, [edit("alike", 0.2000001)]).run()["generations"]
    assert (row["outcome"], row["gate"], row["gain"]) == ("screened", None, 0.0)
    assert row["why"] == "it earns what the incumbent does on each of 200 search instances"


def test_levels_are_used_by_every_comparison_and_earned_by_promotions(tmp_path: Path) -> None:
    script = [[edit("good", 0.7), edit("alike", 0.2000001)], [edit("better", 0.9, old=0.7)]]
    report = World(tmp_path, *script, search_sample=40, earned=0.2).run()
    levels = [row["gate"]["level"] for row in report["generations"]]
    assert levels[0] == 0.05 / (1 + 15 * 0.6)
    assert levels[1] > 4 * levels[0]
    assert report["levels"] == {
        "used": pytest.approx(sum(levels)), "earned": 0.45, "left": pytest.approx(0.45 - sum(levels)), "promotions": 2
    }  # fmt: skip


def test_gate_instances_come_in_a_random_order_of_the_seed_the_same_for_every_agent(tmp_path: Path) -> None:
    orders = {}
    for seed in (0, 1):
        world = World(tmp_path / str(seed), [edit("good", 0.7)], seed=seed)
        world.run()
        of_agents: dict[str, list[str]] = {}
        for sweep in world.backend.sweeps:
            if sweep.purpose == "gate":
                of_agents.setdefault(sweep.agent, []).extend(sweep.instances)
        first, second = of_agents.values()
        assert first == second
        assert first != [each.id for each in world.task.instances("gate")]
        orders[seed] = first
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1])


def test_an_improver_is_not_told_that_or_when_a_sweep_was_stopped(tmp_path: Path) -> None:
    world = World(
        tmp_path,
        [edit("bad", 0.1)],
        [Stop(reason="enough")],
        task=FakeTask(640),
        search_sample=40,
        budget="rollouts=9000",
    )
    report = world.run()
    assert report["generations"][0]["gate"]["n"] < 640
    first, second = world.improver.seen
    assert second.trials[0].why == "not shown to be better"
    assert first.budget_left["rollouts"] - second.budget_left["rollouts"] == 2 + 40 + 640


@pytest.mark.thorough
@pytest.mark.parametrize("slots", [1, 2, 5])
def test_candidates_of_one_generation_are_stopped_alike_whichever_is_promoted_first(tmp_path: Path, slots: int) -> None:
    """The looks are against the incumbent of the generation's start, the verdict against that of the moment."""
    rows = []
    for name in ("good first", "good last"):
        good, middling = edit("good", 0.7), edit("middling", 0.3)
        world = World(tmp_path / name, [good, middling][:: 1 if name == "good first" else -1], task=FakeTask(640))
        world.backend.slots = slots
        rows.append({row["name"]: row for row in world.run()["generations"]})
    assert rows[0]["middling"]["gate"]["n"] == rows[1]["middling"]["gate"]["n"] == 640
    assert not rows[0]["middling"]["accepted"]
    assert rows[1]["middling"]["accepted"]
    assert rows[0]["middling"]["gate"]["incumbent"] > rows[1]["middling"]["gate"]["incumbent"]


def test_repeats_ask_each_gate_and_sealed_instance_so_often_and_are_paid_for(tmp_path: Path) -> None:
    world = World(tmp_path, [edit("good", 0.7)], repeats=3, budget="rollouts=4000")
    report = world.run()
    counts = Counter[str]()
    for sweep in world.backend.sweeps:
        counts[sweep.purpose] += len(sweep.instances) * sweep.group
    assert counts == {"smoke": 2 * 2, "search": 2 * 200, "gate": 2 * 3 * 200, "sealed": 2 * 3 * 200}
    assert report["budget"]["spent"]["rollouts"] == sum(counts.values())
    assert report["generations"][0]["gate"]["n"] == report["sealed"]["final"]["n"] == 200
    with pytest.raises(UsageError, match="take 2002"):
        World(tmp_path / "poor", repeats=3, budget="rollouts=2000").run()


def test_the_sealed_score_stands_beside_the_gate_score_with_the_gap(tmp_path: Path) -> None:
    report = World(tmp_path, [edit("good", 0.7)], task=FakeTask(640)).run()
    final = report["sealed"]["final"]
    assert final["gate"]["value"] == report["generations"][0]["gate"]["candidate"]
    assert final["gap"]["value"] == pytest.approx(final["gate"]["value"] - final["value"])
    assert final["gap"]["ci95"][0] < final["gap"]["value"] < final["gap"]["ci95"][1]
    assert report["to_halve"] > 640


# The gate along a run: neither what runs at once nor where a run was stopped changes a verdict


def gauntlet() -> list[Any]:
    """Candidates that are screened out, stopped on the way, refused by the test, and promoted."""
    slightly = _agent_id(0.23)
    return [
        [edit("bad", 0.1), edit("slightly", 0.23), edit("good", 0.5), edit("middling", 0.4)],
        [
            edit("hardly", 0.52, old=0.5),
            edit("alike", 0.5001, old=0.5),
            edit("better", 0.7, old=0.5),
            edit("back", 0.3, old=0.5),
        ],
        [edit("longer way", 0.8, old=0.23, parent=slightly), edit("a bit", 0.73, old=0.7), edit("best", 0.9, old=0.7)],
    ]


def _agent_id(skill: float) -> str:
    return harness(skill).digest[:12]


def _gauntlet(folder: Path) -> World:
    return World(folder, *gauntlet(), task=FakeTask(192), search_sample=64, candidates=4, generations=4)


def _judged(report: dict[str, Any]) -> list[tuple[Any, ...]]:
    return [(row["name"], row["outcome"], row["against"], row["gate"]) for row in report["generations"]]


def test_a_run_has_every_way_in_which_a_candidate_can_fare(tmp_path: Path) -> None:
    report = _gauntlet(tmp_path).run()
    rows = {row["name"]: row for row in report["generations"]}
    outcomes = {name: row["outcome"] for name, row in rows.items()}
    assert {name for name, outcome in outcomes.items() if outcome == "screened"} == {"bad", "alike", "back"}
    assert {name for name, outcome in outcomes.items() if outcome == "promoted"} >= {"good", "better", "best"}
    assert outcomes["middling"] == outcomes["hardly"] == "rejected"
    assert rows["hardly"]["gate"]["n"] < 192 == rows["middling"]["gate"]["n"]
    assert rows["longer way"]["against"] == _agent_id(0.7)
    levels = [row["gate"]["level"] for row in report["generations"] if row["gate"]]
    assert report["levels"]["used"] == pytest.approx(sum(levels))
    assert sum(levels) <= report["levels"]["earned"]


class OneAtATime(InstantBackend):
    """Lets the candidates of a generation start in the order given, each once the one before is on search."""

    def __init__(self, order: list[str]) -> None:
        super().__init__()
        self._after = {later: before for before, later in itertools.pairwise(order)}
        self._searched = {agent: threading.Event() for agent in order}

    def submit(self, job: Any) -> Any:
        sweep = job.payload["sweep"]
        if sweep["purpose"] == "smoke" and sweep["agent"] in self._after:
            assert self._searched[self._after[sweep["agent"]]].wait(30)
        if sweep["purpose"] == "search" and sweep["agent"] in self._searched:
            self._searched[sweep["agent"]].set()
        return super().submit(job)


@pytest.mark.thorough
@pytest.mark.parametrize("slots", [1, 2, 5])
@pytest.mark.parametrize("order", [[0.1, 0.23, 0.5, 0.4], [0.4, 0.5, 0.23, 0.1]], ids=["in order", "reversed"])
def test_verdicts_and_levels_do_not_depend_on_what_runs_at_once_and_who_is_first(
    tmp_path: Path, slots: int, order: list[float]
) -> None:
    expected = _gauntlet(tmp_path / "expected").run()
    world = _gauntlet(tmp_path / "other")
    world.backend = OneAtATime([_agent_id(skill) for skill in order])
    world.backend.slots = slots
    report = world.run()
    assert _judged(report) == _judged(expected)
    assert _comparable(report) == _comparable(expected)


@pytest.mark.thorough
def test_a_run_stopped_after_every_step_and_resumed_gives_the_same_verdicts_at_the_same_levels(tmp_path: Path) -> None:
    expected = _gauntlet(tmp_path / "whole").run()
    with Ledger.read(tmp_path / "whole") as ledger:
        steps = sum(1 for _ in ledger.events())
    for _ in range(2, steps):
        _run_until_stopped(_gauntlet(tmp_path / "stopped"), 2)
    report = _gauntlet(tmp_path / "stopped").run()
    assert _judged(report) == _judged(expected)


def test_a_small_gate_ends_the_run_once_its_error_is_used_up(tmp_path: Path) -> None:
    script = [[edit(f"{name}{skill}", 0.2 + skill / 1000) for skill in (at, at + 1)] for at, name in enumerate("abcd")]
    world = World(tmp_path, *script, task=FakeTask(6), generations=8)
    report = world.run()
    compared = [row for row in report["generations"] if row["gate"] and row["gate"]["level"]]
    assert [row["gate"]["level"] for row in compared] == [pytest.approx(0.05 / 3)] * 3
    assert report["stopped"] == "3 comparisons used up the gate's error"


# Robustness


class Guised(FakeTask):
    """The fake task, with another guise of its instances."""

    perturbation = "its number negated"

    def perturbed(self, instance: Instance) -> Mapping[str, Any]:
        return {"number": -instance.input["number"]}


def test_every_incumbent_is_scored_on_sealed_beside_the_gate_that_chose_it(tmp_path: Path) -> None:
    report = World(tmp_path, [edit("good", 0.5)], [edit("better", 0.8, 0.5), edit("bad", 0.1, 0.5)]).run()
    history = report["robustness"]["history"]
    assert [row["change"] for row in history] == [None, "good", "better"]
    assert history[0]["value"] == report["sealed"]["initial"]["value"]
    assert history[2]["gap"] == report["sealed"]["final"]["gap"]
    for row in history:
        assert row["gap"]["value"] == pytest.approx(row["gate"]["value"] - row["value"])
        assert row["gap"]["ci95"][0] < row["gap"]["value"] < row["gap"]["ci95"][1]


def test_nothing_is_rolled_out_twice_nor_booked_twice(tmp_path: Path) -> None:
    world = World(tmp_path, [edit("good", 0.5)], [edit("better", 0.8, 0.5)])
    report = world.run()
    sealed = [sweep for sweep in world.backend.sweeps if sweep.split == "sealed"]
    assert len({(sweep.agent, sweep.instances) for sweep in sealed}) == len(sealed)
    assert report["budget"]["spent"]["rollouts"] == sum(len(sweep.instances) for sweep in world.backend.sweeps)


def test_what_does_not_fit_into_the_budget_is_left_out_and_said(tmp_path: Path) -> None:
    ample = World(tmp_path / "ample", [edit("good", 0.5)], [edit("better", 0.8, 0.5)])
    spent = ample.run()["budget"]["spent"]["rollouts"]
    tight = World(tmp_path / "tight", [edit("good", 0.5)], [edit("better", 0.8, 0.5)], budget=f"{spent - 1}")
    report = tight.run()
    assert report["robustness"]["left_out"] == 1
    assert len(report["robustness"]["history"]) == 2
    assert report["budget"]["spent"]["rollouts"] <= spent - 1


def test_the_first_and_the_final_agent_are_asked_again_in_the_tasks_other_guise(tmp_path: Path) -> None:
    world = World(tmp_path, [edit("good", 0.5)], task=Guised())
    robustness = world.run()["robustness"]
    assert robustness["perturbation"] == "its number negated"
    assert [row["agent"] for row in robustness["perturbed"]] == [row["agent"] for row in robustness["history"]]
    assert all(row["change"]["value"] == 0 for row in robustness["perturbed"])
    sweeps = [sweep for sweep in world.backend.sweeps if sweep.perturbed]
    assert {sweep.split for sweep in sweeps} == {"sealed"}


def test_each_lever_is_taken_back_alone_where_both_changed_the_agent() -> None:
    first = make_agent(harness(0.2), None, None)
    edited = make_agent(harness(0.7), first, "edit")
    both = make_agent(harness(0.7), edited, "ppo", "adapter")
    back = taken_back(first, both)
    assert (back["harness"].harness, back["harness"].adapter) == (first.harness, "adapter")
    assert back["weights"].id == edited.id  # so it is not rolled out a second time
    assert taken_back(first, edited) == {}


def test_the_same_instance_is_asked_under_its_id_and_a_task_without_a_guise_is_named() -> None:
    instance = Instance("gate-3", "gate", {"number": 3})
    assert perturb(Guised(), instance) == Instance("gate-3", "gate", {"number": -3})
    with pytest.raises(PluginError, match="'fake' offers no perturbation"):
        perturb(FakeTask(), instance)
