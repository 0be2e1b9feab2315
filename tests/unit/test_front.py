"""The Python front: what it takes for an agent, data and a verifier, and what it makes of them."""

from __future__ import annotations

import datetime
import inspect
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from decimal import Decimal
from operator import attrgetter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy
import pandas
import pytest
from golden_runs import restore
from stranger import blocks

import sia_core
from sia_adapters.cases_of import cases_of
from sia_cli import api
from sia_cli.front import configured
from sia_cli.inputs import Inputs
from sia_cli.score_plot import score_plot
from sia_cli.stopping import Watch
from sia_core.errors import UsageError
from sia_core.hookspecs import Offer
from sia_core.playbook import PLAYBOOK, Playbook
from sia_core.plugins import Plugins, Source
from sia_core.run.start import Config

ROOT = Path(__file__).parents[2]
TASK = ("task", Offer("lawbench", "", ""), Source("lawbench", "sia-lawbench", "1"))
PLUGINS = Plugins(offers=[TASK])
ROWS = [{"input": f"say {number}", "answer": number} for number in range(8)]


def solve(instance: Any, ctx: Any) -> Any:
    return 0


def reads(instance: Any, ctx: Any) -> Any:
    """Reads the number."""
    return int(instance.input["text"].split()[1])


def right(answer: Any, case: Any) -> bool:
    return bool(answer == case["answer"])


async def waits(instance: Any, ctx: Any) -> Any:
    return 0


def one(instance: Any) -> Any:
    return 0


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., Config]:
    """The configuration that a call asks for, where there is one task."""

    def _config(agent: Any, data: Any = None, verifier: Any = None, **more: Any) -> Config:
        improver, options = more.pop("improver", None), more.pop("config", None)
        result: Config = configured(PLUGINS, Inputs(tmp_path / "runs"), agent, data, verifier, improver, more, options)
        return result

    return _config


# Parameters


@pytest.mark.parametrize("name", sia_core.__all__)
def test_a_function_of_the_front_has_at_most_twelve_parameters_and_says_what_it_does(name: str) -> None:
    value = getattr(sia_core, name)
    members = [each for key, each in vars(value).items() if not key.startswith("_")] if inspect.isclass(value) else []
    for each in [value, *members]:
        if callable(each):
            assert len(inspect.signature(each).parameters) <= 12
            assert inspect.getdoc(each)


def test_the_page_has_an_example_of_everything_that_is_public() -> None:
    script = "\n".join(text for language, _, text in blocks(ROOT / "docs" / "python.md") if language == "python")
    members = {f"run.{name}" for name in vars(sia_core.Run) if not name.startswith("_")}
    functions = {f"sia_core.{name}(" for name in sia_core.__all__ if name[0].islower()}
    assert not {name for name in members | functions if name not in script}


def test_the_asynchronous_call_takes_the_same_parameters() -> None:
    assert inspect.signature(sia_core.improve_async) == inspect.signature(sia_core.improve)


@pytest.mark.real
def test_importing_the_package_imports_none_of_it() -> None:
    code = "import sys; before = set(sys.modules); import sia_core; print(*(set(sys.modules) - before))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["sia_core"]


def test_a_notebook_completes_its_names() -> None:
    assert {"improve", "open_run", "__version__"} <= set(dir(sia_core))
    with pytest.raises(AttributeError, match=r"module 'sia_core' has no attribute 'improv'"):
        sia_core.improv  # noqa: B018


def test_without_the_command_line_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sia_core.advice.distributions", lambda: ())
    with pytest.raises(ImportError, match=r"`sia_core.improve` is in sia-cli, which is not installed: pip install"):
        _ = sia_core.improve


# Agents


def test_a_function_is_a_folder_with_a_harness_that_the_run_names(config: Callable[..., Config]) -> None:
    folder = Path(config(reads, ROWS, "exact").task.settings["harness"])
    harness: dict[str, Any] = {}
    exec((folder / "harness.py").read_text(), harness)
    assert folder.name == "reads"
    assert harness["solve"] is harness["reads"]


