"""Arms side by side: what a comparison runs, what its figures say, and what they do not."""

from __future__ import annotations

import fcntl
import json
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sia_cli import main, parser_of
from sia_cli.configuration import config_from, config_of, earned_of
from sia_compare.arms import ARMS, MANIFEST, QUICK, USUAL, Cell, Design, begun
from sia_compare.command import asked, print_result
from sia_compare.doing import Doing
from sia_compare.result import result
from sia_compare.statistics import contrast, flipped, holm, least_p, over_cases, over_seeds
from sia_core.errors import UsageError
from sia_core.run.intervals import beside, estimate
from sia_core.run.ledger import Ledger

METRIC = {"name": "right", "direction": "maximize", "bounds": [0.0, 1.0]}
DESIGN = Design(("--plugin", "fake"), ("--policy", "tiny"), (), QUICK, 3, "rollouts=100")


# What is run


def test_an_option_on_a_comparison_that_was_begun_is_refused_with_what_to_do(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["compare", "cmp", "--seeds", "4"]) == 2
    assert "--seeds: what is compared is decided once, when a comparison begins. `sia compare cmp` alone goes on" in (
        capsys.readouterr().err
    )


def test_each_arm_runs_with_each_seed_at_the_same_budget() -> None:
    cells = DESIGN.cells()
    assert [cell.name for cell in cells[:5]] == ["none-0", "harness-0", "weights-0", "both-0", "none-1"]
    assert len(cells) == 12
    for cell in cells:
        config = config_of(parser_of(["run"]).parse_args(["run", *DESIGN.command(cell)]))
        assert config.budget == {"rollouts": 100.0}
        assert config.plan.seed == config.task.settings["seed"] == cell.seed
        assert config.engine.settings["policy"] == "tiny"  # also where an arm does not train it


@pytest.mark.parametrize("arm", ARMS)
def test_an_arm_differs_in_levers_and_in_who_decides_alone(arm: str) -> None:
    design = replace(DESIGN, arms=(arm, "none" if arm != "none" else "both"), improver=("--improver", "claude"))
    config = config_of(parser_of(["run"]).parse_args(["run", *design.command(Cell(arm, 1))]))
    assert config.plan.levers == ARMS[arm].levers
    assert config.improver == (ARMS[arm].improver or "claude")
    assert (config.plan.generations == 0) == (arm == "none")


@pytest.mark.parametrize(
    ("change", "message"),
    [({"arms": ("none", "all")}, "all is none"), ({"arms": ("none",)}, "at least two"), ({"seeds": 0}, "from 1 to")],
)
def test_a_design_that_compares_nothing_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        replace(DESIGN, **change)


def test_a_comparison_goes_on_as_it_was_begun(tmp_path: Path) -> None:
    assert begun(tmp_path, DESIGN) == DESIGN
    assert begun(tmp_path, None) == begun(tmp_path, DESIGN) == DESIGN
    with pytest.raises(UsageError, match="another seeds, budget"):
        begun(tmp_path, replace(DESIGN, seeds=4, budget="rollouts=7"))
    commands = json.loads((tmp_path / MANIFEST).read_text())["commands"]
    assert commands["both-2"][:4] == ["sia", "run", "--plugin", "fake"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"design": {"arms": 1}}', '{"design": {"seeds": "x"}}'])
def test_a_manifest_that_is_none_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(UsageError, match=MANIFEST):
        begun(tmp_path, None)


def test_a_comparison_that_another_process_is_on_is_left_alone(tmp_path: Path) -> None:
    DESIGN.write(tmp_path)
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="another process"):
            Doing(tmp_path, DESIGN, lambda *_: None).all(1)


