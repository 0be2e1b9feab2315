"""``sia audit`` with a real sandbox and verifier: planted faults are named, and examples without one are found well."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from documented_fields import documented
from example_runs import EXAMPLE
from plugin_sites import write_plugin

from sia_cli import main

pytestmark = pytest.mark.real

PLUGIN = """
from sia_core.hookspecs import Offer, hookimpl
sia_api = 1
@hookimpl
def sia_verifiers(): return [Offer("faulty", "s", "faulty_parts:Faulty")]
@hookimpl
def sia_tasks():
    return [Offer("guarded", "s", "faulty_parts:Guarded"), Offer("unbounded", "s", "faulty_parts:Unbounded")]
"""

PARTS = """
import json, os, random
from dataclasses import dataclass
from sia_runtime.cases import Cases
from sia_core.types import Metric, OfferRef, Score
from sia_runtime.builtin_verifiers import Exact

def depth(value):
    if isinstance(value, dict): value = list(value.values())
    return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0

class Faulty(Exact):
    def __init__(self, data, arg=""):
        super().__init__(data)
        self.fault = arg

    def score(self, instance, answer, ctx):
        right, fault = super().score(instance, answer, ctx).reward, self.fault
        if fault == "empty": return Score(1.0 if answer in ("", {}, []) else right)
        if fault == "always": return Score(1.0)
        if fault == "random": return Score(float(random.random() < 0.5))
        if fault == "seeded": return Score(right * (1 - 0.5 * random.Random(ctx.seed).random()))
        if fault == "judge": return Score(1.0 if "full score" in str(answer) else right)
        if fault == "labels": return Score(1.0 - right)
        if fault == "deep" and depth(answer) > 20: os._exit(3)
        if fault in ("-1e+99", "-1.7e308"): return Score(right or float(fault))
        if fault == "public" and instance.split == "public": raise KeyError("no public label")
        if instance.split in ("gate", "sealed"): open(fault, "w").write(instance.id)
        return Score(right)

@dataclass(frozen=True)
class Locked:
    id: str
    name: str
    input: dict
    split: str

    @property
    def answer(self):
        raise AssertionError(f"the label of {self.split} case {self.id} was read")

class Guarded(Cases):
    def __init__(self, data, agent, seed=0, marks=""):
        super().__init__(data, agent, seed)
        self.verifier = OfferRef("faulty", {**self.verifier.settings, "arg": marks})
        for split in ("gate", "sealed"):
            self._splits[split][:] = [Locked(c.id, c.name, c.input, split) for c in self._splits[split]]
        self._cases = ()

