"""Rows with rewards and environments of other libraries are tasks that keep the contracts, in a few lines each."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from plugin_sites import write_metadata

from sia_adapters import Episodes, Rows, SingleTurn
from sia_adapters.adapted import Adapted, Judge, plain
from sia_core.errors import UsageError
from sia_core.types import VerifierContext
from sia_testing.tasks import TaskContract
from sia_testing.verifiers import Judged, VerifierContract, context, predictable

pytestmark = pytest.mark.usefixtures("own_cache")

EXAMPLES = Path(__file__).parents[2] / "examples" / "adapters"


def example(name: str) -> type[Adapted]:
    """The task of an example."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (task,) = (
        each
        for each in vars(module).values()
        if isinstance(each, type) and each.__module__ == spec.name and issubclass(each, Adapted)
    )
    return task


NAMES = ("dataset", "environment", "episodes")
TASKS: Mapping[str, type[Adapted]] = {name: example(name) for name in NAMES}


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    value: str = request.param
    return value


def right(name: str, question: Mapping[str, Any]) -> Any:
    if name == "dataset":
        return question["word"][::-1]
    if name == "environment":
        return str(sum(map(int, question["question"].split(" + "))))
    return [int(question["observation"][1] > 0)] * 12


class TestTasks(TaskContract):
    @pytest.fixture
    def make(self, name: str) -> Callable[[int], Adapted]:
        return TASKS[name]


class TestJudges(VerifierContract):
    @pytest.fixture
    def make(self, name: str) -> Callable[[], Judge]:
        return TASKS[name].judge

    @pytest.fixture
    def judged(self, name: str) -> list[Judged]:
        wrong = {"dataset": "x", "environment": "no sum at all", "episodes": [0, 1] * 6}[name]
        return [Judged(each, right(name, each.input), wrong) for each in TASKS[name]().instances("gate")]

    def test_what_it_draws_follows_from_the_contexts_seeds_and_nobody_can_predict_it(  # type: ignore[override]
        self, name: str, make: Callable[[], Judge], judged: Sequence[Judged], ctx: VerifierContext
    ) -> None:
        cases = [(each.instance, answer) for each in judged for answer in (each.right, each.wrong)]
        # An episode's start is drawn by the seed that its instance tells, and told as well.
        dealt = [each for instances in TASKS[name]().dealt.values() for each in instances]
        starts = {f"random.Random({each.input.get('seed')!r})" for each in dealt}
        assert not predictable(make, cases, ctx) - starts


class Slippery:
    """An environment in which actions fail by chance, drawn as gymnasium's do."""

    def reset(self, *, seed: int) -> tuple[int, dict[str, Any]]:
        self.np_random = importlib.import_module("numpy.random").default_rng(seed)
        self.place = int(self.np_random.integers(100))
        return self.place, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        went = bool(self.np_random.random() < 0.5)
        return self.place, float(went), False, False, {}


class Slope(Episodes):
    name, brief, steps = "slope", "Go.", 64

    def environment(self) -> Any:
        return Slippery()


def test_where_an_episode_starts_is_told_and_what_chance_does_then_a_copy_does_not_foresee() -> None:
    pytest.importorskip("numpy")
    task, judge = Slope(), Slope.judge()
    instance = task.instances("gate")[0]
    copy = Slippery()
    assert copy.reset(seed=instance.input["seed"])[0] == instance.input["observation"]
    foreseen = sum(copy.step(0)[1] for _ in range(64))
    ctxs = [replace(context(), seed=seed) for seed in range(16)]
    rewards = [judge.score(instance, [0] * 64, ctx).reward for ctx in ctxs]
    assert rewards == [judge.score(instance, [0] * 64, ctx).reward for ctx in ctxs]
    assert len({*rewards, foreseen}) > 5


@pytest.mark.parametrize("name", NAMES)
def test_a_task_takes_fewer_than_20_lines(name: str) -> None:
    tree = ast.parse((EXAMPLES / f"{name}.py").read_text())
    own = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name != "Corridor"]
    assert sum((node.end_lineno or 0) - node.lineno + 1 for node in own) < 20


