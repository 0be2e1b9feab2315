"""Trackers: what of a run they tell, in files that their own libraries read back."""

from __future__ import annotations

import json
import math
import os
import re
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sia_cli import main
from sia_core.errors import UsageError
from sia_core.hookspecs import Event
from sia_core.plugins import Plugins
from sia_trackers.figures import Figures
from sia_trackers.wandb import _refuse_a_folder_that_redirects

ROOT = Path(__file__).parents[3]
SUMS = ROOT / "examples" / "sums"
GATE = {"candidate": 0.5, "incumbent": 0.25, "delta": 0.25}

EVENTS = [
    Event("run.started", {"run": "r-1", "task": "t", "generations": 2, "budget": {}, "gate": 8, "sealed": 8}),
    Event("run.drafted", {"agent": "a", "gate": {"value": 0.25}}),
    Event("training.progress", {"key": "generation/0/train/0", "steps": [{"step": 0, "reward": 0.5, "kl": math.nan}]}),
    Event("candidate.gated", {"generation": 0, "accepted": False, "gate": None}),
    Event("candidate.gated", {"generation": 0, "accepted": True, "gate": GATE}),
    Event("seal.finished", {"which": "final", "agent": "b", "value": 0.75}),
    Event("run.finished", {"final": "b"}),
]
TOLD = [
    ("gate/incumbent", 0, 0.25),
    ("train/generation-0/reward", 0, 0.5),
    ("gate/candidate", 2, 0.5),
    ("gate/gain", 2, 0.25),
    ("gate/incumbent", 2, 0.5),
    ("sealed/final", 0, 0.75),
]
SERIES = list(dict.fromkeys(series for series, _, _ in TOLD))


def test_events_become_series_and_what_is_no_number_is_left_out() -> None:
    figures = Figures()
    assert [tuple(each) for event in EVENTS for each in figures.of(event)] == TOLD


def test_a_gain_is_one_also_where_the_metric_is_to_be_minimised() -> None:
    figures = Figures()
    started = Event("run.started", {"metric": {"name": "rmse", "direction": "minimize"}})
    gate = {"candidate": 1.5, "incumbent": 2.0, "delta": -0.5}
    rows = [
        each
        for event in (started, Event("candidate.gated", {"accepted": True, "gate": gate}))
        for each in figures.of(event)
    ]
    assert [tuple(each) for each in rows] == [
        ("gate/candidate", 1, 1.5),
        ("gate/gain", 1, 0.5),
        ("gate/incumbent", 1, 1.5),
    ]


def test_updates_are_named_by_the_numbers_that_people_see() -> None:
    event = Event("training.progress", {"key": "generation/2/train/1", "steps": [{"step": 4, "kl": 0.5}]})
    assert [each.series for each in Figures().of(event)] == ["train/generation-2-candidate-1/kl"]


def read(folder: Path) -> list[tuple[str, int, float]]:
    """The scalars that TensorBoard's own reader lists."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(folder))
    reader.Reload()
    return [(tag, each.step, each.value) for tag in reader.Tags()["scalars"] for each in reader.Scalars(tag)]


def test_tensorboard_reads_what_was_told_and_a_run_that_is_gone_on_with_is_told_anew(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    for _ in range(2):
        tracker = Plugins.discover().create("tracker", "tensorboard", where=str(tmp_path))
        for event in EVENTS:
            tracker(event)
        tracker.close()
        assert read(tmp_path / "r-1") == sorted(TOLD, key=lambda each: SERIES.index(each[0]))


@pytest.mark.real
def test_of_a_real_run_the_scores_that_its_report_has_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorboard")
    monkeypatch.chdir(tmp_path)
    command = ["run", "--harness", str(SUMS / "agent"), "--data", str(SUMS / "cases.jsonl"), "--json"]
    command += ["--generations", "1", "--name", "one"]
    assert main([*command, "--runs-dir", "here", "--track", "tensorboard:there"]) == 0
    report = json.loads(capsys.readouterr().out)
    figures = {(series, place): value for series, place, value in read(tmp_path / "there" / "one")}
    for which in ("initial", "final"):
        assert figures[f"sealed/{which}", 0] == pytest.approx(report["sealed"][which]["value"])
    assert figures["gate/incumbent", 0] == pytest.approx(report["sealed"]["initial"]["gate"]["value"])


def records(log: bytes) -> Iterator[bytes]:
    """The records of LevelDB's log format, all within one block of 32 KiB, behind seven bytes of W&B's own."""
    at = 7
    while at + 7 <= len(log):
        length, kind = struct.unpack_from("<HB", log, at + 4)
        assert kind == 1
        yield log[at + 7 : at + 7 + length]
        at += 7 + length


@pytest.mark.real
@pytest.mark.slow
def test_weights_and_biases_offline_keeps_the_figures_and_nothing_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    tracker = Plugins.discover().create("tracker", "wandb", where="mine")
    for event in EVENTS:
        tracker(event)
    tracker.close()
    wandb.teardown()  # its own process has written all
    (file,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    figures, about = [], []
    for data in records(file.read_bytes()):
        record = Record()
        record.ParseFromString(data)
        about += [record.run] if record.WhichOneof("record_type") == "run" else []
        if record.WhichOneof("record_type") == "history":
            row = {"/".join(each.nested_key) or each.key: json.loads(each.value_json) for each in record.history.item}
            figures += [(key, value) for key, value in row.items() if "/" in key]
    assert figures == [(series, value) for series, _, value in TOLD]
    assert [(each.host, each.display_name) for each in about] == [("-", "r-1")]
    assert [each.name for each in file.parent.glob("files/*") if each.name != "config.yaml"] == []


@pytest.mark.real
def test_trackio_keeps_the_figures_on_this_machine_and_prints_nothing_between_the_report(tmp_path: Path) -> None:
    """In its own process: the library reads where its database is when it is imported."""
    pytest.importorskip("trackio", reason="trackio is not installed")
    program = """
