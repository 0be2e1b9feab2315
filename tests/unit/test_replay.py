"""A run again from its records: what today's code does otherwise is named, and nothing is run or written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from table_policy import PLUGINS, TableBackend, TableHost, TableTask

from sia_cli.replay import told
from sia_cli.replay_run import changes, replay
from sia_core import __version__, builtins
from sia_core.decision import Prediction, Stop, Training, UpdateWeights
from sia_core.errors import LedgerError, PluginError, SiaError
from sia_core.hookspecs import Offer
from sia_core.plugins import Plugins, Source
from sia_core.run.approval import Paused
from sia_core.run.ledger import Ledger
from sia_core.run.loop import Loop
from sia_core.run.observe import Emitter
from sia_core.run.plan import Plan
from sia_core.run.start import Config, fingerprint, parts_of
from sia_core.run.trees import Trees
from sia_core.types import OfferRef
from sia_reading.report import build
from sia_testing.fakes import FakeTask, InstantBackend, ScriptedImprover, edit, harness
from sia_weights import plugin as weights

pytestmark = pytest.mark.thorough

GOOD, BAD, BEST = edit("good", 0.7), edit("bad", 0.1), edit("best", 0.9, old=0.7)
THREE = Plan(generations=3)
WEIGHTS = UpdateWeights(algorithm="grpo", reason="why not", prediction=Prediction(gain=0.1))


class World(Plugins):
    """The plugins of a replay: task and improver are made, and nothing else ever is."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder, self.task = folder, FakeTask(80)
        self.improver: Any = ScriptedImprover([GOOD, BAD], [BEST, WEIGHTS])
        source = Source("test", "test", "0")
        self.offers = [("improver", Offer("scripted", "s", "m:a"), source)]
        self.offers += [("lever", each, source) for each in (*builtins.sia_levers(), *weights.sia_levers())]

    def create(self, kind: str, name: str, /, **settings: Any) -> Any:
        if kind == "lever" or (kind == "improver" and name == "missing"):
            return super().create(kind, name, **settings)
        assert kind in ("task", "improver"), f"a replay has made the {kind} {name}"
        return self.task if kind == "task" else self.improver

    def record(
        self,
        *,
        after: int | None = None,
        backend: Any = None,
        plan: Plan = THREE,
        engine: OfferRef | None = None,
        approve: str = "",
        **more: Any,
    ) -> None:
        """Make the run; or its first steps only."""
        config = Config(OfferRef("fake"), plan, "scripted", backend="instant", engine=engine, approve=approve)
        metric = {"name": "right"}
        run = {"config": asdict(config), "task": "fake", "metric": metric, "fingerprint": fingerprint(self.task)}
        with Ledger.create(self.folder) as ledger:
            ledger.record("run", {**run, "version": __version__, **more})
            ledger.record("sandbox", {"name": "none", "lacks": []})
            if after is not None:
                ledger.record = _stopping(ledger.record, after)  # type: ignore[method-assign]
            parts = parts_of(
                config, self.task, ledger, Trees(self.folder), backend or InstantBackend(), self, Emitter(), "5e" * 32
            )
            try:
                Loop(config.plan, parts).improve()
            except KeyboardInterrupt:
                assert after is not None
            except Paused:
                assert approve

    def recorded(self) -> list[str]:
        with Ledger.read(self.folder) as ledger:
            return [key for key, _, _ in ledger.events()]


def _stopping(record: Callable[[str, Any], Any], after: int) -> Callable[[str, Any], Any]:
    remaining = iter(range(after))

    def stopping(key: str, value: Any) -> Any:
        if next(remaining, None) is None:
            raise KeyboardInterrupt
        return record(key, value)

    return stopping


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "fake-1")


def files(folder: Path) -> dict[str, bytes]:
    """All that a run holds; beside what SQLite needs to read."""
    return {
        str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and "ledger.db-" not in path.name
    }


