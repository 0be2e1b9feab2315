"""Jobs on their way to a worker that sees none of this machine's files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from sia_core.errors import LedgerError, PluginError, UsageError
from sia_core.host import Host
from sia_core.parcels import Outcome, Parcel, Receiver, Sender, raised
from sia_core.plugins import Plugins
from sia_core.policy import ADAPTERS
from sia_core.served import ServedPolicy
from sia_core.testing.backends import ADAPTER, a_run, echo, job, read, train


class Worker:
    """A worker's end, and what it fetched."""

    def __init__(self, folder: Path, sender: Sender) -> None:
        folder.mkdir()
        self.receiver = Receiver(folder, Host(Plugins.discover(allow="")))
        self.sender = sender
        self.fetched: list[str] = []

    def fetch(self, digests: Sequence[str]) -> list[bytes]:
        self.fetched += digests
        return [self.sender.content(each) for each in digests]

    def run(self, parcel: Parcel) -> tuple[Outcome, dict[str, bytes]]:
        text = json.dumps(parcel.to_json())
        return self.receiver.run(Parcel(**json.loads(text)), self.fetch)


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    return Worker(tmp_path / "worker", Sender())


def a_job(tmp_path: Path) -> Any:
    setting, tree = a_run(tmp_path)
    return job(read, setting=setting, sweep={"harness": tree, "adapter": ADAPTER})


def test_a_content_is_fetched_once_however_often_and_under_however_many_names_it_is_needed(
    worker: Worker, tmp_path: Path
) -> None:
    parcel = worker.sender.pack(a_job(tmp_path))
    for _ in range(3):
        outcome, left = worker.run(parcel)
        assert outcome.error is None
        assert left == {}
    assert sorted(worker.fetched) == sorted(set(parcel.files.values()))


def test_a_job_without_a_run_needs_nothing(worker: Worker) -> None:
    parcel = worker.sender.pack(job(echo, value=1))
    assert not parcel.files
    assert worker.run(parcel)[0].result == 1


def test_a_content_that_arrives_damaged_is_not_used(worker: Worker, tmp_path: Path) -> None:
    parcel = worker.sender.pack(a_job(tmp_path))
    outcome, _ = worker.receiver.run(parcel, lambda digests: [b"something else"] * len(digests))
    assert outcome.error is not None
    assert "arrived damaged" in outcome.error[1]
    assert worker.run(parcel)[0].error is None


def test_a_file_that_is_changed_while_a_job_is_on_its_way_is_noticed(worker: Worker, tmp_path: Path) -> None:
    parcel = worker.sender.pack(a_job(tmp_path))
    (tmp_path / "cases.jsonl").write_text("other cases")
    (digest,) = (digest for place, digest in parcel.files.items() if place.endswith("cases.jsonl"))
    with pytest.raises(LedgerError, match=r"cases\.jsonl was changed"):
        worker.sender.content(digest)


def test_what_is_missing_of_a_run_is_named(worker: Worker, tmp_path: Path) -> None:
    setting, tree = a_run(tmp_path)
    with pytest.raises(LedgerError, match="no such adapter"):
        worker.sender.pack(job(read, setting=setting, sweep={"harness": tree, "adapter": "nothing"}))
    with pytest.raises(LedgerError, match="No such file"):
        worker.sender.pack(job(read, setting=setting, sweep={"harness": "ab" * 32, "adapter": ADAPTER}))


def test_an_adapter_comes_back_once_and_nothing_half_made_is_left(worker: Worker, tmp_path: Path) -> None:
    setting, _ = a_run(tmp_path)
    parcel = worker.sender.pack(job(train, setting=setting, adapter=ADAPTER))
    outcome, files = worker.run(parcel)
    for _ in range(2):  # the same result twice, as of a worker that was thought lost
        assert worker.sender.keep(parcel, outcome, files)["adapter"] == outcome.result["adapter"]
    run = tmp_path / "run"
    assert sorted(each.name for each in (run / ADAPTERS).iterdir()) == sorted([ADAPTER, outcome.result["adapter"]])
    assert not any((run / "unfinished").iterdir())


def test_a_policy_that_is_served_elsewhere_is_refused(worker: Worker, tmp_path: Path, monkeypatch: Any) -> None:
    setting, _ = a_run(tmp_path)
    monkeypatch.setattr(Host, "policy", lambda host, setting: ServedPolicy.__new__(ServedPolicy))
    told = {**setting, "engine": {"name": "served", "settings": {}}}
    outcome, _ = worker.run(worker.sender.pack(job(echo, setting=told, value=1)))
    error = raised("job", outcome)
    assert isinstance(error, UsageError)
    assert "--backend local" in str(error)


@pytest.mark.parametrize(("kind", "name"), [("backend", "ray"), ("backend", "modal"), ("engine", "tinker")])
def test_what_is_not_installed_is_told_with_the_command_that_installs_it(kind: str, name: str) -> None:
    with pytest.raises(PluginError, match=rf"pip install sia-{name}`"):
        Plugins.discover(allow="").find(kind, name)
