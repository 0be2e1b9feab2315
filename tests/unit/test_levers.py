"""A stranger's lever is run, gated, reported and resumed as the core's own are: here, one that merges two adapters."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from plugin_sites import write_plugin
from table_policy import PLUGINS, TableBackend, TableEngine, TableHost, TableTask

from sia_core.decision import Prediction, PullLever, Training, UpdateWeights
from sia_core.errors import PluginError, SiaError, UsageError
from sia_core.evidence import Evidence
from sia_core.hookspecs import Offer
from sia_core.plugins import Plugins, Source
from sia_core.run.ledger import Ledger
from sia_core.run.loop import Loop
from sia_core.run.plan import Plan
from sia_core.run.record import RunRecord
from sia_core.run.start import levers_of
from sia_core.run.trees import ADAPTERS
from sia_core.types import OfferRef
from sia_reading.report import build
from sia_testing.fakes import ScriptedImprover, fake_parts

pytestmark = pytest.mark.thorough

PLUGIN = """
from sia_core.hookspecs import Offer, hookimpl

sia_api = 1


@hookimpl
def sia_levers():
    return [Offer("merge", "the mean of two adapters", "merging_parts:Merge")]
"""

PARTS = '''
from sia_runtime.worker.batch import policy_of
from sia_core.run.levers import Lever, Looked, NewAgent, PullPlan, PullResult
from sia_core.run.rollouts import Setting

JOBS = []


class Merge(Lever):
    """Its settings: ``{"with": AGENT}``."""

    exclusive = True

    def begin(self, run):
        super().begin(run)
        self.agents = {}

    def look(self, agent, allowance):
        self.agents[agent.id] = agent
        return Looked(agent)

    def describe(self, evidence):
        trained = [name for name, agent in evidence.agents.items() if agent.adapter]
        return evidence.with_lever("merge", "the mean of two adapters", {"trained": trained})

    def plan(self, decision, parent):
        other = self.agents.get(decision.settings.get("with"))
        if not (other and other.adapter and parent.adapter):
            return PullPlan(refused="merging takes two trained agents")
        return PullPlan(estimate={"seconds": 2.0}, table="both were trained")

    def apply(self, pull, allowance):
        payload = {"adapters": [pull.parent.adapter, self.agents[pull.decision.settings["with"]].adapter]}
        work = lambda: self.run.rollouts.job("merging_parts:merge", payload)
        adapter = self.run.ledger.step(f"{pull.key}/merge", work)
        return PullResult(NewAgent(pull.parent.files, adapter), took={"seconds": 1.0})


def merge(payload, host):
    JOBS.append(payload["adapters"])
    policy = policy_of(Setting.from_json(payload["setting"]), host)
    tables = []
    for adapter in payload["adapters"]:
        with policy.holding(adapter), policy.gateway.exclusive() as engine:
            tables.append(dict(engine.table))
    with policy.training(payload["adapters"][0]):
        with policy.gateway.exclusive() as engine:
            engine.table = {key: sum(each.get(key, 0.0) for each in tables) / 2 for key in tables[0].keys() | tables[1]}
        policy.stepped()
        return policy.keep()
'''

SHORT = Training(steps=2, prompts=8, group=8, durable=2, max_kl=50.0)


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plugins:
    """The installed plugins, the stranger's and the learners of the table."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(write_plugin(site, "merging", PLUGIN, PARTS)))
    plugins = Plugins.discover()
    plugins.offers += PLUGINS.offers
    importlib.import_module("merging_parts").JOBS.clear()
    return plugins


def jobs() -> list[list[str]]:
    """The pairs of adapters that were merged so far."""
    rows: list[list[str]] = importlib.import_module("merging_parts").JOBS
    return rows


def trained(scale: float) -> UpdateWeights:
    return UpdateWeights(
        algorithm="climb", config={"scale": scale}, training=SHORT, reason="r", prediction=Prediction(gain=0.1)
    )


def merged(evidence: Evidence, **settings: Any) -> PullLever:
    one, other = (name for name, agent in evidence.agents.items() if agent.adapter)
    return PullLever(
        lever="merge",
        name="mean",
        settings=settings or {"with": other},
        reason="each knows a half",
        prediction=Prediction(gain=0.1),
        parent=one,
    )