def test_the_hidden_columns_are_not_in_the_input() -> None:
    for each in TASKS["dataset"]().instances("search"):
        assert each.input.keys() == {"word"}


def test_a_rubric_is_a_weighted_sum_of_functions_that_take_what_they_like() -> None:
    task = TASKS["environment"]()
    instance, judge = task.instances("search")[0], type(task).judge()
    sum_of = right("environment", instance.input)
    assert judge.score(instance, sum_of, context()).reward == pytest.approx(1.0)
    assert judge.score(instance, f"it is {sum_of}", context()).reward == 0.0
    assert judge.score(instance, "x", context()).reward == pytest.approx(0.1)


def test_a_function_may_take_everything() -> None:
    class Rubric:
        def reward_everything(self, **known: Any) -> float:
            return float(known["info"]["level"] == 2 and known["state"]["turn"] == 1)

    class Task(SingleTurn):
        name, brief = "t", "t"

        def environment(self) -> Any:
            rubric = type("R", (), {"reward_funcs": [Rubric().reward_everything], "reward_weights": [1.0]})()
            rows = [{"prompt": [{"role": "user", "content": str(n)}], "info": {"level": n}} for n in range(8)]
            return type("E", (), {"get_dataset": lambda self: rows, "rubric": rubric})()

    judge, task = Task.judge(), Task()
    rewards = [judge.score(each, "", context()).reward for split in task.dealt for each in task.instances(split)]
    assert sorted(rewards) == [0.0] * 7 + [1.0]


def test_an_episode_ends_where_the_environment_says_so_and_an_action_of_nobody_earns_nothing() -> None:
    task = TASKS["episodes"]()
    instance, judge = task.instances("search")[0], type(task).judge()
    goes = right("episodes", instance.input)
    assert judge.score(instance, goes + [1 - goes[0]] * 50, context()).reward == 1.0
    assert judge.score(instance, goes[:4], context()).reward == 0.0


def test_arrays_are_told_as_lists() -> None:
    numpy = pytest.importorskip("numpy")
    assert plain({"a": numpy.array([[1.5, 2]]), "b": numpy.int64(3), "c": (1, 2)}) == {
        "a": [[1.5, 2.0]],
        "b": 3,
        "c": [1, 2],
    }


def test_too_few_items_and_rewards_that_are_none_are_said() -> None:
    class Few(Rows):
        name, brief = "few", "few"

        def rows(self) -> list[dict[str, int]]:
            return [{"n": n, "answer": n} for n in (1, 1, 2)]

        def reward(self, row: Mapping[str, Any], answer: Any) -> float:
            return float("nan")

    with pytest.raises(UsageError, match="task 'few': 2 different items; at least 8"):
        Few().instances("gate")

    class Enough(Few):
        def rows(self) -> list[dict[str, int]]:
            return [{"n": n, "answer": n} for n in range(8)]

    with pytest.raises(UsageError, match=r"the reward of instance .* is nan"):
        Enough.judge().score(Enough().instances("gate")[0], "", context())


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_it_runs_by_its_name(name: str, tmp_path: Path) -> None:
    task = TASKS[name]
    offers = f'[Offer("{task.name}", "an example", "{name}:{task.__name__}{{}}")]'
    (tmp_path / f"{name}.py").write_text((EXAMPLES / f"{name}.py").read_text())
    (tmp_path / "offered.py").write_text(
        "from sia_core.hookspecs import Offer, hookimpl\nsia_api = 1\n"
        f"@hookimpl\ndef sia_tasks(): return {offers.format('')}\n"
        f"@hookimpl\ndef sia_verifiers(): return {offers.format('.judge')}\n"
    )
    write_metadata(tmp_path, "offered", "[sia]\noffered = offered\n")
    command = [sys.executable, "-m", "sia_cli", "run", "--plugin", task.name, "--generations", "0", "--json"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["sealed"]["final"]["n"] > 20
