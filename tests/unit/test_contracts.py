"""The contract suites: what the core offers passes them, and each catches the faults that it is there for."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

import pytest
from planted import failing
from pydantic import BaseModel, ConfigDict

from sia_core.cache import write_once
from sia_core.decision import Prediction, PullLever, RewriteHarness, Stop, Training
from sia_core.errors import NoSignal
from sia_core.evidence import AgentView, Evidence, RewardStats, TaskView
from sia_core.harness import HarnessTree, Write
from sia_core.learning import Batch, Datum, Request, Sample, Sampled, Trace
from sia_core.plugins import Plugins
from sia_core.run.budget import Cost
from sia_core.run.ledger import Ledger
from sia_core.run.levers import Lever, NewAgent, PullPlan
from sia_core.run.plan import Plan, take_samples
from sia_core.run.run_view import RunView
from sia_core.types import Instance, Score, Split, Task, Verifier, VerifierContext
from sia_llm import ModelImprover, Settings
from sia_llm.models import Ask, Reply, ToolCall, Usage
from sia_runtime.builtin_verifiers import Command, Exact, Numeric
from sia_runtime.cases import Cases
from sia_testing.engine_contract import EngineContract
from sia_testing.engines import ScriptedEngine
from sia_testing.fakes import fake_parts
from sia_testing.improvers import ImproverContract, evidence_at, task_view
from sia_testing.learners import LearnerContract
from sia_testing.levers import LeverContract, begin
from sia_testing.tasks import TaskContract
from sia_testing.verifiers import Judged, VerifierContract, context

pytestmark = pytest.mark.usefixtures("own_cache")

CASES = [{"input": {"left": number, "right": 2}, "answer": number + 2} for number in range(40)]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A file of cases."""
    path = tmp_path / "cases.jsonl"
    path.write_text("".join(json.dumps(case) + "\n" for case in CASES))
    return path


@pytest.fixture
def agent(tmp_path: Path) -> Path:
    """The folder of a harness."""
    folder = tmp_path / "agent"
    folder.mkdir()
    (folder / "harness.py").write_text("def solve(instance, ctx):\n    return instance.input['left'] + 2\n")
    return folder


# What the core offers.


class TestCases(TaskContract):
    @pytest.fixture
    def make(self, data: Path, agent: Path) -> Callable[[int], Task]:
        return lambda seed: Cases(data=str(data), harness=str(agent), seed=seed)


@pytest.fixture
def judged(data: Path, agent: Path) -> list[Judged]:
    instances = Cases(data=str(data), harness=str(agent)).instances("search")
    return [Judged(each, each.input["left"] + 2, each.input["left"] + 3) for each in instances]


class TestExact(VerifierContract):
    @pytest.fixture
    def make(self, data: Path) -> Callable[[], Verifier]:
        return lambda: Exact(data=str(data))


class TestNumeric(VerifierContract):
    @pytest.fixture
    def make(self, data: Path) -> Callable[[], Verifier]:
        return lambda: Numeric(data=str(data))


CHECK = """
import json, sys
given = json.load(sys.stdin)
print(json.dumps({"reward": float(given["answer"] == given["truth"])}))
"""


@pytest.mark.real
class TestCommand(VerifierContract):
    @pytest.fixture
    def make(self, data: Path, tmp_path: Path) -> Callable[[], Verifier]:
        (tmp_path / "check.py").write_text(CHECK)
        return lambda: Command(data=str(data), arg=f"python3 {tmp_path / 'check.py'}")

    @pytest.fixture
    def judged(self, judged: list[Judged]) -> list[Judged]:
        return judged[:2]  # a process each


class Agreeable:
    """A provider that decides to stop."""

    name = "agreeable"

    def complete(self, request: Ask) -> Reply:
        change = {"lever": "stop", "reason": "enough"}
        return Reply("", (ToolCall("id", "decide", {"changes": [change]}),), "tools", Usage(1, 1))

    def prices(self, model: str) -> None:
        return None