def test_a_finished_run_agrees_in_all_of_its_steps_and_its_report_comes_out_again(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.record()
    before = files(world.folder)
    monkeypatch.setattr(InstantBackend, "submit", lambda *_: pytest.fail("work was run"))
    result = replay(world.folder, world)
    assert (result.agrees, result.ends, result.notes) == (True, "the run is finished", ())
    assert sorted(result.values) == sorted(world.recorded())
    effects = [key for key in result.values if key.startswith("rollouts/") or key.endswith("/seconds")]
    assert result.compared == result.steps - len(effects) - len(["run", "sandbox"])
    assert files(world.folder) == before
    with Ledger.read(world.folder) as was, Ledger.create(tmp_path / "again" / "fake-1") as now:
        for key, value in result.values.items():
            now.record(key, value)
        assert build(now) == build(was)


def test_an_unfinished_run_agrees_up_to_where_it_was_stopped_wherever_that_was(tmp_path: Path) -> None:
    whole = World(tmp_path / "whole")
    whole.record()
    for after in range(0, len(whole.recorded()) - 2, 5):
        world = World(tmp_path / f"stopped-{after}")
        world.record(after=after)
        result = replay(world.folder, world)
        assert result.agrees, result
        assert result.ends.startswith("the run was stopped here; next is ")


def test_a_run_that_waits_for_a_word_agrees_up_to_there(world: World) -> None:
    world.record(approve="harness")
    result = replay(world.folder, world)
    assert result.agrees, result
    assert "the run waits for your word" in result.ends


def test_another_decision_is_named_with_its_generation_and_the_record_is_gone_on_from(world: World) -> None:
    world.record()
    other = GOOD.model_copy(update={"reason": "another"})
    world.improver = ScriptedImprover([other, BAD], [BEST, WEIGHTS])
    result = replay(world.folder, world)
    (difference,) = [each for each in result.differences if "/decide" in each.key]
    assert (difference.key, difference.changes) == ("generation/0/decide", (("[0].reason", "scripted", "another"),))
    assert not result.agrees
    assert not result.unreached
    assert "  [0].reason: recorded 'scripted', now 'another'" in told(result)


def test_another_gate_is_named_at_every_verdict_and_what_was_promoted_stays_so(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    told_before = ScriptedImprover([GOOD, BAD], [BEST, WEIGHTS])
    world.improver = told_before
    world.record()
    world.improver = ScriptedImprover([GOOD, BAD], [BEST, WEIGHTS])
    monkeypatch.setattr("sia_core.run.gate.RUN_ERROR", 1e-20)
    result = replay(world.folder, world)
    gated = {each.key: {path: (was, now) for path, was, now in each.changes} for each in result.differences}
    assert gated["generation/0/gated/0"]["outcome"] == ("promoted", "rejected")
    assert "gate.level" in gated["generation/0/gated/0"]
    assert [each.trials for each in world.improver.seen] == [each.trials for each in told_before.seen]
    # All later steps are compared with the record's incumbent. A harder gate ends sweeps sooner, so it has seen less.
    assert {key for key in gated if "/gated/" not in key} == {"gate", "sealed/final", "robustness", "finished"}
    assert {path for path in gated["sealed/final"] if not path.startswith((".gate", "gate", ".gap", "gap"))} == set()
    assert all(key.startswith("rollouts/gate/") for key in result.unreached)


def test_a_step_that_the_run_never_did_ends_the_replay_and_what_was_not_come_to_is_named(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.record()
    monkeypatch.setattr("sia_core.run.levers.apply_edits", lambda tree, edits: harness(0.33))
    result = replay(world.folder, world)
    assert not result.agrees
    assert result.ends.startswith("here today's code would do rollouts/smoke/")
    assert result.ends.endswith("which the run never did")
    assert "generation/0/gated/0" in result.unreached
    assert [each.key for each in result.differences] == ["generation/0/diff/0"]


def test_a_run_that_today_would_end_earlier_does_not_agree(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.record()
    plain = Loop.generation
    monkeypatch.setattr(Loop, "generation", lambda self, index: "enough" if index else plain(self, index))
    result = replay(world.folder, world)
    assert "generation/1/decide" in result.unreached
    assert "closed" in [each.key for each in result.differences]
    assert not result.agrees


def test_an_improver_that_fails_today_is_a_difference(world: World) -> None:
    world.record()
    world.improver = ScriptedImprover(lambda evidence: 1 / 0)
    first = replay(world.folder, world).differences[0]
    assert first.key == "generation/0/decide"
    assert "ZeroDivisionError" in str(first.changes)


def test_another_version_and_other_data_are_allowed_and_said(world: World) -> None:
    world.record(version="0.0.1", fingerprint="another")
    result = replay(world.folder, world)
    assert result.agrees
    assert result.notes == (
        f"the run is of sia-core 0.0.1, and this is {__version__}",
        "data, brief or catalogue of task 'fake' are not those that the run started with",
    )


def test_records_on_which_todays_code_fails_end_the_replay_and_give_no_traceback(world: World) -> None:
    world.record(after=0)
    with Ledger.open(world.folder) as ledger:
        ledger.record("gate", {"n": 80})
        ledger.record("draft", 7)
    result = replay(world.folder, world)
    assert not result.agrees
    assert result.ends.startswith("today's code fails on these records: ")


def test_a_configuration_that_this_version_cannot_read_is_the_users_to_know(world: World) -> None:
    world.record(config={"task": {"name": "fake", "colour": "red"}}, version="9.9")
    with pytest.raises(LedgerError, match=r"cannot read the configuration of a run of sia-core 9\.9"):
        replay(world.folder, world)


def test_a_run_whose_improver_is_not_installed_asks_for_it(world: World) -> None:
    config = Config(OfferRef("fake"), Plan(), "missing")
    world.record(config=asdict(config))
    with pytest.raises(PluginError, match="no improver named 'missing'"):
        replay(world.folder, world)


def test_a_run_that_was_stopped_before_its_first_step_cannot_be_replayed(world: World) -> None:
    Ledger.create(world.folder).close()
    with pytest.raises(SiaError, match="was stopped before its first step"):
        replay(world.folder, world)


@pytest.mark.parametrize(
    ("recorded", "now", "expected"),
    [
        ({"a": [1, 2]}, {"a": [1, 2]}, []),
        ({"a": [1, 2]}, {"a": [1]}, [("a[1]", 2, "(absent)")]),
        ({"a": 1}, {"a": 1, "b": None}, [("b", "(absent)", None)]),
        (0.1 + 0.2, 0.3, []),
        (1.0, 1, []),
        (10**12, 10**12 + 1, [("", 10**12, 10**12 + 1)]),
        (True, 1, [("", True, 1)]),
        ("1", 1, [("", "1", 1)]),
        ([], {}, [("", [], {})]),
    ],
)
def test_differences_are_told_by_their_place_and_rounding_is_none(recorded: Any, now: Any, expected: Any) -> None:
    assert list(changes(recorded, now)) == expected


def test_a_stop_is_replayed(tmp_path: Path) -> None:
    world = World(tmp_path / "fake-1")
    world.improver = ScriptedImprover([GOOD], [Stop(reason="enough")])
    world.record()
    assert replay(world.folder, world).agrees


class Trains(World):
    """A run that trains a policy, in this process; its replay makes learners, and no engine."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.task, self.host = TableTask(), TableHost()
        self.offers += PLUGINS.offers
        short = Training(steps=4, prompts=8, group=8, durable=2, max_kl=50.0)
        update = UpdateWeights(algorithm="climb", training=short, reason="s", prediction=Prediction(gain=0.5))
        self.improver = ScriptedImprover([update], [update.model_copy(update={"algorithm": "nothing"})])

    def create(self, kind: str, name: str, /, **settings: Any) -> Any:
        return PLUGINS.create(kind, name, **settings) if kind == "algorithm" else super().create(kind, name, **settings)


def test_an_updated_policy_is_replayed_from_its_record_and_no_snapshot_is_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = Trains(tmp_path / "fake-1")
    backend = TableBackend(world.host)
    world.record(backend=backend, plan=Plan(levers=("weights",), generations=2), engine=OfferRef("table"))
    backend.close()
    with Ledger.read(world.folder) as ledger:
        (replaced,) = ledger.get("generation/0/train/0/00000") or ({},)
    (world.folder / "adapters" / replaced["adapter"]).mkdir()  # as if the run had been killed before it was dropped
    (world.folder / "adapters" / replaced["adapter"] / "weights").write_text("")
    before = files(world.folder)
    monkeypatch.setattr(TableHost, "solve", lambda *_: pytest.fail("work was run"))
    result = replay(world.folder, world)
    assert result.agrees, result
    assert "generation/0/train/0/estimate" in result.values
    assert files(world.folder) == before
    monkeypatch.setattr("sia_weights.exploration.Exploration.estimate", lambda *_: {"rollouts": 1.0, "tokens": 1.0})
    assert "generation/0/train/0/estimate" in [each.key for each in replay(world.folder, world).differences]