import json
from sia_core.plugins import Plugins
from test_trackers import EVENTS
from trackio.sqlite_storage import SQLiteStorage
for _ in range(2):
    tracker = Plugins.discover().create("tracker", "trackio", where="mine")
    for event in EVENTS:
        tracker(event)
    tracker.close()
runs = SQLiteStorage.get_run_records("mine")
logs = [SQLiteStorage.get_logs("mine", each["name"], run_id=each["id"]) for each in runs]
print(json.dumps([[each["name"] for each in runs], logs]))
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("TRACKIO_", "HF_"))}
    where = {"TRACKIO_DIR": str(tmp_path), "HF_HOME": str(tmp_path / "none"), "PYTHONPATH": str(Path(__file__).parent)}
    ran = subprocess.run(
        [sys.executable, "-c", program],
        env=environment | where,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    names, logs = json.loads(ran.stdout.splitlines()[0])
    assert names == ["r-1", "r-1"]
    for rows in logs:
        figures = [(series, row["step"], row[series]) for row in rows for series in row.keys() - {"step", "timestamp"}]
        assert figures == TOLD


@pytest.mark.parametrize("name", ["tensorboard", "trackio", "wandb"])
def test_without_its_library_the_command_that_installs_it_is_said(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for module in ("tensorboard", "tensorboard.compat.proto.event_pb2", "trackio", "wandb"):
        monkeypatch.setitem(sys.modules, module, None)
    command = ["run", "--harness", str(SUMS / "agent"), "--data", str(SUMS / "cases.jsonl"), "--track", name]
    assert main([*command, "--runs-dir", str(tmp_path / "runs")]) == 2
    assert f"pip install 'sia-trackers[{name}]'" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.real
@pytest.mark.slow
def test_weights_and_biases_without_a_key_is_refused_before_the_run_begins(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    others = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    command = [sys.executable, "-m", "sia_cli", "run", "--harness", str(SUMS / "agent")]
    command += ["--data", str(SUMS / "cases.jsonl"), "--track", "wandb", "--runs-dir", str(tmp_path / "runs")]
    environment = {**others, "NETRC": str(tmp_path / "none")}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert "WANDB_MODE=offline" in ran.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.real
@pytest.mark.filterwarnings("ignore")  # it uses what SQLAlchemy has deprecated
def test_the_tracker_of_the_page_works_and_mlflow_reads_it_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    page = (ROOT / "docs" / "tracking.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    space: dict[str, Any] = {"__name__": "sia_mlflow"}
    exec(code, space)
    tracker = space["MLflow"](where="mine")
    for event in EVENTS:
        tracker(event)
    tracker.close()
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("mine").experiment_id])
    assert (run.info.run_name, run.info.status, run.data.params) == ("r-1", "FINISHED", {"task": "t"})
    figures = [
        (series, each.step, each.value)
        for series in SERIES
        for each in client.get_metric_history(run.info.run_id, series)
    ]
    assert figures == sorted(TOLD, key=lambda each: SERIES.index(each[0]))


@pytest.mark.parametrize("folder", ["wandb", ".wandb"])
def test_a_file_of_the_working_folder_does_not_say_where_the_key_of_wandb_is_sent(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("WANDB_BASE_URL", "WANDB_DIR", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "settings").write_text("[default]\nbase_url = http://attacker\n")
    with pytest.raises(UsageError, match=rf"{folder}/settings names the server .* set WANDB_BASE_URL"):
        _refuse_a_folder_that_redirects()
    monkeypatch.setenv("WANDB_BASE_URL", "http://mine")
    _refuse_a_folder_that_redirects()