class TestModelImprover(ImproverContract):
    """The improvers claude and litellm, but for their provider."""

    @pytest.fixture
    def make(self, tmp_path: Path) -> Callable[[], ModelImprover]:
        folders = itertools.count()

        def made() -> ModelImprover:
            improver = ModelImprover(Agreeable(), Settings.of("a-model", {}))
            parts = fake_parts(Ledger.create(tmp_path / f"run-{next(folders)}"), improver)
            improver.equip(RunView(parts, take_samples(parts.task, Plan())))
            return improver

        return made


class TestScripted(EngineContract):
    learns = False

    @pytest.fixture
    def make(self) -> Callable[[], ScriptedEngine]:
        return ScriptedEngine


# Tasks with a fault.


class _Spoilt(Cases):
    """The task of cases, with one thing wrong."""


class SealedInPublic(_Spoilt):
    def public_dir(self, splits: Sequence[Split]) -> Path:
        inputs = [dict(each.input) for split in ("public", "sealed") for each in self.instances(split)]  # type: ignore[arg-type]
        return write_once(Path(self._data).parent / "spoilt", {"cases.json": json.dumps(inputs).encode()})


class SealedLabelsInPublic(_Spoilt):
    def public_dir(self, splits: Sequence[Split]) -> Path:
        labels = {each.id: each.input["left"] + 2 for each in self.instances("sealed")}
        return write_once(Path(self._data).parent / "spoilt", {"answers.json": json.dumps(labels).encode()})


class SplitsOverlap(_Spoilt):
    def instances(self, split: Split) -> Sequence[Instance]:
        return [replace(each, split=split) for each in super().instances("search")]


class ChangesOrder(_Spoilt):
    def instances(self, split: Split) -> Sequence[Instance]:
        instances = list(super().instances(split))
        random.Random(id(instances)).shuffle(instances)
        return instances


class TellsInItsBrief(_Spoilt):
    @property
    def brief(self) -> str:  # type: ignore[override]
        return f"Mind {self.instances('gate')[0].id}."


class TellsTheSplit(_Spoilt):
    def instances(self, split: Split) -> Sequence[Instance]:
        return [replace(each, id=f"{split}-{place}") for place, each in enumerate(super().instances(split))]


class TellsTheSplitInCapitals(_Spoilt):
    def instances(self, split: Split) -> Sequence[Instance]:
        return [replace(each, id=f"{each.id}_{split.upper()}") for each in super().instances(split)]


class NoSeed(_Spoilt):
    def seed_harness(self) -> HarnessTree:
        return HarnessTree({"harness.py": b"def answer(): return 1\n"})


PREDICTED = "test_what_it_draws_follows_from_the_contexts_seeds_and_nobody_can_predict_it"
PUBLIC = "test_the_public_folder_tells_nothing_of_other_splits"


@pytest.mark.parametrize(
    ("spoilt", "caught"),
    [
        (SealedInPublic, PUBLIC),
        (SealedLabelsInPublic, PUBLIC),
        (SplitsOverlap, "test_the_splits_are_disjoint_and_none_that_decides_is_empty"),
        (ChangesOrder, "test_the_same_seed_is_the_same_task"),
        (TellsInItsBrief, "test_the_brief_names_no_hidden_case"),
        (TellsTheSplit, "test_no_id_tells_the_split"),
        (TellsTheSplitInCapitals, "test_no_id_tells_the_split"),
        (NoSeed, "test_the_first_harness_is_one"),
    ],
)
def test_a_spoilt_task_is_caught(spoilt: type[Cases], caught: str, data: Path, agent: Path) -> None:
    assert caught in failing(TaskContract, make=lambda seed: spoilt(data=str(data), harness=str(agent), seed=seed))


def test_a_sound_task_is_not(data: Path, agent: Path) -> None:
    assert failing(TaskContract, make=lambda seed: Cases(data=str(data), harness=str(agent), seed=seed)) == set()


# Verifiers with a fault.


