"""The playbook improver on what earlier runs of the same task earned, and on records that make no sense."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sia_core.decision import RewriteHarness, UpdateWeights
from sia_core.errors import LedgerError, UsageError
from sia_core.evidence import AgentView, AlgorithmView, Evidence, Rollout, Trial, WeightsView, reward_stats, summarise
from sia_core.harness import HarnessTree
from sia_core.playbook import Playbook
from sia_core.run.ledger import Ledger
from sia_playbook.improver import Bandit
from sia_testing.improvers import plain_evidence

TREE = HarnessTree({"harness.py": b"A = 1\nB = 1\nC = 1\n"})
BOOK = Playbook.model_validate(
    {
        "edit": [
            {
                "name": f"{letter}{number}",
                "family": letter,
                "summary": f"set {letter}",
                "change": [
                    {"op": "replace", "path": "harness.py", "old": f"{letter} = 1", "new": f"{letter} = {number}"}
                ],
            }
            for letter in "ABC"
            for number in (2, 3)
        ]
    }
)
HALF = 50


def rollouts(right: int, of: int = 100) -> list[Rollout]:
    return [Rollout(f"i{index}", "ok", float(index < right)) for index in range(of)]


GROUPS = reward_stats([*rollouts(50), *rollouts(0)], 0.0)
FIRST = AgentView("first", TREE.digest, None, None, TREE, (), summarise(rollouts(HALF), 0.0), GROUPS)


def evidence(**changes: Any) -> Evidence:
    return plain_evidence(FIRST, **{"playbook": BOOK, "candidates": 6, **changes})


def earlier(store: Path, changes: Sequence[tuple[str, int | None]], task: str = "mine", **plan: Any) -> None:
    """An earlier run: each change by its name, and how many of 100 instances its agent got right where it ran."""
    with Ledger.create(store / f"run-{len(list(store.glob('*')))}") as ledger:
        ledger.record("run", {"task": task, "config": {"plan": {"earned": 0.05, **plan}}})
        ledger.record("rollouts/search/first/0000", {"rollouts": [each.to_json() for each in rollouts(HALF)]})
        ledger.record("explore/first", {"stats": asdict(GROUPS)})
        for index, (name, right) in enumerate(changes):
            row: dict[str, Any] = {
                "lever": "harness",
                "name": name,
                "algorithm": None,
                "parent": "first",
                "agent": None,
            }
            row |= {"outcome": "failed", "accepted": False, "gate": {"delta": 0.9}, "gain": 0.9}
            if name == "ppo":
                row |= {"lever": "weights", "algorithm": name}
            if right is not None:
                row |= {"agent": f"a{index}", "outcome": "rejected"}
                batch = {"rollouts": [each.to_json() for each in rollouts(right)]}
                ledger.record(f"rollouts/search/a{index}/0000", batch)
            ledger.record(f"generation/0/gated/{index}", row)
        ledger.record("sealed/final", {"value": 0.99})


class Run:
    """A run of the task ``mine``, as an improver meets it, and the notices that it gave."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.notices = folder, list[str]()

    def improver(self, runs: object) -> Bandit:
        bandit = Bandit(runs=str(runs))
        bandit.check()
        with Ledger(self.folder) if self.folder.exists() else Ledger.create(self.folder) as ledger:
            ledger.step("run", lambda: {"task": "mine"})
            bandit.equip(SimpleNamespace(ledger=ledger, notice=self.notices.append))  # type: ignore[arg-type]
        return bandit


@pytest.fixture
def store(tmp_path: Path) -> Path:
    (tmp_path / "store").mkdir()
    return tmp_path / "store"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run")


def expected(improver: Bandit, **changes: Any) -> dict[str, float]:
    """The predicted gains by name, in the order of the choice."""
    rewrites = [each for each in improver.decide(evidence(**changes)) if isinstance(each, RewriteHarness)]
    return {each.name: each.prediction.gain for each in rewrites}


def test_an_edit_that_earned_in_earlier_runs_is_first_and_one_that_lost_is_last(store: Path, run: Run) -> None:
    earlier(store, [("A2", 70), ("B2", 30), ("B3", None)])
    gains = expected(run.improver(store))
    names = list(gains)
    assert names[0] == "A2"
    assert {names.index("B2"), names.index("B3")} <= {3, 4, 5}
    assert gains["A2"] > gains["A3"] > gains["C2"] == 0 > gains["B2"]
    assert gains["A2"] < 0.1, "nothing of the gate's 0.9 nor of the sealed score"


def test_the_reason_says_what_is_of_earlier_runs(store: Path, run: Run) -> None:
    earlier(store, [("A2", 70)])
    first = run.improver(store).decide(evidence())[0]
    assert "elsewhere it earned +0.200 on average in 1 try (1 in earlier runs);" in first.reason