@pytest.mark.real
@pytest.mark.parametrize(
    ("end", "reason"),
    [("import os; os.kill(os.getpid(), 9)", "runs out of memory: try again with --jobs 1"), ("exit(3)", "exit code 3")],
)
def test_a_run_that_failed_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str, reason: str
) -> None:
    program = tmp_path / "python"
    program.write_text(f"#!{sys.executable}\n{end}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    heard: list[str] = []
    doing = Doing(tmp_path, replace(DESIGN, arms=("none", "harness"), seeds=1), lambda cell, what: heard.append(what))
    assert [cell.name for cell in doing.all(1)] == ["none-0", "harness-0"]
    assert reason in heard[-1]


def options(*more: str) -> Any:
    return parser_of(["compare"]).parse_args(["compare", "folder", "--harness", "agent", "--data", "cases", *more])


def test_the_options_of_a_comparison_become_those_of_its_runs() -> None:
    design = asked(options("--budget", "rollouts=9", "--improver", "claude", "--candidates", "3", "--set", "a=b"))
    assert design
    assert (design.arms, design.seeds) == (USUAL, 8)
    assert design.task == ("--harness", str(Path("agent").absolute()), "--data", str(Path("cases").absolute()),
                           "--set", "a=b")  # fmt: skip
    assert design.how == ("--candidates", "3", "--policy", "tiny", "--engine", "torch")
    assert design.improver == ("--improver", "claude")


def test_the_gate_of_a_comparison_is_that_of_its_runs() -> None:
    design = asked(options("--budget", "9", "--arms", "none,harness", "--gate", "bold"))
    assert design
    config = config_from(design.command(Cell("none", 0)))
    assert config.plan.earned == 0.2


@pytest.mark.parametrize(("setting", "earned"), [("strict", 0.0), ("default", 0.05), ("earned=.1", 0.1)])
def test_a_promotion_earns_what_the_gate_is_said_to(setting: str, earned: float) -> None:
    assert earned_of(setting) == earned


@pytest.mark.parametrize("setting", ["earned", "earned=", "earned=much", "looser", ""])
def test_a_gate_that_says_nothing_is_refused_with_what_to_say(setting: str) -> None:
    with pytest.raises(UsageError, match="say earned=X, X from 0"):
        earned_of(setting)


def test_arms_that_train_nothing_have_no_policy_unless_one_is_named() -> None:
    design = asked(options("--budget", "9", "--arms", "none,harness"))
    assert design
    assert design.how == ()


def test_a_budget_is_named() -> None:
    with pytest.raises(UsageError, match="name the budget"):
        asked(options())


# Figures


def test_the_interval_over_seeds_is_students() -> None:
    for n, quantile in ((2, 12.7062), (3, 4.3027), (6, 2.5706), (31, 2.0423)):
        values = [1.0] * (n - 1) + [1.0 + n]  # its mean is 2 and its standard error 1
        estimate = over_seeds(values)
        assert estimate.ci95 == pytest.approx((2 - quantile, 2 + quantile), abs=1e-4)


def test_beyond_the_seeds_whose_signs_are_counted_the_p_is_students() -> None:
    n, quantile = 31, 2.0423
    values = [quantile - 1.0] * (n - 1) + [quantile - 1.0 + n]  # its mean is the quantile and its standard error 1
    assert over_seeds(values).p == pytest.approx(0.05, abs=1e-5)


def test_flipping_signs_counts_what_is_as_far_from_zero() -> None:
    assert flipped([1.0, 1.0, 1.0]) == 0.25 == least_p(3)
    assert flipped([1.0] * 6) == 2 / 64 == least_p(6)
    assert flipped([1.0, -1.0]) == 1.0
    assert flipped([0.0, 0.0]) == 1.0


def test_holm_keeps_the_order_and_never_goes_below_a_value() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_a_case_that_several_seeds_saw_is_one_word_and_not_several() -> None:
    case = {"a": 1.0, "b": 0.0, "c": 1.0, "d": 0.0}
    once, thrice = over_cases({0: case}), over_cases({0: case, 1: case, 2: case})
    assert once.ci95 == pytest.approx(thrice.ci95)
    apart = over_cases({seed: {f"{name}{seed}": value for name, value in case.items()} for seed in range(3)})
    assert apart.ci95
    assert once.ci95
    assert apart.ci95[1] - apart.ci95[0] < once.ci95[1] - once.ci95[0]


def test_a_difference_is_of_the_cases_and_seeds_that_both_arms_have() -> None:
    arms = {"a": {0: {"x": 1.0, "y": 1.0}, 1: {"x": 0.0}}, "b": {0: {"x": 0.0, "z": 1.0}, 2: {"x": 1.0}}}
    difference = contrast("a − b", {"a": 1, "b": -1}, arms)
    assert difference
    assert (difference.value, difference.by_seed, difference.cases.n) == (1.0, (1.0,), 1)
    assert contrast("", {"a": 1, "b": -1}, {"a": {0: {"x": 1.0}}, "b": {}}) is None


def test_intervals_and_tests_keep_what_they_promise_where_there_is_no_difference() -> None:
    chance, covers, alarms = random.Random(0), [0, 0], 0
    for _ in range(400):
        values = {seed: {f"{case}/{seed}": chance.gauss(0, 1) for case in range(30)} for seed in range(6)}
        estimates = over_cases(values), over_seeds([sum(each.values()) / 30 for each in values.values()])
        for place, each in enumerate(estimates):
            assert each.ci95
            covers[place] += each.ci95[0] <= 0 <= each.ci95[1]
        alarms += (estimates[1].p or 0) <= 0.05
    assert all(0.92 < each / 400 < 0.98 for each in covers)
    assert alarms / 400 < 0.06


# Results


def finish(folder: Path, cell: Cell, rewards: Sequence[float], rollouts: float = 100.0) -> None:
    """A finished run as its ledger holds it, with these sealed rewards."""
    with Ledger.create(folder / cell.name) as ledger:
        plan = {"levers": ["harness"], "seed": cell.seed, "repeats": 1}
        config = {"plan": plan, "improver": "playbook", "budget": {}, "engine": None}
        about = {"task": "fake", "metric": METRIC, "version": "0.1.0"}
        ledger.record("run", {"config": config, **about})
        ledger.record("draft", "d" * 64)
        ledger.record("closed", {"why": "all generations are done"})
        batch = [
            {"instance": f"case-{place}", "outcome": "ok", "reward": reward} for place, reward in enumerate(rewards)
        ]
        ledger.record(f"rollouts/sealed/{'d' * 12}/0000", {"rollouts": batch})
        score = {**beside(estimate(list(rewards)), estimate([0.0, 1.0])), "out_of_tokens": 0}
        for which in ("initial", "final"):
            ledger.record(f"sealed/{which}", score)
        ledger.record("finished", {"spent": {"rollouts": rollouts}})


def compared(
    folder: Path, arms: Mapping[str, float], seeds: int = 3, cases: int = 200, design: Design = DESIGN
) -> dict[str, Any]:
    """The result of arms that are right on such shares of the cases."""
    design = replace(design, arms=tuple(arms), seeds=seeds)
    for seed in range(seeds):
        for arm, share in arms.items():
            right = round(share * cases)
            finish(folder, Cell(arm, seed), [1.0] * right + [0.0] * (cases - right))
    return result(folder, design)


def test_a_comparison_says_what_each_lever_added_alone_and_together(tmp_path: Path) -> None:
    report = compared(tmp_path, {"none": 0.2, "harness": 0.5, "weights": 0.3, "both": 0.7})
    added = {row["name"]: round(row["value"], 6) for row in report["attribution"]}
    assert added == {
        "harness lever alone": 0.3,
        "weight lever alone": 0.1,
        "both together": 0.5,
        "harness lever beside weights": 0.4,
        "weight lever beside harness": 0.2,
        "more than the sum of both alone": 0.1,
    }


def test_intervals_of_means_and_differences_end_where_the_metric_does(tmp_path: Path) -> None:
    design = replace(DESIGN, arms=("none", "both"), seeds=2)
    for seed in range(2):
        finish(tmp_path, Cell("none", seed), [0.0, 0.0, 0.1 * seed])
        finish(tmp_path, Cell("both", seed), [1.0, 1.0, 1.0 - 0.1 * seed])
    report = result(tmp_path, design)
    none, both = (arm["final"] for arm in report["arms"])
    for over in ("cases", "seeds"):
        assert none[over]["ci95"][0] == 0.0
        assert both[over]["ci95"][1] == 1.0
        assert report["comparisons"][0][over]["ci95"][1] == report["attribution"][0][over]["ci95"][1] == 1.0


def test_each_arm_is_tested_against_doing_nothing_and_plain_sampling(tmp_path: Path) -> None:
    report = compared(tmp_path, {"none": 0.2, "both": 0.7, "random-choice": 0.6, "best-of-n": 0.4})
    assert [row["name"] for row in report["comparisons"]] == [
        "both − none",
        "random-choice − none",
        "best-of-n − none",
        "both − best-of-n",
        "random-choice − best-of-n",
        "both − random-choice",
    ]
    assert all(row["cases"]["p_adjusted"] < 0.001 for row in report["comparisons"])


def test_what_few_seeds_and_alike_arms_do_not_show_is_said(tmp_path: Path) -> None:
    text = "\n".join(compared(tmp_path, {"none": 0.5, "harness": 0.5})["cannot_conclude"])
    assert (
        "harness − none is other than 0 on new cases: not shown, and their agents scored alike on every case." in text
    )
    assert "its p is never below 0.25" in text
    assert "other tasks" in text


def test_many_seeds_that_agree_show_that_new_runs_would_too(tmp_path: Path) -> None:
    report = compared(tmp_path, {"none": 0.2, "harness": 0.7}, seeds=7)
    assert report["comparisons"][0]["seeds"]["p_adjusted"] == 2 / 128
    assert report["cannot_conclude"] == [
        "Anything about other tasks, other policies or other budgets: these runs are of one of each."
    ]


def test_runs_that_are_not_finished_are_named_and_left_out(tmp_path: Path) -> None:
    compared(tmp_path, {"none": 0.2, "harness": 0.7})
    report = result(tmp_path, replace(DESIGN, arms=("none", "harness"), seeds=4))
    assert (report["finished"], report["runs"]) == (6, 8)
    assert report["cannot_conclude"][0].startswith("2 of 8 runs are not finished (none-3, harness-3)")


def test_a_comparison_without_one_finished_run_has_a_result_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    print_result(result(tmp_path, DESIGN))
    assert "12 of 12 runs are not finished" in " ".join(capsys.readouterr().out.split())


def test_budgets_that_were_not_used_alike_are_told_of(tmp_path: Path) -> None:
    for arm, rollouts in (("none", 10.0), ("harness", 20.0), ("both", 100.0)):
        finish(tmp_path, Cell(arm, 0), [0.0, 1.0], rollouts)
    design = replace(DESIGN, arms=("none", "harness", "both"), seeds=1, budget="rollouts=100,seconds=60")
    text = "\n".join(result(tmp_path, design)["cannot_conclude"])
    assert "What harness would have come to with all of its budget" in text
    assert "seconds are shared" in text


def test_a_finished_comparison_is_printed_without_being_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    design = replace(DESIGN, arms=("none", "harness"), seeds=1)
    design.write(tmp_path)
    for cell in design.cells():
        finish(tmp_path, cell, [float(cell.arm == "harness")] * 20)
    assert main(["compare", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["comparisons"][0]["value"] == 1.0
    assert main(["compare", str(tmp_path)]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "harness − none │ +1.0000" in text
    assert "1 alone" in text  # one seed has no interval


def test_a_folder_without_a_comparison_needs_to_be_told_what_to_compare(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", str(tmp_path / "none")]) == 2
    assert "name what to compare" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (("--plugin", "nothing"), "no task named 'nothing'"),
        (("--plugin", "lawbench", "--generations", "many"), "'many' is not a whole number"),
        (("--plugin", "lawbench", "--improver", "nobody"), "no improver named 'nobody'"),
        (("--plugin", "lawbench", "--budget", "rollouts=1"), "is too small"),
        (("--plugin", "lawbench", "--sandbox", "nowhere"), "no sandbox named 'nowhere'"),
        (("--plugin", "lawbench", "--seeds", "0"), "'0' is not a whole number from 1 to 1000"),
        (("--plugin", "lawbench", "--jobs", "-1"), "'-1' is not a whole number from 1 to 1000"),
    ],
    ids=str,
)
def test_a_comparison_that_could_not_run_is_refused_and_leaves_no_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], wrong: tuple[str, ...], says: str
) -> None:
    command = ["compare", str(tmp_path / "compared"), "--arms", "none,harness", "--budget", "rollouts=9999", *wrong]
    with pytest.raises(SystemExit, match="2"):  # of argparse, or as the command line ends the process
        sys.exit(main(command))
    assert says in capsys.readouterr().err
    assert not (tmp_path / "compared").exists()