class Rolls:
    """Not deterministic: it rolls dice."""

    def score(self, instance: Instance, answer: Any, ctx: VerifierContext) -> Score:
        return Score(float(answer == instance.input["left"] + 2) - random.random() / 10)


class Remembers:
    """Not deterministic: what was asked before is worth less."""

    def __init__(self) -> None:
        self._count = itertools.count()

    def score(self, instance: Instance, answer: Any, ctx: VerifierContext) -> Score:
        return Score(float(answer == instance.input["left"] + 2) - 0.01 * next(self._count))


class Indifferent:
    def score(self, instance: Instance, answer: Any, ctx: VerifierContext) -> Score:
        return Score(1.0)


class NotANumber:
    def score(self, instance: Instance, answer: Any, ctx: VerifierContext) -> Score:
        right = answer == instance.input["left"] + 2
        return Score(float(right), metrics={"error": 0.0 if right else float("nan")})


class ChangesTheInput:
    def score(self, instance: Instance, answer: Any, ctx: VerifierContext) -> Score:
        right = float(answer == instance.input["left"] + 2)
        instance.input["seen"] = True  # type: ignore[index]
        return Score(right)


class DrawsFromWhatIsTold:
    """Its noise can be reproduced from ``seed``."""

    def score(self, instance: Instance, answer: Any, ctx: VerifierContext) -> Score:
        noise = self.noise(instance, ctx)
        return Score(float(answer == instance.input["left"] + 2) - noise / 100)

    def noise(self, instance: Instance, ctx: VerifierContext) -> float:
        return random.Random(ctx.seed).random()


class DrawsById(DrawsFromWhatIsTold):
    def noise(self, instance: Instance, ctx: VerifierContext) -> float:
        return random.Random(f"noise of {instance.id}").random()


class DrawsByInput(DrawsFromWhatIsTold):
    def noise(self, instance: Instance, ctx: VerifierContext) -> float:
        numpy = pytest.importorskip("numpy")
        return float(numpy.random.default_rng(instance.input["left"]).random())


class DrawsByTheRunsSeed(DrawsFromWhatIsTold):
    """Its noise is drawn when the verifier is made, from a setting."""

    def __init__(self, seed: int = 0) -> None:
        generator = random.Random(seed)
        self._made = [generator.random() for _ in range(3)]

    def noise(self, instance: Instance, ctx: VerifierContext) -> float:
        return self._made[0]


class DrawsFromOldState(DrawsFromWhatIsTold):
    def noise(self, instance: Instance, ctx: VerifierContext) -> float:
        numpy = pytest.importorskip("numpy")
        return float(numpy.random.RandomState(7).rand())


class SeedsTheModule(DrawsFromWhatIsTold):
    def noise(self, instance: Instance, ctx: VerifierContext) -> float:
        random.seed(instance.id)
        return random.random()


DETERMINISTIC = "test_the_same_answer_earns_the_same_whenever_and_wherever_it_is_asked"


@pytest.mark.parametrize(
    ("spoilt", "caught"),
    [
        (Rolls, DETERMINISTIC),
        (Remembers, DETERMINISTIC),
        (Indifferent, "test_what_is_right_earns_more_than_what_is_wrong"),
        (NotANumber, "test_a_score_is_made_of_numbers_that_json_can_hold"),
        (ChangesTheInput, "test_it_leaves_what_it_is_given_as_it_is"),
        (DrawsById, PREDICTED),
        (DrawsByInput, PREDICTED),
        (DrawsByTheRunsSeed, PREDICTED),
        (DrawsFromOldState, PREDICTED),
        (SeedsTheModule, PREDICTED),
    ],
)
def test_a_spoilt_verifier_is_caught(spoilt: type, caught: str, judged: list[Judged]) -> None:
    assert caught in failing(VerifierContract, make=spoilt, judged=judged, ctx=context())


def test_a_verifier_that_draws_from_the_contexts_seed_is_sound(judged: list[Judged]) -> None:
    assert failing(VerifierContract, make=DrawsFromWhatIsTold, judged=judged, ctx=context()) == set()


