"""The backend on a Ray cluster of several nodes on this machine; nodes are killed."""

from __future__ import annotations

import importlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import ray
from example_runs import EXAMPLE, command, comparable
from ray.cluster_utils import Cluster
from safetensors.torch import load_file

from sia_cli import main, parser_of
from sia_cli.configuration import config_of
from sia_core.decision import Training
from sia_core.hookspecs import Event
from sia_core.plugins import Plugins
from sia_core.run.ledger import Ledger
from sia_core.run.rollouts import Setting
from sia_core.run.start import start
from sia_core.run.trees import ADAPTERS, Trees
from sia_core.types import Backend, Job, OfferRef, ReportsProgress
from sia_ray.backend import RayBackend
from sia_ray.settings import HEALTH
from sia_reading.report import build
from sia_runtime.local import LocalBackend
from sia_testing.backends import BackendContract
from sia_weights.update import Update

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.filterwarnings("ignore::ResourceWarning")]

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A head without room for work, and two nodes with room for one worker each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_memory_monitor_refresh_ms", "0")  # else a full machine, of whatever, costs workers
        head = {"num_cpus": 0, "include_dashboard": False, "_system_config": HEALTH}
        # A thread, as an observer's is, may not set the handler of a signal, and what it starts would end with it.
        cluster = Cluster(initialize_head=True, head_node_args=head, shutdown_at_exit=False)
        for _ in range(2):
            cluster.add_node(num_cpus=1)
        ray.init(address=cluster.address, logging_level="warning", log_to_driver=False)
        yield cluster
        ray.shutdown()
        cluster.shutdown()


class TestRay(BackendContract):
    seconds = 300.0  # a worker's interpreter takes its time where others want the machine too

    @pytest.fixture
    def backend(self, cluster: Cluster) -> Iterator[RayBackend]:
        backend = RayBackend(Plugins.discover(), workers="2", cpus="0.5")
        yield backend
        backend.close()


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """``run(*options)`` is the report of a run of the example without what may differ."""

    def start(*options: str) -> dict[str, Any]:
        folder = Path(tempfile.mkdtemp(dir=tmp_path))
        capsys.readouterr()
        assert main([*command(EXAMPLE, folder), *options]) == 0, capsys.readouterr().err
        return comparable(json.loads(capsys.readouterr().out))

    return start


@pytest.mark.parametrize("workers", [2, 4])
def test_the_same_run_ends_with_the_same_report(cluster: Cluster, run: Callable[..., Any], workers: int) -> None:
    short = ["--generations", "3", "--budget", "rollouts=2500"]
    there = run(*short, "--backend", "ray", "--backend-set", f"workers={workers}", "--backend-set", "cpus=0.5")
    assert there == run(*short)


def test_lawbench_ends_with_the_same_report(cluster: Cluster, tmp_path: Path, capsys: Any) -> None:
    reports = []
    for backend in (["--backend", "ray", "--backend-set", "workers=2", "--backend-set", "cpus=0.5"], []):
        runs = ["--runs-dir", str(tmp_path / str(len(reports)))]
        options = ["run", "--plugin", "lawbench", "--generations", "1", "--candidates", "1", "--json", *runs]
        capsys.readouterr()
        assert main([*options, *backend]) == 0
        reports.append(comparable(json.loads(capsys.readouterr().out)))
    assert reports[0] == reports[1]