def run(
    folder: Path,
    plugins: Plugins,
    then: Callable[[TableHost, Evidence], list[PullLever]] = lambda host, evidence: [merged(evidence)],
    levers: tuple[str, ...] = ("weights", "merge"),
) -> tuple[dict[str, Any], ScriptedImprover, TableHost]:
    """Start a run in a folder, or resume it: two updates of the first agent, ``then`` other decisions."""
    host = TableHost(TableEngine(), TableTask(80))
    backend = TableBackend(host)
    engine = OfferRef("table", {"policy": "table", "seed": 0})
    config = {"plan": {"levers": levers, "seed": 0}, "budget": {}, "improver": "scripted", "engine": None}
    improver = ScriptedImprover([trained(10.0), trained(3.0)], lambda evidence: then(host, evidence))
    try:
        with Ledger.create(folder) as ledger:
            ledger.step("run", lambda: {"config": config, "task": "fake", "metric": {"name": "right"}})
            about: dict[str, Any] = {"levers": levers_of(levers, plugins), "plugins": plugins, "can": host._engine.can}
            task = host.task(OfferRef("fake"))
            parts = fake_parts(ledger, improver, task=task, backend=backend, engine=engine, **about)
            Loop(Plan(levers=levers), parts).improve()
            return build(ledger), improver, host
    finally:
        backend.close()


def test_a_strangers_lever_is_offered_described_run_gated_and_reported(tmp_path: Path, plugins: Plugins) -> None:
    report, improver, _ = run(tmp_path / "run", plugins)
    *updates, row = report["generations"]
    assert improver.seen[1].about["merge"].data == {"trained": [each["agent"] for each in updates]}
    assert (row["lever"], row["name"], row["algorithm"]) == ("merge", "mean", None)
    assert row["parent"] == updates[0]["agent"]
    assert row["gate"]["n"] > 0
    assert row["table"] == "both were trained"
    assert row["estimate"] == {"seconds": 2.0}
    assert row["took"] == {"seconds": 1.0}
    with Ledger.read(tmp_path / "run") as ledger:
        record = RunRecord(ledger)
        adapter, verdict = record.get("generation/1/pull/0/merge"), record.candidates()[-1]
    assert verdict["adapter"] == adapter
    tables = [table(tmp_path / "run", name) for name in (adapter, *jobs()[0])]
    assert tables[0] == {name: (tables[1].get(name, 0.0) + tables[2].get(name, 0.0)) / 2 for name in tables[0]}


def table(folder: Path, adapter: str) -> dict[str, float]:
    weights: dict[str, float] = json.loads((folder / ADAPTERS / adapter / "table.json").read_text())[0]
    return weights


def test_a_run_that_is_stopped_after_its_lever_was_applied_goes_on_without_applying_it_again(
    tmp_path: Path, plugins: Plugins
) -> None:
    def stopping(host: TableHost, evidence: Evidence) -> list[PullLever]:
        host.stop_at = "smoke"
        return [merged(evidence)]

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", plugins, stopping)
    assert len(jobs()) == 1
    report, _, _ = run(tmp_path / "run", plugins)
    assert len(jobs()) == 1
    whole, _, _ = run(tmp_path / "whole", plugins)
    assert [row["gate"] for row in report["generations"]] == [row["gate"] for row in whole["generations"]]
    assert report["agent"] == whole["agent"]


def test_a_decision_that_the_lever_refuses_costs_nothing_and_says_why(tmp_path: Path, plugins: Plugins) -> None:
    report, _, _ = run(tmp_path / "run", plugins, lambda host, evidence: [merged(evidence, nonsense=1)])
    row = report["generations"][-1]
    assert row["why"] == "merging takes two trained agents"
    assert row["took"] == {}
    assert not jobs()


def test_a_lever_that_the_run_does_not_pull_is_refused_by_its_name(tmp_path: Path, plugins: Plugins) -> None:
    report, _, _ = run(tmp_path / "run", plugins, levers=("weights",))
    assert report["generations"][-1]["why"] == "the merge lever is not among this run's levers"


def test_an_agent_that_was_tried_before_is_not_rolled_out_again(tmp_path: Path, plugins: Plugins) -> None:
    report, _, _ = run(tmp_path / "run", plugins, lambda host, evidence: [merged(evidence), merged(evidence)])
    first, second = report["generations"][-2:]
    assert first["gate"]
    assert second["why"] == f"the lever gives agent {first['agent']}, which was tried before"


def test_a_fault_of_a_lever_is_raised_under_its_name(
    tmp_path: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("merging_parts.merge")
    with pytest.raises(SiaError, match="the merge lever failed: AttributeError"):
        run(tmp_path / "run", plugins)


def test_an_unknown_lever_is_refused_with_those_that_are_offered(plugins: Plugins) -> None:
    with pytest.raises(UsageError, match="--levers: magic; the levers are harness, merge, weights"):
        levers_of(["magic"], plugins)


def test_an_offer_that_is_no_lever_is_named(plugins: Plugins) -> None:
    plugins.offers.append(("lever", Offer("dict", "s", "builtins:dict"), Source("odd", "odd", "1")))
    with pytest.raises(PluginError, match=r"lever 'dict' is a dict, and must be a sia_core\.run\.levers\.Lever"):
        levers_of(["dict"], plugins)