@pytest.mark.parametrize("verifier", [DrawsById, DrawsByTheRunsSeed])
def test_a_task_whose_verifiers_draws_can_be_predicted_is_caught(
    verifier: type, data: Path, agent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Plugins, "create", lambda *_, **__: verifier())
    caught = failing(TaskContract, make=lambda seed: Cases(data=str(data), harness=str(agent), seed=seed))
    assert caught == {"test_what_its_verifier_draws_cannot_be_predicted"}


# Learners with a fault.


class _Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Plain:
    """Policy gradient with the group's mean as its baseline: sound."""

    Config: ClassVar = _Config
    loss: ClassVar = f"{__name__}:sound"
    needs: ClassVar = frozenset({"train", "custom_loss"})
    epochs = 1

    def __init__(self, **settings: Any) -> None:
        self.config = _Config(**settings)

    def training(self, stats: RewardStats) -> Training:
        return Training()

    def objections(self, stats: RewardStats) -> list[str]:
        return []

    def credit(self, groups: Sequence[Sequence[Sample]]) -> list[Datum]:
        data = []
        for group in groups:
            mean = fmean(each.reward for each in group)
            for each in group:
                data += [self.datum(trace, each.reward - mean) for trace in each.traces if each.reward != mean]
        if not data:
            raise NoSignal("all rewards of a group are alike")
        return data

    def datum(self, trace: Trace, advantage: float) -> Datum:
        return Datum(trace, [advantage * each for each in trace.mask], 10.0)