def test_an_earlier_run_counts_less_than_this_one(store: Path, run: Run) -> None:
    earlier(store, [("A2", 70)])
    own = Trial(0, "harness", "A2", None, "first", "other", "", 0.0, "rejected", "", 0.2)
    other = replace(FIRST, id="other", search=summarise(rollouts(70), 0.0), files=HarnessTree({"harness.py": b"A = 2"}))
    agents = {"first": FIRST, "other": replace(other, harness=other.files.digest)}
    here = expected(Bandit(), trials=(own,), agents=agents)
    assert 0 < expected(run.improver(store))["A3"] < here["A3"]


def test_a_run_of_another_task_teaches_nothing(store: Path, run: Run) -> None:
    earlier(store, [("A2", 70)], task="another")
    assert set(expected(run.improver(store)).values()) == {0.0}


def test_the_runs_are_read_once_so_a_store_that_grew_or_went_changes_nothing(store: Path, run: Run) -> None:
    earlier(store, [("A2", 70)])
    before = expected(run.improver(store))
    earlier(store, [("C2", 90)])
    assert expected(run.improver(store)) == before


def test_an_update_is_expected_to_win_the_share_that_earlier_ones_won(store: Path, run: Run, tmp_path: Path) -> None:
    view = evidence(levers=("weights",), algorithms=(AlgorithmView("ppo", ""),), weights=WeightsView())

    def update(improver: Bandit) -> UpdateWeights:
        (decision,) = improver.decide(view)
        assert isinstance(decision, UpdateWeights)
        return decision

    plain = update(Bandit())
    earlier(store, [("ppo", 50), ("ppo", 51)])
    learned = update(run.improver(store))
    assert 0 < learned.prediction.gain < 0.8 * plain.prediction.gain
    assert "earlier ones won +0.010 of" in learned.reason
    (tmp_path / "old").mkdir()
    earlier(tmp_path / "old", [("ppo", 99)], earned=None)
    again = update(Run(tmp_path / "run-2").improver(tmp_path / "old"))
    assert again == plain, "it was estimated on what it had learned from"


def test_a_folder_that_is_not_there_is_the_users_mistake() -> None:
    with pytest.raises(UsageError, match="--improver-set runs=nowhere: no such folder"):
        Bandit(runs="nowhere").check()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("run", {"task": "mine"}),
        ("run", {"task": "mine", "config": {"plan": 3}}),
        ("generation/0/gated/0", {"parent": "first"}),
        ("explore/first", {"stats": {"mean": 1}}),
        ("explore/first", {"stats": {**asdict(GROUPS), "mean": "much"}}),
        ("explore/first", {"stats": {**asdict(GROUPS), "deviation": 10**400}}),
        ("explore/first", {"stats": {**asdict(GROUPS), "instances": -0.5}}),
        ("explore/first", {"stats": {**asdict(GROUPS), "flat_groups": -3}}),
        ("rollouts/search/first/0000", {"rollouts": [{"instance": "i"}]}),
        ("rollouts/search/first/0000", {"rollouts": 7}),
    ],
)
def test_a_run_whose_records_make_no_sense_is_left_out_with_a_word(store: Path, run: Run, key: str, value: Any) -> None:
    with Ledger.create(store / "hostile") as ledger:
        ledger.record(key, value)
        for other, sane in (
            ("run", {"task": "mine", "config": {"plan": {}}}),
            ("rollouts/search/first/0000", {"rollouts": [each.to_json() for each in rollouts(HALF)]}),
            (
                "generation/0/gated/0",
                {"lever": "harness", "name": "A2", "algorithm": None, "parent": "first", "agent": "first"},
            ),
        ):
            if other != key:
                ledger.record(other, sane)
    earlier(store, [("A2", 70)])
    (store / "broken").mkdir()
    (store / "broken" / "ledger.db").write_text("no database")
    gains = expected(run.improver(store))
    assert gains["A2"] > 0
    assert len(run.notices) == 2
    assert any("hostile" in each for each in run.notices)


TRY = {"lever": "harness", "name": "A2", "gain": 0.1, "variance": 0.1, "estimate": 0.5, "exploration": None}


@pytest.mark.parametrize("value", [[3], [{}], {"a": 1}, 7, [{**TRY, "variance": -1}], [{**TRY, "name": ["A2"]}]])
def test_a_run_from_elsewhere_whose_own_record_makes_no_sense_is_an_error_by_its_name(
    store: Path, run: Run, value: Any
) -> None:
    with Ledger.create(run.folder) as ledger:
        ledger.record("earlier", value)
    with pytest.raises(LedgerError, match="cannot make sense of its records"):
        run.improver(store)
