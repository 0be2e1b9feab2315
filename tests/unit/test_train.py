"""The weight lever in a run: trains, refuses, estimates, stops, resumes; with a policy that really learns."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from table_policy import PLUGINS, TableBackend, TableEngine, TableHost, TableTask

from sia_core.decision import Prediction, Training, UpdateWeights
from sia_core.errors import UsageError
from sia_core.evidence import Evidence, RewardStats
from sia_core.learning import Trace
from sia_core.run.budget import Budget, Limit
from sia_core.run.ledger import Ledger
from sia_core.run.levers import HarnessLever, Lever
from sia_core.run.loop import Loop
from sia_core.run.observe import Emitter
from sia_core.run.plan import Plan, take_samples
from sia_core.run.record import RunRecord
from sia_core.run.trees import ADAPTERS
from sia_core.types import Instance, OfferRef
from sia_reading.report import build
from sia_runtime.worker.batch import Rolled
from sia_testing.fakes import FakeTask, ScriptedImprover, edit, fake_parts
from sia_weights.exploration import Exploration
from sia_weights.lever import WeightLever
from sia_weights.train_job import drawn

pytestmark = pytest.mark.thorough

LEVERS: dict[str, type[Lever]] = {"harness": HarnessLever, "weights": WeightLever}
SHORT = Training(steps=6, prompts=8, group=8, durable=2, max_kl=50.0)
ENGINE = OfferRef("table", {"policy": "table", "seed": 0})
CONFIG = {
    "plan": {"levers": ["harness", "weights"], "seed": 0},
    "budget": {},
    "improver": "scripted",
    "engine": {"name": "table", "settings": {}},
}


def update(algorithm: str = "climb", training: Training = SHORT, **more: Any) -> UpdateWeights:
    return UpdateWeights(
        algorithm=algorithm, training=training, reason="scripted", prediction=Prediction(gain=0.5), **more
    )


class World:
    """A run of the table task with the weight lever."""

    def __init__(self, folder: Path, *script: Any, engine: TableEngine | None = None, task: TableTask | None = None):
        self.folder, self.script = folder, script
        self.host = TableHost(engine, task)
        self.events: list[Any] = []
        self.budget, self.levers, self.candidates = Budget(Limit({})), ("harness", "weights"), 2

    def run(self) -> dict[str, Any]:
        backend = TableBackend(self.host)
        try:
            with Ledger.create(self.folder) as ledger:
                ledger.step("run", lambda: {"config": CONFIG, "task": "fake", "metric": {"name": "right"}})
                self.loop(ledger, backend).improve()
                return build(ledger)
        finally:
            backend.close()

    def loop(self, ledger: Ledger, backend: TableBackend) -> Loop:
        emit = Emitter([(None, self.events.append)])  # type: ignore[list-item]
        self.improver = ScriptedImprover(*self.script)
        parts = fake_parts(
            ledger,
            self.improver,
            task=self.host.task(OfferRef("fake")),
            backend=backend,
            budget=self.budget,
            emit=emit,
            engine=ENGINE,
            levers={name: LEVERS[name]() for name in self.levers},
            plugins=PLUGINS,
            can=self.host._engine.can,
        )
        return Loop(Plan(levers=self.levers, candidates=self.candidates), parts)


def test_an_update_learns_is_promoted_and_names_the_agent_by_harness_and_adapter(tmp_path: Path) -> None:
    world = World(tmp_path, [update()])
    report = world.run()
    (row,) = report["generations"]
    assert row["accepted"]
    assert row["algorithm"] == "climb"
    assert report["sealed"]["initial"]["value"] == pytest.approx(0.25, abs=0.01)
    assert report["sealed"]["final"]["value"] == 1.0
    assert report["agent"]["adapter"]
    assert report["agent"]["harness"] == row_of(tmp_path)["harness"]
    snapshots = {path.name for path in (tmp_path / ADAPTERS).iterdir()}
    assert snapshots == {"base", report["agent"]["adapter"]}


def test_each_step_of_an_update_is_told_while_its_job_goes_on(tmp_path: Path) -> None:
    world = World(tmp_path, [update()])
    world.run()
    kinds = [each.kind for each in world.events if each.kind.startswith("training.")]
    assert kinds == ["training.started", *["training.step", "training.step", "training.progress"] * 3]
    steps = [each.data for each in world.events if each.kind == "training.step"]
    assert [(each["step"], each["steps"], each["done"]) for each in steps] == [(n, 6, n * 64) for n in range(1, 7)]
    recorded = [row for each in world.events if each.kind == "training.progress" for row in each.data["steps"]]
    figures = ("reward", "seconds")
    assert [[each[name] for name in figures] for each in steps] == [[row[name] for name in figures] for row in recorded]


REPORTS: list[dict[str, Any]] = [
    {"step": 6, "reward": 1.0, "seconds": 1.0},
    {"step": 0, "reward": "\x1b[2J", "seconds": 1.0},
    {"step": "0", "reward": 1.0, "seconds": 1.0},
    {"solved": 3},
]


@pytest.mark.parametrize("figures", REPORTS, ids=str)
def test_a_workers_report_that_is_no_step_is_passed_over(figures: dict[str, Any], tmp_path: Path) -> None:
    world = World(tmp_path, [update()])
    submit_watched = TableBackend.submit_watched

    class Lying(TableBackend):
        def submit_watched(self, job: Any, on_progress: Any) -> Any:
            on_progress(figures)
            return submit_watched(self, job, lambda report: None)

    with Ledger.create(tmp_path) as ledger:
        ledger.step("run", lambda: {"config": CONFIG, "task": "fake", "metric": {"name": "right"}})
        world.loop(ledger, Lying(world.host)).improve()
    assert not [each for each in world.events if each.kind == "training.step"]


def test_agents_are_estimated_on_instances_that_nothing_is_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learnt: set[str] = set()

    def noted(names: Sequence[str], *about: Any) -> tuple[str, ...]:
        learnt.update(names)
        return drawn(names, *about)

    monkeypatch.setattr("sia_weights.train_job.drawn", noted)
    world = World(tmp_path, [update()])
    explored = world.host.task(OfferRef("fake")).instances("search")
    report = world.run()
    with Ledger.read(tmp_path) as ledger:
        estimated = {each.instance for each in RunRecord(ledger).rollouts("search", report["generations"][0]["agent"])}
    assert (report["held_out"], report["training"]) == (len(estimated), len(learnt))
    assert not estimated & learnt
    assert estimated | learnt == {each.id for each in explored}


@pytest.mark.parametrize(("size", "count"), [(1000, 256), (300, 150), (7, 3), (1, 1)])
def test_at_most_half_of_few_search_instances_is_held_out_and_none_where_nothing_trains(size: int, count: int) -> None:
    samples = take_samples(FakeTask(size), Plan(levers=("harness", "weights")))
    assert len(samples.search) == count
    assert len(samples.training) == max(1, size - count)
    assert size == 1 or not {*samples.search} & {*samples.training}
    assert len(take_samples(FakeTask(size), Plan()).search) == min(size, 256)


def test_the_record_holds_the_evidence_what_the_table_said_the_estimate_and_what_it_took(tmp_path: Path) -> None:
    world = World(tmp_path, [update()])
    (row,) = world.run()["generations"]
    assert row["table"]
    assert row["estimate"]["rollouts"] == row["took"]["rollouts"] == 6 * 8 * 8
    assert row["took"]["tokens"] == row["estimate"]["tokens"] > 0
    assert row["took"]["steps"] == 6
    assert row["took"]["memory"] == 1.0
    evidence = world.improver.seen[0]
    exploration = evidence.agents[evidence.incumbent].exploration
    assert exploration is not None
    assert 0.1 < exploration.mean < 0.4
    assert exploration.flat_groups is not None
    assert exploration.kl_to_base == 0.0
    assert evidence.weights is not None
    assert not evidence.weights.refused
    assert [each.name for each in evidence.algorithms] == ["climb"]  # the engine has no critic


def test_the_next_decision_is_told_what_the_policy_is_and_how_the_update_went(tmp_path: Path) -> None:
    world = World(tmp_path, [update()], [edit("same", 0.1), update(training=SHORT.model_copy(update={"steps": 2}))], [])
    world.run()
    about = world.improver.seen[0].about["weights"].data
    assert about["updates"] == []
    assert about["policy"] == {"name": "table", "parameters": 64, "context": None}
    first, second = world.improver.seen[2].about["weights"].data["updates"]
    assert (first["decision"], second["decision"]) == ("0.0", "1.1")
    assert first["training"]["prompts"] == 8
    assert first["steps"] == 6
    assert len(first["rewards"]) == 6
    assert first["rewards"][0] < first["rewards"][-1]
    assert first["moved"] > 0
    assert second["steps"] == 2


def explored(folder: Path) -> list[str]:
    with Ledger.read(folder) as ledger:
        return [key.removeprefix("explore/") for key, _, _ in ledger.events("explore/")]


def test_an_agent_that_is_not_better_is_not_explored_unless_it_is_to_be_trained(tmp_path: Path) -> None:
    same = edit("same", 0.1)  # the table answers, whatever the harness says
    world = World(tmp_path / "left", [same])
    world.run()
    first, other = world.improver.seen[1].agents.values()
    assert explored(tmp_path / "left") == [first.id]
    assert other.exploration is None
    named = World(tmp_path / "named", [same], [update(parent=other.id)])
    (_, row) = named.run()["generations"]
    assert explored(tmp_path / "named")[:2] == [first.id, other.id]
    assert (row["parent"], row["took"]["rollouts"]) == (other.id, 6 * 8 * 8)


def test_a_new_incumbent_is_explored_before_the_improver_is_asked_again(tmp_path: Path) -> None:
    world = World(tmp_path, [update()])
    world.run()
    before, after = (each.agents[each.incumbent] for each in world.improver.seen)
    assert explored(tmp_path) == [before.id, after.id]
    assert after.exploration is not None


def test_where_the_budget_cannot_pay_for_exploring_an_update_is_refused(tmp_path: Path) -> None:
    def spent_by_others(view: Evidence) -> list[UpdateWeights]:
        world.budget.settle({}, {"rollouts": world.budget.left("rollouts")})
        return [update(parent=list(view.agents)[1])]

    world = World(tmp_path, [edit("same", 0.1)], spent_by_others)
    world.budget = Budget(Limit({"rollouts": 10_000.0}))
    (_, row) = world.run()["generations"]
    assert row["why"].startswith("the budget is too small to explore agent ")


def test_the_estimate_counts_what_a_learner_trains_on_not_all_that_is_sampled(tmp_path: Path) -> None:
    World(tmp_path, [update()]).run()
    with Ledger.read(tmp_path) as ledger:
        ((_, row, _), *_) = ledger.events("explore/")
    assert row["trained"]["climb"] == 1.0
    fields = {**row, "stats": RewardStats(**row["stats"]), "seconds": 1.0, "tokens": 10.0, "pass_seconds": 0.1}
    imitates = Exploration(**{**fields, "trained": {"climb": 0.25}})
    assert imitates.estimate("climb", SHORT, 2, 200)["seconds"] == 6 * 8 * 8 * (1 + 3 * 2 * 0.25)
    strangers = imitates.estimate("a stranger's", SHORT, 2, 200)
    assert strangers["seconds"] == 6 * 8 * 8 * (1 + 3 * 2)
    assert strangers["verifications"] == strangers["rollouts"] == 6 * 8 * 8


def test_an_update_that_is_given_a_time_ends_with_the_step_that_it_is_at_and_is_gated(tmp_path: Path) -> None:
    hurried = SHORT.model_copy(update={"seconds": 1e-9, "durable": 6})
    (row,) = World(tmp_path, [update(training=hurried)]).run()["generations"]
    assert row["took"]["steps"] == 1
    assert row["stopped"] == "the time is spent"
    assert row["estimate"]["seconds"] == 0.0
    assert row["gate"]


def test_a_trained_agent_keeps_its_adapter_when_its_harness_is_rewritten(tmp_path: Path) -> None:
    def then(evidence: Any) -> Any:
        return [edit("other", 0.7)]

    report = World(tmp_path, [update()], then).run()
    trained, edited = report["generations"]
    assert edited["why"] == "it earns what the incumbent does on each of 100 search instances"  # its policy answers
    assert trained["accepted"]
    assert trained["agent"] != edited["agent"]


def row_of(folder: Path, generation: int = 0) -> dict[str, Any]:
    with Ledger.read(folder) as ledger:
        rows = ledger.get(f"generation/{generation}/gated/0")
    assert rows
    return dict(rows[0])


class OnlySamples(TableEngine):
    can = frozenset({"constrain"})


def test_a_policy_that_cannot_be_trained_refuses_the_lever_and_the_run_goes_on_with_the_other(tmp_path: Path) -> None:
    world = World(tmp_path, [update(), edit("other", 0.7)], engine=OnlySamples())
    refused, edited = world.run()["generations"]
    assert not refused["accepted"]
    assert "the policy cannot be trained" in refused["why"]
    assert edited["outcome"] == "screened"
    weights = world.improver.seen[0].weights
    assert weights is not None
    assert "cannot be trained" in weights.refused
    assert not any(sweep.training for sweep in world.host.sweeps)


class Flat(TableTask):
    def right(self, instance: Instance) -> str:
        return "none of them"


@pytest.mark.parametrize(
    ("decision", "why"),
    [
        (update("critical"), "critical needs an engine that can values"),
        (update("clim"), "did you mean 'climb'"),
        (update(config={"scale": "much"}), "scale"),
        (update(config={"sale": 1}), "sale"),
    ],
)
def test_what_cannot_train_is_refused_before_anything_is_spent(
    tmp_path: Path, decision: UpdateWeights, why: str
) -> None:
    world = World(tmp_path, [decision])
    (row,) = world.run()["generations"]
    assert why in row["why"]
    assert not any(sweep.purpose.startswith("generation") for sweep in world.host.sweeps)


def test_a_learner_that_would_learn_nothing_is_refused_with_its_objection(tmp_path: Path) -> None:
    world = World(tmp_path, [update()], task=Flat())
    (row,) = world.run()["generations"]
    assert row["why"] == "every rollout earned the same"
    assert world.improver.seen[0].algorithms[0].objections == {
        world.improver.seen[0].incumbent: ("every rollout earned the same",)
    }


def test_an_update_that_the_budget_does_not_cover_is_refused(tmp_path: Path) -> None:
    world = World(tmp_path, [update(training=replace_steps(100_000))])
    world.budget = Budget(Limit({"rollouts": 5000.0}))
    (row,) = world.run()["generations"]
    assert "do not fit into the budget" in row["why"]
    assert world.budget.spent["rollouts"] <= 5000


# Tokens


def test_a_run_without_a_limit_says_what_its_tokens_were(tmp_path: Path) -> None:
    world = World(tmp_path, [update()])
    report = world.run()
    assert report["budget"]["spent"]["tokens"] == world.host.tokens > 0


def test_what_a_run_took_can_be_counted_from_its_records_before_it_has_ended(tmp_path: Path) -> None:
    report = World(tmp_path, [update(), edit("other", 0.7)], [update()]).run()
    with Ledger.read(tmp_path) as ledger:
        assert RunRecord(ledger).spent() == pytest.approx(report["budget"]["spent"])


THREE = [update(), edit("other", 0.7)], [update()], [edit("third", 0.8)]


@pytest.fixture(scope="module")
def unlimited(tmp_path_factory: pytest.TempPathFactory) -> int:
    """The tokens that three generations take where nothing limits them."""
    world = World(tmp_path_factory.mktemp("free"), *THREE)
    world.run()
    return world.host.tokens


@pytest.mark.parametrize(
    "share", [0.1, 0.45, 1.0, *(pytest.param(share, marks=pytest.mark.slow) for share in (0.2, 0.8, 1.5))]
)
def test_tokens_never_go_past_their_limit_whatever_is_in_the_middle_of_what(
    tmp_path: Path, unlimited: int, share: float
) -> None:
    """By what the engine was really asked for: sweeps, explorations, updates and the report together."""
    limit = share * unlimited
    world = World(tmp_path, *THREE)
    world.budget = Budget(Limit({"tokens": limit}))
    if share < 0.3:  # not even the first agent's sweeps and the report
        with pytest.raises(UsageError, match=r"--budget .*too small"):
            world.run()
    else:
        report = world.run()
        assert report["sealed"]["final"]["out_of_tokens"] == 0
        assert report["budget"]["spent"]["tokens"] == world.host.tokens
    assert world.host.tokens <= limit


@pytest.mark.parametrize("limit", [9_000, 30_000, pytest.param(120_000, marks=pytest.mark.slow)])
def test_eight_candidates_at_once_take_no_more_tokens_than_there_are(tmp_path: Path, limit: int) -> None:
    world = World(tmp_path, *([edit(f"{g} {i}", 0.3 + (8 * g + i) / 100) for i in range(8)] for g in range(2)))
    world.levers, world.candidates, world.host.wordy = ("harness",), 8, 3
    world.budget = Budget(Limit({"tokens": float(limit)}))
    report = world.run()
    refused = [row for row in report["generations"] if row["outcome"] != "screened"]
    assert all("do not fit into the budget" in row["why"] or "need more tokens" in row["why"] for row in refused)
    assert bool(refused) == (limit < 100_000)
    assert report["budget"]["spent"]["tokens"] == world.host.tokens <= limit


def test_a_candidate_that_says_far_more_than_its_parent_is_given_up_and_scored_by_nothing(tmp_path: Path) -> None:
    world = World(tmp_path, [edit("wordy", 0.7)])
    world.levers = ("harness",)
    world.host.wordy = 400
    world.budget = Budget(Limit({"tokens": 60_000}))
    (row,) = world.run()["generations"]
    assert row["why"].startswith("given up: ")
    assert "need more tokens than the" in row["why"]
    assert row["gate"] is None
    assert world.host.tokens <= 60_000


def test_a_run_whose_tokens_are_limited_is_resumed_to_the_same_report(tmp_path: Path) -> None:
    def limited(folder: Path) -> World:
        world = World(folder, [update(), edit("other", 0.7)])
        world.budget = Budget(Limit({"tokens": 40_000}))
        return world

    expected = limited(tmp_path / "whole").run()
    stopped = limited(tmp_path / "stopped")
    stopped.host.stop_at = "gate"
    with pytest.raises(KeyboardInterrupt):
        stopped.run()
    resumed = limited(tmp_path / "stopped").run()
    for one, other in zip(resumed["generations"], expected["generations"], strict=True):
        timed = {"estimate": {}, "took": {}}
        assert {**one, **timed} == {**other, **timed}
    assert resumed["budget"]["spent"]["tokens"] == expected["budget"]["spent"]["tokens"] <= 40_000


def replace_steps(steps: int) -> Training:
    return SHORT.model_copy(update={"steps": steps})


def test_a_step_that_moves_the_policy_too_far_stops_the_update_and_says_so(tmp_path: Path) -> None:
    (row,) = World(tmp_path, [update(training=SHORT.model_copy(update={"max_kl": 1e-9}))]).run()["generations"]
    assert "training failed: one step moved the policy by" in row["why"]
    assert "past its bound of 1e-09" in row["why"]


@pytest.mark.parametrize(("size", "count"), [(225, 32), (32, 32), (5, 32), (7, 3)])
def test_a_step_never_takes_an_instance_twice_and_a_pass_takes_each(size: int, count: int) -> None:
    names = [str(number) for number in range(size)]
    rounds = -(-size // count)
    steps = [drawn(names, count, step, "seed") for step in range(2 * rounds)]
    assert all(len(set(step)) == len(step) == min(count, size) for step in steps)
    assert {name for step in steps[:rounds] for name in step} == set(names)
    assert rounds == 1 or steps[:rounds] != steps[rounds:]


class Fickle(TableEngine):
    """Its trainer sees other weights than its sampler."""

    def logprobs(self, traces: Sequence[Trace], *, reference: bool = False) -> list[list[float]]:
        return [[each * 1.5 for each in row] for row in super().logprobs(traces, reference=reference)]


def test_an_engine_whose_sampler_and_trainer_disagree_trains_nothing(tmp_path: Path) -> None:
    (row,) = World(tmp_path, [update()], engine=Fickle()).run()["generations"]
    assert "sampler and trainer disagree" in row["why"]


class Stuck(TableEngine):
    """Its optimizer moves nothing, and says so as an engine must."""

    def optim_step(self, *, lr: float | None = None) -> dict[str, float]:
        from sia_core.errors import TrainingError

        raise TrainingError("an optimizer step moved nothing")


def test_an_adapter_that_does_not_move_is_a_failure(tmp_path: Path) -> None:
    (row,) = World(tmp_path, [update()], engine=Stuck()).run()["generations"]
    assert row["why"] == "training failed: an optimizer step moved nothing"


def test_rollouts_of_other_weights_are_never_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sia_weights.train_job as train

    real: Callable[..., tuple[list[Rolled], str]] = train.roll_out

    def stale(*arguments: Any) -> tuple[list[Rolled], str]:
        rolled, why = real(*arguments)
        return [replace(each, weights="base+7") for each in rolled], why

    monkeypatch.setattr(train, "roll_out", stale)
    (row,) = World(tmp_path, [update()]).run()["generations"]
    assert "stale rollouts: sampled with the weights base+7" in row["why"]


def test_an_update_with_nothing_left_to_learn_stops_and_what_it_learned_is_gated(tmp_path: Path) -> None:
    long = SHORT.model_copy(update={"steps": 200, "durable": 20})
    (row,) = World(tmp_path, [update(training=long)]).run()["generations"]
    assert row["accepted"]
    assert "zero signal in 10 steps on end" in row["stopped"]
    assert row["took"]["steps"] < 200


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return World(tmp_path_factory.mktemp("whole"), [update()], [update()]).run()


@pytest.mark.parametrize("step", [1, 2, *(pytest.param(step, marks=pytest.mark.slow) for step in (0, 5))])
def test_an_update_that_was_stopped_in_the_middle_and_resumed_gives_the_same_adapter(
    tmp_path: Path, whole: dict[str, Any], step: int
) -> None:
    world = World(tmp_path / "stopped", [update()], [update()])
    world.host.stop_at = f"generation/0/train/0/{step}"
    with pytest.raises(KeyboardInterrupt):
        world.run()
    resumed = World(tmp_path / "stopped", [update()], [update()])
    report = resumed.run()
    assert report["agent"] == whole["agent"]
    assert comparable(report) == comparable(whole)
    repeated = [sweep.purpose for sweep in resumed.host.sweeps if sweep.purpose.startswith("generation/0/train")]
    assert repeated[0] == f"generation/0/train/0/{step - step % 2}"  # from the last durable step


def comparable(report: dict[str, Any]) -> str:
    """A report without what a clock or a name of a folder says."""
    for row in report["generations"]:
        for kind in ("estimate", "took"):
            row[kind].pop("seconds", None)
    report["budget"]["spent"].pop("seconds", None)
    return json.dumps({**report, "run": ""}, sort_keys=True)