def sound(logprobs_BT: Any, batch: Batch, values_BT: Any, settings: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    return -(logprobs_BT.where(batch.mask_BT > 0, 0.0) * batch.advantages_BT).sum() / batch.normaliser, {}


class CreditsThePrompt(Plain):
    """Uses unmasked tokens: every token of a trace gets the advantage."""

    def datum(self, trace: Trace, advantage: float) -> Datum:
        return Datum(trace, [advantage] * len(trace.tokens), 10.0)


class ReadsThePrompt(Plain):
    """Uses unmasked tokens: its loss sums over all of them."""

    loss: ClassVar = f"{__name__}:unmasked"


def unmasked(logprobs_BT: Any, batch: Batch, values_BT: Any, settings: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    weights_B1 = batch.advantages_BT.sum(-1, keepdim=True)
    return -(logprobs_BT * weights_B1).sum() / batch.normaliser, {}


class Backwards(Plain):
    def datum(self, trace: Trace, advantage: float) -> Datum:
        return super().datum(trace, -advantage)


class MeanOfTheMicroBatch(Plain):
    loss: ClassVar = f"{__name__}:own_mean"


def own_mean(logprobs_BT: Any, batch: Batch, values_BT: Any, settings: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    return -(logprobs_BT.where(batch.mask_BT > 0, 0.0) * batch.advantages_BT).mean(), {}


class ByPlace(Plain):
    """Its loss tells rows by where they stand."""

    loss: ClassVar = f"{__name__}:by_place"


def by_place(logprobs_BT: Any, batch: Batch, values_BT: Any, settings: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    first_BT = logprobs_BT[:1].where(batch.mask_BT[:1] > 0, 0.0) * batch.advantages_BT[:1]
    scalar, sums = sound(logprobs_BT, batch, values_BT, settings)
    return scalar - first_BT.sum() / batch.normaliser, sums


class FourthPower(Plain):
    loss: ClassVar = f"{__name__}:fourth_power"


def fourth_power(
    logprobs_BT: Any, batch: Batch, values_BT: Any, settings: Mapping[str, Any]
) -> tuple[Any, dict[str, Any]]:
    advantages_BT = batch.advantages_BT * batch.mask_BT
    return -(logprobs_BT.where(batch.mask_BT > 0, 0.0) * advantages_BT**4).sum() / batch.normaliser, {}


class TrainsOnNothing(Plain):
    def credit(self, groups: Sequence[Sequence[Sample]]) -> list[Datum]:
        try:
            return super().credit(groups)
        except NoSignal:
            return []


class TestPlain(LearnerContract):
    @pytest.fixture
    def make(self) -> Callable[[], Plain]:
        return Plain


@pytest.mark.parametrize(
    ("spoilt", "caught"),
    [
        (CreditsThePrompt, "test_only_tokens_that_the_policy_sampled_get_credit"),
        (ReadsThePrompt, "test_what_stands_where_nothing_was_sampled_changes_nothing"),
        (Backwards, "test_the_best_rollout_becomes_likelier_than_the_worst"),
        (MeanOfTheMicroBatch, "test_a_split_into_micro_batches_changes_no_gradient"),
        (MeanOfTheMicroBatch, "test_padding_changes_no_gradient"),
        (ByPlace, "test_the_order_of_the_data_changes_no_gradient"),
        (FourthPower, "test_rewards_of_any_size_are_refused_or_give_a_gradient_in_single_precision"),
        (TrainsOnNothing, "test_where_nothing_was_earned_there_is_no_signal"),
    ],
)
def test_a_spoilt_learner_is_caught(spoilt: type[Plain], caught: str) -> None:
    pytest.importorskip("torch")
    assert caught in failing(LearnerContract, make=spoilt)


# Engines with a fault.


class SaysOtherwise(ScriptedEngine):
    """Its log-probabilities do not match its samples."""

    def logprobs(self, traces: Sequence[Trace], *, reference: bool = False) -> list[list[float]]:
        return [[each - 0.1 * mask for each, mask in zip(t.logprobs, t.mask, strict=True)] for t in traces]


class ShiftedByOne(ScriptedEngine):
    """Entry t speaks of token t + 1."""

    def logprobs(self, traces: Sequence[Trace], *, reference: bool = False) -> list[list[float]]:
        return [[*list(trace.logprobs)[1:], 0.0] for trace in traces]


class ByOrderOfArrival(ScriptedEngine):
    def sample(self, requests: Sequence[Request]) -> list[list[Sampled]]:
        return super().sample([replace(each, seeds=[s + i for s in each.seeds]) for i, each in enumerate(requests)])


class StepsAtOnce(ScriptedEngine):
    def forward_backward(
        self, data: Sequence[Datum], loss: str, settings: Mapping[str, Any] | None = None
    ) -> dict[str, float]:
        self.steps += 1
        return super().forward_backward(data, loss, settings)


class ForgetsOnLoad(ScriptedEngine):
    def load(self, folder: Path) -> None:
        self.steps = 0


@pytest.mark.parametrize(
    ("spoilt", "caught"),
    [
        (SaysOtherwise, "test_its_log_probabilities_are_those_of_what_it_samples"),
        (ShiftedByOne, "test_its_log_probabilities_are_those_of_what_it_samples"),
        (ByOrderOfArrival, "test_neither_order_nor_company_changes_what_is_sampled"),
        (StepsAtOnce, "test_a_gradient_moves_nothing_before_the_step"),
        (ForgetsOnLoad, "test_a_snapshot_brings_back_weights_and_what_they_sample"),
        (ScriptedEngine, "test_a_step_makes_what_has_an_advantage_likelier"),  # it has no weights to move
    ],
)
def test_a_spoilt_engine_is_caught(spoilt: type[ScriptedEngine], caught: str, tmp_path: Path) -> None:
    assert caught in failing(EngineContract, make=spoilt, tmp_path=tmp_path)


# Improvers with a fault.


class Careful:
    """Tries each edit of the playbook once: sound."""

    def draft(self, task: TaskView, seed: int) -> HarnessTree:
        return task.seed

    def decide(self, evidence: Evidence) -> Sequence[Any]:
        tried = {each.name for each in evidence.trials}
        for entry in evidence.playbook.edit if evidence.playbook else ():
            if entry.name not in tried:
                prediction = Prediction(gain=0.0)
                return [RewriteHarness(name=entry.name, edits=entry.change, reason="untried", prediction=prediction)]
        return [Stop(reason="all was tried")]


class FlipsACoin(Careful):
    def decide(self, evidence: Evidence) -> Sequence[Any]:
        return [Stop(reason=f"tails {random.random()}")]


class OutOfBounds(Careful):
    def decide(self, evidence: Evidence) -> Sequence[Any]:
        edits = (Write(path="../verifier.py", text="right = True"),)
        return [RewriteHarness(name="no", edits=edits, reason="why not", prediction=Prediction(gain=1.0))]


class OnNobody(Careful):
    def decide(self, evidence: Evidence) -> Sequence[Any]:
        return [each.model_copy(update={"parent": "nobody"}) for each in super().decide(evidence)]


class Says(Careful):
    def decide(self, evidence: Evidence) -> Sequence[Any]:
        return []


class TestCareful(ImproverContract):
    @pytest.fixture
    def make(self) -> Callable[[], Careful]:
        return Careful


@pytest.mark.parametrize(
    ("spoilt", "caught"),
    [
        (FlipsACoin, "test_the_same_evidence_gives_the_same_decisions"),
        (OutOfBounds, "test_its_edits_apply_to_the_harness_that_they_are_for"),
        (OnNobody, "test_a_decision_pulls_a_lever_of_the_run_on_an_agent_of_the_archive"),
        (Says, "test_its_decisions_are_typed_and_survive_json"),
    ],
)
def test_a_spoilt_improver_is_caught(spoilt: type[Careful], caught: str, tmp_path: Path) -> None:
    evidence = evidence_at("first generation")
    assert caught in failing(ImproverContract, make=spoilt, view=task_view(tmp_path), evidence=evidence)


# Levers with a fault.


class Doubles(Lever):
    """Doubles a number of the harness, by its name."""

    def plan(self, decision: PullLever, parent: AgentView) -> PullPlan:
        before = f"{decision.settings.get('number')} = 1".encode()
        code = parent.files.files["harness.py"]
        if before not in code:
            return PullPlan(refused=f"the harness has no {before.decode()}")
        return PullPlan(agent=NewAgent(HarnessTree({"harness.py": code.replace(before, before[:-1] + b"2")}), None))

    def describe(self, evidence: Evidence) -> Evidence:
        return evidence.with_lever("doubles", "doubles a number")


class PlansByChance(Doubles):
    def plan(self, decision: PullLever, parent: AgentView) -> PullPlan:
        return PullPlan(estimate={"rollouts": random.random()})


class RefusesNothing(Doubles):
    def plan(self, decision: PullLever, parent: AgentView) -> PullPlan:
        return PullPlan(estimate={"rollouts": 1.0})


class HidesAgents(Doubles):
    def describe(self, evidence: Evidence) -> Evidence:
        return replace(evidence, agents={})


class CostsLessThanNothing(Doubles):
    def look_cost(self, instances: int) -> Cost:
        return Cost(-1.0)


DOUBLE = PullLever(
    lever="doubles", name="left", settings={"number": "LEFT"}, reason="to see", prediction=Prediction(gain=0.0)
)


class TestDoubles(LeverContract):
    @pytest.fixture
    def make(self) -> Callable[[], Doubles]:
        return Doubles

    @pytest.fixture
    def decision(self) -> PullLever:
        return DOUBLE


@pytest.mark.parametrize(
    ("spoilt", "caught"),
    [
        (PlansByChance, "test_the_same_decision_gives_the_same_plan"),
        (RefusesNothing, "test_settings_that_nobody_meant_are_refused_with_a_reason"),
        (HidesAgents, "test_it_adds_to_the_evidence_and_changes_nothing_of_it"),
        (CostsLessThanNothing, "test_its_costs_are_amounts_before_there_is_a_run"),
    ],
)
def test_a_spoilt_lever_is_caught(spoilt: type[Doubles], caught: str, tmp_path: Path) -> None:
    with Ledger.create(tmp_path) as ledger:
        failures = failing(LeverContract, make=spoilt, begun=lambda: begin(spoilt(), ledger), decision=DOUBLE)
    assert caught in failures