def test_each_run_has_inputs_of_its_own(config: Callable[..., Config], tmp_path: Path) -> None:
    first, second = (config(solve, ROWS, right).task.settings for _ in range(2))
    folders = [Path(each["data"]).parents[1] for each in (first, second)]
    assert [Path(each["harness"]).parents[1] for each in (first, second)] == folders
    assert {*folders} == {*(tmp_path / "runs" / "inputs").iterdir()}


def test_other_functions_are_edits_that_may_be_tried(config: Callable[..., Config]) -> None:
    folder = Path(config(solve, ROWS, "exact", improver=[reads]).task.settings["harness"])
    playbook = Playbook.from_toml(folder / PLAYBOOK)
    assert [(each.name, each.summary) for each in playbook.edit] == [("reads", "Reads the number")]


def test_a_folder_and_a_task_are_told_apart(config: Callable[..., Config], tmp_path: Path) -> None:
    assert config(tmp_path, ROWS).task.name == "cases"
    assert config("lawbench").task.name == "lawbench"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("my_agent", ROWS), r"agent 'my_agent' is neither a folder in /.* nor a task here: lawbench"),
        ((3, ROWS), r"agent 3 is neither a folder, a function solve\(instance, ctx\) nor a task; give one"),
        ((one, ROWS), r"one cannot be an agent: too many positional arguments; write def one\(instance, ctx\)"),
        ((waits, ROWS), r"waits is async, and an agent is not awaited; write def waits\(instance, ctx\)"),
        ((solve,), r"data is missing: an agent needs cases to run on; give a path"),
        ((solve, ROWS, one), r"one cannot be a verifier: .*; write def one\(answer, case\)"),
        (("lawbench", None, right), r"verifier is a function, and judges cases: give data beside it"),
    ],
)
def test_what_cannot_be_a_run_is_refused_with_what_to_do(
    config: Callable[..., Config], arguments: tuple[Any, ...], says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        config(*arguments)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"agent": 3}, "agent 3 is neither"),
        ({"data": 3}, "data is of type int"),
        ({"data": ROWS[:2]}, "data: "),
        ({"verifier": 3}, "no verifier named '3'"),
        ({"verifier": "exat"}, "did you mean 'exact'"),
        ({"levers": "harnes"}, "--levers: harnes"),
        ({"levers": 3}, "--levers: 3"),
        ({"improver": 3}, "improver: 3 is no function"),
        ({"improver": "playbok"}, "did you mean 'playbook'"),
        ({"budget": 3}, "budget"),
        ({"budget": {"rolouts": 5}}, "rolouts"),
        ({"seed": "many"}, "argument --seed: invalid int value: 'many'"),
        ({"seed": True}, "argument --seed: expected one argument"),
        ({"name": 3}, "name: 3 is no text"),
        ({"name": "../up"}, "'../up'"),
        ({"name": ""}, "a run's name holds letters"),
        ({"name": "x" * 300}, "at most 200 bytes"),
        ({"folder": 3}, "folder: 3 is no path"),
        ({"folder": "a\0b"}, "folder: 'a\\x00b' is no path"),
        ({"data": "a\0b"}, "data is 'a\\x00b', with a character that no option can have"),
        ({"data": "\ud83d"}, "with a character that no option can have"),
        ({"config": {"name": "x"}}, "from Python, name is the parameter `name`"),
        ({"config": {"runs_dir": "x"}}, "runs-dir is the parameter `folder`"),
        ({"on_event": 3}, "on_event: 3 is no function"),
        ({"config": 3}, "config: 3 is neither a mapping"),
        ({"config": {"generation": 3}}, "did you mean '--generations'"),
        ({"config": {"set": {"second": 3}}}, "second (did you mean 'seconds'?)"),
    ],
    ids=str,
)
@pytest.mark.real
def test_a_parameter_of_the_wrong_kind_is_named_and_nothing_is_left(
    wrong: dict[str, Any], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    many = [{"input": f"say {number}", "answer": number} for number in range(64)]
    given = {"agent": solve, "data": many, "verifier": "exact", "on_event": lambda event: None, **wrong}
    with pytest.raises(UsageError) as raised:
        sia_core.improve(**given)
    assert says in str(raised.value)
    assert "inputs" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_a_start_that_fails_leaves_what_another_run_has(tmp_path: Path) -> None:
    refused, other = Inputs(tmp_path / "runs"), Inputs(tmp_path / "runs")
    gone, kept = (each.keep({"cases.jsonl": b""}) for each in (refused, other))
    with pytest.raises(UsageError), refused.kept_with(Watch()):
        raise UsageError("it cannot be used")
    assert not gone.parent.exists()
    assert (kept / "cases.jsonl").exists()


def test_inputs_are_kept_where_a_start_that_failed_removes_its_folders_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mkdtemp = tempfile.mkdtemp
    removed: list[Path] = []

    def racing(prefix: str | None = None, *, dir: Path) -> str:
        if not removed:
            removed.append(dir)
            dir.rmdir()
        return mkdtemp(prefix=prefix, dir=dir)

    monkeypatch.setattr("sia_cli.inputs.tempfile.mkdtemp", racing)
    assert (Inputs(tmp_path / "runs").keep({"cases.jsonl": b""}) / "cases.jsonl").exists()
    assert removed


def test_inputs_of_a_run_that_is_kept_stay(tmp_path: Path) -> None:
    inputs, watch = Inputs(tmp_path / "runs"), Watch()
    kept = inputs.keep({"cases.jsonl": b""})
    watch.name = "begun"
    (tmp_path / "runs" / "begun").mkdir()
    inputs.name(str(kept), "data")
    with pytest.raises(UsageError, match="of data"), inputs.kept_with(watch):
        raise UsageError(f"of {kept}")
    assert kept.is_dir()


def test_functions_to_try_need_a_function_to_begin_with(config: Callable[..., Config], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"put a playbook.toml into its folder"):
        config(tmp_path, ROWS, improver=reads)
    with pytest.raises(UsageError, match=r"improver: 3 is no function; give a name, a function,"):
        config(solve, ROWS, improver=3)


# Options


def test_parameters_and_options_are_those_of_sia_run(config: Callable[..., Config]) -> None:
    settings = config(
        solve, ROWS, "numeric:0.1", levers=["harness"], budget={"rollouts": 500}, seed=3, config={"generations": 2}
    )
    assert (settings.verifier, settings.plan.levers, settings.plan.seed) == ("numeric:0.1", ("harness",), 3)
    assert (settings.budget, settings.plan.generations) == ({"rollouts": 500.0}, 2)


def test_options_come_from_a_file_and_parameters_override_them(config: Callable[..., Config], tmp_path: Path) -> None:
    (tmp_path / "sia.toml").write_text("seed = 5\ncandidates = 1\n")
    settings = config(solve, ROWS, "exact", seed=7, config=tmp_path / "sia.toml")
    assert (settings.plan.seed, settings.plan.candidates) == (7, 1)


def test_an_option_that_is_none_is_refused_by_its_name(config: Callable[..., Config]) -> None:
    with pytest.raises(UsageError, match=r"unrecognized arguments: --generation=2.*`sia run --help`"):
        config(solve, ROWS, "exact", config={"generation": 2})


# Data


class Polars:
    """A frame as polars has it."""

    def to_dicts(self) -> list[dict[str, Any]]:
        return ROWS


@pytest.mark.parametrize("data", [ROWS, pandas.DataFrame(ROWS), Polars(), iter(ROWS)])
def test_rows_of_any_kind_are_the_same_cases(data: Any) -> None:
    assert [json.loads(line) for line in cases_of(data).splitlines()] == ROWS


@pytest.mark.real
@pytest.mark.parametrize(("package", "make"), [("polars", "DataFrame"), ("datasets", "Dataset.from_list")])
def test_frames_and_data_sets_of_other_packages_are_the_same_cases(package: str, make: str) -> None:
    data = attrgetter(make)(pytest.importorskip(package))(ROWS)
    assert [json.loads(line) for line in cases_of(data).splitlines()] == ROWS


def test_columns_beside_the_answer_are_the_input() -> None:
    data = pandas.DataFrame({"x": [1.5], "y": ["a"], "answer": [True], "split": ["gate"]})
    assert json.loads(cases_of(data)) == {"input": {"x": 1.5, "y": "a"}, "answer": True, "split": "gate"}


def test_parts_by_the_names_of_splits_are_rows_of_these_splits() -> None:
    (first, second) = cases_of({"train": [{"input": 1, "answer": 1}], "test": Polars()}).splitlines()[:2]
    assert json.loads(first) == {"input": 1, "answer": 1, "split": "train"}
    assert json.loads(second)["split"] == "test"


def test_columns_of_other_names_are_named_by_the_options(config: Callable[..., Config]) -> None:
    rows = [{"text": f"say {number}", "label": number} for number in range(8)]
    named = {"input-column": "text", "answer-column": "label"}
    settings = config(solve, rows, "exact", config=named)
    lines = Path(settings.task.settings["data"]).read_text().splitlines()
    assert json.loads(lines[1]) == {"input": "say 1", "answer": 1}
    assert not {"input_column", "answer_column"} & settings.task.settings.keys()


ENDLESS: list[Any] = []
ENDLESS.append(ENDLESS)
MOMENT = datetime.datetime(2024, 1, 2, 3, 4, 5)  # noqa: DTZ001


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (numpy.int64(3), 3),
        (numpy.float32(0.5), 0.5),
        (numpy.bool_(True), True),
        (numpy.array([[1, 2]]), [[1, 2]]),
        (numpy.datetime64("2024-01-02T03:04:05", "ns"), "2024-01-02T03:04:05"),
        (numpy.array(["2024-01-02"], "datetime64[D]"), ["2024-01-02T00:00:00"]),
        (MOMENT, "2024-01-02T03:04:05"),
        (MOMENT.date(), "2024-01-02"),
        (pandas.Timestamp(MOMENT), "2024-01-02T03:04:05"),
        ({"when": (MOMENT.time(), numpy.int8(1))}, {"when": ["03:04:05", 1]}),
    ],
)
def test_what_numpy_and_datetime_hold_is_written_as_json(value: Any, written: Any) -> None:
    assert json.loads(cases_of([{"input": "x", "answer": value}]))["answer"] == written


