"""Jobs on their way to a worker that sees none of this machine's files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from sia_core.errors import LedgerError, PluginError, SiaError, UsageError
from sia_core.evidence import Rollout
from sia_core.plugins import Plugins
from sia_core.run.trees import ADAPTERS
from sia_llm.hosted_policy import HostedPolicy
from sia_runtime.job_checks import BATCH, VERIFY
from sia_runtime.jobs import JobResult, Parcel, Receiver, Sender, raised
from sia_runtime.worker.host import Host
from sia_testing.backends import ADAPTER, TRAINED, a_run, echo, job, read, train

ROW = Rollout("i", "ok", 1.0).to_json()


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

    def run(self, parcel: Parcel) -> tuple[JobResult, dict[str, bytes]]:
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
        outcome, files = worker.run(parcel)
        assert outcome.error is None
        assert files == {}
    assert sorted(worker.fetched) == sorted(set(parcel.files.values()))


def test_a_job_without_a_run_needs_nothing(worker: Worker) -> None:
    parcel = worker.sender.pack(job(echo, value=1))
    assert not parcel.files
    assert worker.run(parcel)[0].result == 1


def test_the_secret_of_a_run_travels_with_the_job_and_into_no_file_of_the_workers(
    worker: Worker, tmp_path: Path
) -> None:
    parcel = worker.sender.pack(a_job(tmp_path))
    secret = parcel.payload["setting"]["secret"]
    assert worker.run(parcel)[0].error is None
    assert secret not in json.dumps([parcel.files, parcel.paths])
    paths = [path for path in (tmp_path / "worker").rglob("*") if path.is_file()]
    assert paths
    assert not [path for path in paths if secret.encode() in path.read_bytes()]


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
        worker.sender.pack(job(read, setting=setting, sweep={"harness": tree, "adapter": "cd" * 32}))
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


HOSTILE = {
    "a folder above": f"run/adapters/{TRAINED}/../../../../outside",
    "a whole path": "/outside",
    "another adapter": f"run/adapters/{ADAPTER}/weights",
    "a path that begins alike": f"run/adapters/{TRAINED}-outside",
    "the ledger": "run/ledger.sqlite",
    "no file": f"run/adapters/{TRAINED}/",
}


@pytest.mark.parametrize("place", HOSTILE.values(), ids=list(HOSTILE))
def test_what_a_worker_leaves_anywhere_but_in_its_adapter_is_refused_and_nothing_is_written(
    place: str, worker: Worker, tmp_path: Path
) -> None:
    setting, _ = a_run(tmp_path)
    parcel = worker.sender.pack(job(train, setting=setting, adapter=ADAPTER))
    before = sorted(tmp_path.rglob("*"))
    digest = hashlib.sha256(b"planted").hexdigest()
    outcome = JobResult({"adapter": TRAINED}, files={f"run/adapters/{TRAINED}/weights": digest, place: digest})
    with pytest.raises(SiaError, match="nothing was written"):
        worker.sender.keep(parcel, outcome, {digest: b"planted"})
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["../..", "", ".", "/etc", TRAINED.upper(), TRAINED + "\n", 7, ["x"], "adapter"])
def test_an_adapter_whose_name_is_no_digest_is_refused_with_files_and_without(
    name: Any, worker: Worker, tmp_path: Path
) -> None:
    setting, _ = a_run(tmp_path)
    parcel = worker.sender.pack(job(train, setting=setting, adapter=ADAPTER))
    digest = hashlib.sha256(b"").hexdigest()
    for files in ({}, {f"run/adapters/{name}/weights": digest}):
        with pytest.raises(SiaError, match="is no digest"):
            worker.sender.keep(parcel, JobResult({"adapter": name}, files=files), {digest: b""})


@pytest.mark.parametrize("result", [None, {}, {"adapter": None}, [1]], ids=str)
def test_files_of_a_worker_that_names_no_adapter_are_not_kept(result: Any, worker: Worker, tmp_path: Path) -> None:
    setting, _ = a_run(tmp_path)
    parcel = worker.sender.pack(job(train, setting=setting, adapter=ADAPTER))
    digest = hashlib.sha256(b"").hexdigest()
    with pytest.raises(SiaError, match="is no digest"):
        worker.sender.keep(parcel, JobResult(result, files={"run/adapters/None/weights": digest}), {digest: b""})
    assert not (tmp_path / "run" / ADAPTERS / "None").exists()


@pytest.mark.parametrize("contents", [{}, {"ab" * 32: b"other"}, {"ab" * 32: "text"}], ids=["none", "other", "text"])
def test_a_content_that_is_not_what_its_digest_says_is_not_kept(contents: Any, worker: Worker, tmp_path: Path) -> None:
    setting, _ = a_run(tmp_path)
    parcel = worker.sender.pack(job(train, setting=setting, adapter=ADAPTER))
    outcome = JobResult({"adapter": TRAINED}, files={f"run/adapters/{TRAINED}/weights": "ab" * 32})
    with pytest.raises(SiaError, match="arrived damaged"):
        worker.sender.keep(parcel, outcome, contents)
    assert not (tmp_path / "run" / ADAPTERS / TRAINED).exists()


@pytest.mark.parametrize(
    "text",
    [
        *("", "null", "[]", "{", '{"result": NaN}', '{"error": "x"}', '{"error": ["a"]}', '{"files": []}'),
        *('{"files": {"a": 1}}', '{"trace": []}', '{"error": [["a"], "b"]}', "[" * 10**5),
    ],
)
def test_a_reply_that_is_none_is_told_and_not_a_traceback(text: str) -> None:
    with pytest.raises(SiaError, match="has not the form"):
        JobResult.read(text)


@pytest.mark.parametrize(
    "spoilt",
    [
        {"rollouts": [{**ROW, "outcome": ["ok"]}]},
        {"rollouts": [{**ROW, "reward": 1e300}]},
        {"rollouts": [ROW, ROW]},
        {"rollouts": [{**ROW, "instance": "another"}]},
        {"rollouts": None},
        {"given_up": 1},
        {"short": -1},
        {"cut": "x"},
        {"cut": True},
        {"peak": 10**400},
        {"replies": 10**4299},
        {"rollouts": [{**ROW, "tokens": 10**308}]},
        {"rollouts": [{**ROW, "answer": '{"a": 1, "a": 2}'}]},
    ],
    ids=str,
)
def test_a_batch_of_a_worker_that_no_later_step_could_read_is_refused_before_it_is_recorded(
    worker: Worker, spoilt: dict[str, Any]
) -> None:
    batch = {"rollouts": [ROW], "given_up": "", "peak": 0, "short": 0}
    parcel = Parcel(BATCH, {"sweep": {"instances": ["i"], "group": 1}})
    assert worker.sender.keep(parcel, JobResult(batch), {}) == batch
    for result in ({**batch, **spoilt}, [batch], None):
        with pytest.raises(SiaError, match="a worker's reply is no batch of rollouts"):
            worker.sender.keep(parcel, JobResult(result), {})


@pytest.mark.parametrize(
    "result",
    [
        *(5, None, [], {}, [5, 5], [[1.0, True]], [["1", True]] * 2, [[1.7e308, True]] * 2, [[1.0, True, 7]] * 2),
        *([[1.0, True, "", 5]] * 2, [[1.0, True, "", {"a": 1e300}]] * 2, [[1.0, True, "", {}, 1]] * 2),
    ],
    ids=str,
)
def test_scores_of_an_answer_that_no_verifier_gives_are_refused_before_they_are_recorded(
    worker: Worker, result: Any
) -> None:
    parcel = Parcel(VERIFY, {"instances": ["i", "j"]})
    scores = [[1.0, True, "well", {"a": 0.5}], [0.0, False]]
    assert worker.sender.keep(parcel, JobResult(scores), {}) == scores
    with pytest.raises(SiaError, match=r"^a worker's reply is false: .*; nothing was recorded$"):
        worker.sender.keep(parcel, JobResult(result), {})


@pytest.mark.parametrize("name", [TRAINED, "cc" * 32, None])
def test_an_adapter_without_its_files_is_the_one_that_the_job_was_sent_or_refused(
    name: Any, worker: Worker, tmp_path: Path
) -> None:
    """Another agent's lies in the run's folder, and one that is not there would end the run at each resume."""
    setting, _ = a_run(tmp_path)
    (tmp_path / "run" / ADAPTERS / TRAINED).mkdir()
    parcel = worker.sender.pack(job(train, setting=setting, adapter=ADAPTER))
    same = {"adapter": ADAPTER, "steps": []}
    assert worker.sender.keep(parcel, JobResult(same), {}) == same
    with pytest.raises(SiaError, match=r"nothing was recorded|is no digest"):
        worker.sender.keep(parcel, JobResult({**same, "adapter": name}), {})


def test_another_adapter_of_a_name_that_is_taken_is_refused(worker: Worker, tmp_path: Path) -> None:
    setting, _ = a_run(tmp_path)
    parcel = worker.sender.pack(job(train, setting=setting, adapter=ADAPTER))
    kept = tmp_path / "run" / ADAPTERS / TRAINED / "weights"
    kept.parent.mkdir()
    kept.write_bytes(b"another agent's")
    digest = hashlib.sha256(b"planted").hexdigest()
    outcome = JobResult({"adapter": TRAINED}, files={f"run/adapters/{TRAINED}/weights": digest})
    with pytest.raises(SiaError, match="holds other files than it sent; nothing was recorded"):
        worker.sender.keep(parcel, outcome, {digest: b"planted"})
    assert kept.read_bytes() == b"another agent's"


def test_files_without_their_contents_are_not_kept(worker: Worker, tmp_path: Path) -> None:
    parcel = Parcel("any:job", {"setting": {"run": str(tmp_path)}})
    outcome = JobResult({"adapter": "ab" * 32}, files={f"run/{ADAPTERS}/{'ab' * 32}/x": "cd" * 32})
    wrong: list[Any] = [[], None, {}, {"cd" * 32: "text"}]
    for contents in wrong:
        with pytest.raises(SiaError, match=r"no contents|arrived damaged"):
            worker.sender.keep(parcel, outcome, contents)


def test_a_reply_arrives_as_it_was_sent() -> None:
    for outcome in (
        JobResult({"a": [1, None]}),
        JobResult(error=("SiaError", "x"), trace="t"),
        JobResult(files={"a": "b"}),
    ):
        assert JobResult.read(outcome.text()) == outcome


def test_a_folder_with_a_link_is_not_sent_to_a_worker(worker: Worker, tmp_path: Path) -> None:
    setting, _ = a_run(tmp_path)
    folder = tmp_path / "task"
    folder.mkdir()
    (folder / "notes").symlink_to("/etc/hostname")
    setting["task"]["settings"]["data"] = str(folder)
    with pytest.raises(UsageError, match="task/notes is no plain file"):
        worker.sender.pack(job(echo, setting=setting, value=1))


def test_a_key_beside_an_agent_is_sent_to_no_worker(worker: Worker, tmp_path: Path) -> None:
    setting, _ = a_run(tmp_path)
    agent = tmp_path / "agent"
    (agent / ".git").mkdir(parents=True)
    for name in ("harness.py", "playbook.toml", ".env", ".git/config", ".siaignore"):
        (agent / name).write_text("x")
    setting["task"]["settings"]["harness"] = str(agent)
    files = worker.sender.pack(job(echo, setting=setting, value=1)).files
    sent = {place.partition("/agent/")[2] for place in files if "/agent/" in place}
    assert sent == {"harness.py", "playbook.toml", ".siaignore"}


def test_a_policy_that_is_served_elsewhere_is_refused(worker: Worker, tmp_path: Path, monkeypatch: Any) -> None:
    setting, _ = a_run(tmp_path)
    monkeypatch.setattr(Host, "policy", lambda host, setting: HostedPolicy.__new__(HostedPolicy))
    served = {**setting, "engine": {"name": "served", "settings": {}}}
    outcome, _ = worker.run(worker.sender.pack(job(echo, setting=served, value=1)))
    error = raised("job", outcome)
    assert isinstance(error, UsageError)
    assert "--backend local" in str(error)


@pytest.mark.parametrize(("kind", "name"), [("backend", "ray"), ("backend", "modal"), ("engine", "tinker")])
def test_what_is_not_installed_is_told_with_the_command_that_installs_it(kind: str, name: str) -> None:
    with pytest.raises(PluginError, match=rf"pip install sia-{name}`"):
        Plugins.discover(allow="").find(kind, name)