def test_arms_and_seeds_of_a_comparison_share_the_cluster_and_come_to_the_same(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--harness", str(EXAMPLE / "agent"), "--data", str(EXAMPLE / "cases.jsonl")]
    how = ["--arms", "none,harness", "--seeds", "1", "--budget", "rollouts=2000", "--jobs", "2", "--json"]
    there = ["--backend", "ray", *(f"--backend-set={each}" for each in ("workers=1", "cpus=0.5"))]
    tables = []
    for name, where in (("here", []), ("there", [*there, f"--backend-set=address={cluster.address}"])):
        assert main(["compare", str(tmp_path / name), *data, *how, *where]) == 0
        tables.append(json.loads(capsys.readouterr().out)["arms"])
    scores = [[(each["arm"], each["final"]) for each in arms] for arms in tables]
    assert scores[0] == scores[1]


def trained(backend: Backend, run: Path, engine: dict[str, Any]) -> Path:
    """The adapter that an update in two jobs ends with; the second goes on from the snapshot that the first left.

    Each step of it is reported.
    """
    words, plugins = ROOT / "examples" / "words", Plugins.discover()
    data = str(words / "cases.jsonl")
    task = OfferRef("cases", {"data": data, "harness": str(words / "agent"), "seed": 0})
    tree = Trees(run).put(plugins.create("task", task.name, **task.settings).seed_harness())
    update = Update("key", "agent", tree, None, OfferRef("grpo"), Training(steps=4, prompts=4, group=4, max_kl=50.0))
    offer = OfferRef("torch", {"seed": 0, **engine})
    setting = asdict(Setting(str(run), task, OfferRef("exact", {"data": data}), "namespaces", 0, offer))
    adapter = None
    reports: list[Mapping[str, Any]] = []
    assert isinstance(backend, ReportsProgress)
    try:
        for first in (0, 2):
            rest = {"adapter": adapter, "silent": 0, "tokens": None, "seconds": None}
            payload = {"update": update.to_json(), "setting": setting, **rest, "first": first, "last": first + 2}
            result = backend.submit_watched(Job("sia_weights.train_job:train", payload), reports.append).result(600)
            assert not result["stopped"]
            adapter = result["adapter"]
    finally:
        backend.close()
    assert [each["step"] for each in reports if "step" in each] == [0, 1, 2, 3]
    return run / ADAPTERS / str(adapter) / "adapter_model.safetensors"


def test_an_update_in_two_jobs_on_two_workers_ends_with_the_same_adapter(cluster: Cluster, tmp_path: Path) -> None:
    """The second job goes on on whichever worker it runs."""
    plugins, engine = Plugins.discover(), {"policy": "tiny"}
    here = trained(LocalBackend(plugins), tmp_path / "here", engine)
    there = trained(RayBackend(plugins, workers="2", cpus="0.5"), tmp_path / "there", engine)
    assert here.read_bytes() == there.read_bytes()


def test_a_worker_that_trains_on_two_processes_ends_with_the_adapter_of_one(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "plugins" / "torch" / "tests"))
    importlib.import_module("toy_policies").write_model("gpt_oss", tmp_path / "model")
    plugins, engine = Plugins.discover(), {"policy": f"hf:{tmp_path / 'model'}", "dtype": "float32", "rank": 4}
    here = trained(LocalBackend(plugins), tmp_path / "here", engine)
    shared = {**engine, "processes": 2, "shard": True}
    there = trained(RayBackend(plugins, workers="2", cpus="0.5"), tmp_path / "there", shared)
    one, two = load_file(here), load_file(there)
    assert one.keys() == two.keys()
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-5


def test_five_nodes_are_killed_in_a_run_and_its_report_is_the_same(
    cluster: Cluster, run: Callable[..., Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    killed: list[str] = []

    def kill(event: Event) -> None:
        """End a node with its worker in the middle of a sweep, and give the cluster another."""
        if event.kind != "rollouts.progress" or len(killed) == 5 or event.data["done"] < 64:
            return
        victim = cluster.list_all_nodes()[-1]
        assert victim.node_id != cluster.head_node.node_id
        cluster.remove_node(victim, allow_graceful=False)
        killed.append(victim.node_id)
        cluster.add_node(num_cpus=1)

    config = config_of(parser_of(["run"]).parse_args([*command(EXAMPLE, tmp_path), "--backend", "ray"]))
    folder = start(config, tmp_path / "runs", Plugins.discover(), [kill])
    with Ledger.read(folder) as ledger:
        report = build(ledger)
        batches = [value["rollouts"] for _, value, _ in ledger.events("rollouts/")]
    assert len(set(killed)) == 5
    assert len([each for each in caplog.messages if "a worker was lost" in each]) >= 3
    assert comparable(report) == run()
    assert all(len({each["instance"] for each in batch}) == len(batch) for batch in batches)