@pytest.mark.parametrize("value", [pandas.NaT, pandas.NA, Decimal("1.5"), b"x", {1}])
def test_a_value_that_json_has_not_is_named(value: Any) -> None:
    with pytest.raises(UsageError, match=r"data, row 0: Object of type \w+ is not JSON serializable; make it a text"):
        cases_of([{"input": "x", "answer": value}])


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (
            [{"text": "a", "label": 1}],
            r"row 0: no `answer` among `text`, `label`; name the column with the answer by --answer-column NAME",
        ),
        (["a"], r"row 0: a str; a case is an object such as"),
        (pandas.DataFrame({"x": [1.0, None], "answer": [1, 2]}), r"row 1: it holds a NaN .* dropna\(\)"),
        ([{"input": object(), "answer": 1}], r"row 0: .*object is not JSON serializable; make it a text"),
        ({"input": [1], "answer": [1]}, r"data is one mapping, of `input`, `answer`; give the list of rows alone"),
        ([{"input": 1, "answer": {1}}], r"row 0: .*set is not JSON serializable; make it a text"),
        ([{"input": "cut \ud83d", "answer": 1}], r"row 0: it holds half of a character"),
        ([{"input": ENDLESS, "answer": 1}], r"row 0: it is nested too deeply, or holds itself"),
        ([{"input": 10**5000, "answer": 1}], r"row 0: .*4300 digits"),
        (3, r"data is of type int; give a path, a list of mappings, a frame or a data set"),
    ],
)
def test_rows_that_are_no_cases_are_refused_by_their_place(data: Any, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        cases_of(data)


# Runs


@pytest.mark.parametrize("wrong", [5, None, b"x", "a\0b", "\ud83d", []])
def test_what_is_no_path_of_a_run_is_refused(wrong: Any) -> None:
    for call in (sia_core.open_run, sia_core.runs, sia_core.Run("x").export):
        with pytest.raises(UsageError, match="is no path"):
            call(wrong)


def test_a_folder_that_is_no_run_is_said_to_be_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"no run 'nothing'"):
        sia_core.open_run("nothing")
    assert sia_core.runs() == []