class Unbounded(Cases):
    def __init__(self, data, agent, seed=0, least="-1e99"):
        super().__init__(data, agent, seed)
        self.verifier = OfferRef("faulty", {**self.verifier.settings, "arg": least})
        self.metric, self.failure_reward = Metric("score", bounds=None), -1e99
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plugin with a verifier that has the fault that its argument names."""
    return write_plugin(tmp_path_factory.mktemp("site"), "faulty", PLUGIN, PARTS)


Audited = Callable[..., tuple[int, dict[str, tuple[str, str]]]]


@pytest.fixture
def audited(site: Path, sums: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Audited:
    """``audited(*options)``: the exit code, and of each finding the verdict and the sentence."""
    monkeypatch.setenv("PYTHONPATH", str(site))
    monkeypatch.syspath_prepend(str(site))

    def run(*options: str) -> tuple[int, dict[str, tuple[str, str]]]:
        task = () if {"guarded", "unbounded"} & {*options} else ("--harness", str(sums / "agent"))
        code = main(["audit", *task, "--data", str(sums / "cases.jsonl"), "--json", *options])
        report = json.loads(capsys.readouterr().out)
        assert report.keys() == documented()["sia audit"]
        assert report["verdict"] == ("bad" if code else report["verdict"])
        return code, {
            f"{each['check']}: {each['about']}": (each["verdict"], each["says"]) for each in report["findings"]
        }

    return run


@pytest.mark.parametrize(
    ("fault", "check", "words"),
    [
        ("empty", "separation: empty", "earn more than a failure"),
        ("always", "separation: random", "as much as good answers"),
        ("random", "noise: the same answers again", "must give the same score"),
        ("judge", "separation: hostile", "most of all an order to a judge"),
        ("labels", "separation: labelled cases", "no more than a failure"),
        ("deep", "separation: hostile", "ended unexpectedly"),
    ],
)
def test_a_planted_fault_of_the_verifier_is_named(audited: Audited, fault: str, check: str, words: str) -> None:
    code, checks = audited("--verifier", f"faulty:{fault}")
    assert code == 1
    assert checks[check][0] == "bad", checks[check]
    assert words in checks[check][1]
    healthy = {"noise: the same answers again", "head-room: the gate", "separation: labelled cases"} - {check}
    if fault in ("empty", "judge", "deep"):
        assert {checks[each][0] for each in healthy} == {"ok"}


@pytest.mark.parametrize(
    ("least", "exit_code", "words"),
    [("-1e+99", 0, "the first harness earns"), ("-1.7e308", 1, "not a finite number of at most 1e+100")],
)
def test_large_rewards_without_bounds_are_measured_and_larger_ones_are_named(
    audited: Audited, sums: Path, least: str, exit_code: int, words: str
) -> None:
    agent = f"agent={sums / 'agent'}"
    code, checks = audited("unbounded", "--set", agent, "--set", f"least={least}")
    assert code == exit_code
    assert any(words in says for _, says in checks.values()), checks


def test_a_verifier_that_depends_on_its_seed_is_told_and_is_no_reason_to_stop(audited: Audited) -> None:
    code, checks = audited("--verifier", "faulty:seeded")
    verdict, says = checks["noise: the same answers again"]
    assert (code, verdict) == (0, "look")
    assert "with another seed" in says
    assert "the same seed" not in says


def test_a_verifier_that_judges_no_public_case_is_compared_with_the_first_harnesss_best(audited: Audited) -> None:
    code, checks = audited("--verifier", "faulty:public")
    assert code == 0
    assert checks["separation: first harness's best"] == ("ok", "earn 1.000")
    assert "no public label" in checks["separation: labelled cases"][1]


def test_no_label_of_gate_or_sealed_is_read_and_no_such_instance_is_asked_about(
    audited: Audited, sums: Path, tmp_path: Path
) -> None:
    mark = tmp_path / "asked"
    code, checks = audited("guarded", "--set", f"agent={sums / 'agent'}", "--set", f"marks={mark}")
    assert code == 0, checks
    assert checks["leaks: sealed in other splits"][0] == "ok"
    assert checks["separation: labelled cases"] == ("ok", "earn 1.000")
    assert not mark.exists()


def test_a_sealed_case_that_the_harness_or_the_public_file_holds_is_found(audited: Audited, sums: Path) -> None:
    cases = [json.loads(line) for line in (sums / "cases.jsonl").read_text().splitlines()]
    splits = ("public", "search", "gate", "sealed")
    cases = [{**case, "split": splits[number % 4]} for number, case in enumerate(cases)]
    cases.append({"input": {"text": cases[3]["input"]["text"].upper()}, "answer": 0, "split": "public"})
    (sums / "cases.jsonl").write_text("".join(json.dumps(case) + "\n" for case in cases))
    code, checks = audited()
    assert code == 1
    bad = {check for check, (verdict, _) in checks.items() if verdict == "bad"}
    assert bad == {"leaks: sealed in other splits", "leaks: sealed in public files"}
    with (sums / "agent" / "harness.py").open("a") as harness:
        harness.write(f"\nSEEN = {{{cases[7]['input']['text']!r}: {cases[7]['answer']}}}\n")
    assert audited()[1]["leaks: sealed in first harness"][0] == "bad"


def test_a_first_harness_that_never_answers_is_told(audited: Audited, sums: Path) -> None:
    (sums / "agent" / "harness.py").write_text("def solve(instance, ctx):\n    raise ValueError('no such word')\n")
    code, checks = audited()
    verdict, says = checks["cost: failures"]
    assert (code, verdict) == (1, "bad")
    assert "50 of 50" in says
    assert "no such word" in says


def test_the_table_of_the_example_names_every_check_and_leaves_nothing_behind(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path), "COLUMNS": "140"}
    argv = ["audit", "--harness", str(EXAMPLE / "agent"), "--data", str(EXAMPLE / "cases.jsonl"), "--verifier", "exact"]
    command = [sys.executable, "-m", "sia_cli", *argv]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    checks = ("separation", "noise", "head-room", "leaks", "cost")
    for words in (*checks, "labelled cases, shuffled", "0 to be mended"):
        assert words in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_an_audit_gives_the_notices_that_a_run_gives(sums: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (sums / "agent" / ".env").write_text("KEY=secret\n")
    with (sums / "agent" / "playbook.toml").open("a") as catalogue:
        change = '[[edit.change]]\nop = "replace"\npath = "harness.py"\nold = "stands nowhere"\nnew = ""\n'
        catalogue.write(f'\n[[edit]]\nname = "misspelt"\nsummary = "s"\n\n{change}')
    assert main(["audit", "--harness", str(sums / "agent"), "--data", str(sums / "cases.jsonl")]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "left out of the harness: .env" in text
    assert "the edit 'misspelt' cannot be tried" in text
    assert "secret" not in text


@pytest.mark.slow
def test_tokens_are_told_where_the_agent_asks_a_policy(audited: Audited) -> None:
    words = EXAMPLE.parent / "words"
    about: Any = ("--harness", str(words / "agent"), "--data", str(words / "cases.jsonl"), "--policy", "tiny")
    code, checks = audited(*about)
    assert code == 0
    assert "tokens of the policy a rollout" in checks["cost: one rollout"][1]
    assert "separation: first harness" in checks


@pytest.mark.slow
def test_lawbench_has_14_sealed_cases_near_a_labelled_one_and_nothing_bad(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from sia_lawbench import source

    original = source.Source.read

    def guarded(self: source.Source, name: str) -> bytes:
        assert name != source.SEALED_LABELS
        return original(self, name)

    monkeypatch.setattr(source.Source, "read", guarded)
    assert main(["audit", "lawbench", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["verdict"] == "look"
    (row,) = [
        each for each in report["leaks"]["places"] if (each["split"], each["place"]) == ("sealed", "other splits")
    ]
    assert (len(row["near"]), row["exact"], row["inputs"]) == (14, [], 913)
    groups = {each["answers"]: each["mean"] for each in report["separation"]}
    assert groups["labelled cases"] == 1.0
    assert max(mean for name, mean in groups.items() if name.startswith(("null", "empty", "hostile"))) == 0.0