@pytest.fixture
def sums(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> sia_core.Run:
    """A finished run that another version recorded, and that no other test has trusted."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return sia_core.open_run(restore("sums", tmp_path / "sums"))


def test_a_run_has_its_report_its_candidates_and_its_steps(sums: sia_core.Run) -> None:
    assert sums.report["status"] == "finished"
    assert list(sums.candidates["outcome"]) == [row["outcome"] for row in sums.report["generations"]]
    assert next(sums.events())["step"] == "run"
    sealed = sums.report["sealed"]
    assert repr(sums).endswith(f"sealed {sealed['initial']['value']:.4f} -> {sealed['final']['value']:.4f}>")
    assert "<svg" in sums._repr_html_()


def test_a_run_that_is_not_trusted_is_shown_without_the_files_that_it_names(sums: sia_core.Run) -> None:
    with pytest.warns(UserWarning, match=r"inputs and expected answers are left out: .* was not started here by you"):
        gate = sums.rollouts("gate")
    agent = gate["agent"][0]
    assert set(gate["input"]) == {None}
    with pytest.warns(UserWarning, match="left out"):
        assert len(sums.rollouts("gate", agent)) == (gate["agent"] == agent).sum()


def test_a_final_agent_that_is_always_right_has_no_failures(sums: sia_core.Run) -> None:
    with pytest.warns(UserWarning, match="left out"):
        failures = sums.failures
    assert len(failures) == 0


def test_without_pandas_a_table_is_a_list(sums: sia_core.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    assert [row["name"] for row in sums.candidates] == [row["name"] for row in sums.report["generations"]]


def test_rollouts_are_of_three_purposes(sums: sia_core.Run) -> None:
    with pytest.raises(UsageError, match=r"no rollouts of purpose 'public'; the purposes are search, gate and sealed"):
        sums.rollouts("public")


def test_an_agent_that_there_is_none_of_has_no_rollouts(sums: sia_core.Run) -> None:
    for wrong in ("nobody", 5):
        with pytest.raises(UsageError, match=f"no rollouts of agent {wrong!r}; the agents are "):
            sums.rollouts("gate", wrong)  # type: ignore[arg-type]


def test_the_plot_draws_the_candidates_that_were_compared() -> None:
    gate = {"incumbent": 0.2, "delta": 0.3, "ci95": [0.1, 0.5]}
    rows = [{"gate": gate, "accepted": True, "name": "a<b", "outcome": "promoted"}, {"gate": None}]
    picture = score_plot({"metric": {"bounds": None}, "generations": rows})
    marks = [each.text for each in ElementTree.fromstring(picture).iter("title")]
    assert marks == ["Scores on the gate", "a<b: 0.5000, promoted"]
    assert score_plot({"generations": rows[1:]}) == ""


def test_the_plot_ends_at_the_bounds_of_the_metric() -> None:
    gate = {"incumbent": 0.9, "delta": 0.05, "ci95": [-0.1, 0.2]}
    rows = [{"gate": gate, "accepted": True, "name": "a", "outcome": "promoted"}]
    picture = score_plot({"metric": {"bounds": [0.0, 1.0]}, "generations": rows})
    texts = [each.text for each in ElementTree.fromstring(picture).iter()]
    assert "0.800" in texts
    assert "1.000" in texts


class Echo:
    """A sandbox that answers what it is asked."""

    closed = 0

    def answer(self, value: Any) -> str:
        return json.dumps(value)

    def close(self) -> None:
        self.closed += 1


def test_an_agent_is_called_with_an_input_and_closed_once() -> None:
    echo = Echo()
    agent = api.Agent(echo)
    assert agent("hello") == {"text": "hello"}
    assert agent({"x": 1}) == {"x": 1}
    for wrong in (object(), {"x": {1}}, float("nan"), "\ud83d"):
        with pytest.raises(UsageError, match="the input: "):
            agent(wrong)
    agent.close()
    del agent
    assert echo.closed == 1
