"""Runs that cannot work are refused before they have a folder, and a run goes on only as it began."""

from __future__ import annotations

import json
import os
import re
import shlex
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from sia_cli.configuration import config_from
from sia_core import __version__
from sia_core.decision import Stop
from sia_core.errors import LedgerError, PluginError, SandboxError, SiaError, UsageError
from sia_core.harness import HarnessTree
from sia_core.hookspecs import Offer
from sia_core.playbook import Playbook
from sia_core.plugins import Plugins, Source
from sia_core.run.ledger import Ledger
from sia_core.run.levers import HarnessLever
from sia_core.run.plan import Plan
from sia_core.run.run_folders import find_run, runs_in
from sia_core.run.secret import read_secret
from sia_core.run.start import Config, fingerprint, resume, start
from sia_core.run.task_checks import check_task
from sia_core.types import Instance, Metric, OfferRef, Split, Task
from sia_runtime.jobs import function_of
from sia_runtime.sandbox.contract import GUARANTEES
from sia_runtime.worker.host import Host
from sia_testing.fakes import FakeTask, InstantBackend, ScriptedImprover
from sia_weights.lever import WeightLever

HOST_LACKS = {"total_memory": "no cgroup"}


class Apart(FakeTask):
    """The fake task with another input for each instance of each split, or with instances that the test gives."""

    def __init__(self, size: int = 40, playbook: Playbook | None = None, seed: int = 0, **given: Any) -> None:
        super().__init__(size, playbook, seed)
        self._given = given

    def instances(self, split: Split) -> Sequence[Instance]:
        if split in self._given:
            return list(self._given[split])
        return [Instance(f"{split}-{n}", split, {"number": f"{split} {n}"}) for n in range(self._size)]


class FakeSandbox:
    """A sandbox whose probe says what the test wants."""

    guarantees = frozenset(GUARANTEES)

    def __init__(self, name: str, **lacks: str) -> None:
        self.name, self.lacks = name, lacks

    def probe(self) -> dict[str, str]:
        return self.lacks

    def start(self, spec: Any) -> Any:
        raise AssertionError("nothing is to be run")


class FakeVerifier:
    """Stands in for the verifier's process."""

    log: list[str]
    fault: SiaError | None = None

    def __init__(self, task: OfferRef, verifier: OfferRef, sandbox: str, *, sealed: bool, secret: str) -> None:
        self._about = f"{verifier.name} in {sandbox}"

    def check(self) -> None:
        self.log.append(f"start {self._about}")
        if self.fault:
            raise self.fault

    def close(self) -> None:
        self.log.append("close")


class Instant(InstantBackend):
    """Runs what is no rollout as its function says."""

    def __init__(self, plugins: Plugins) -> None:
        super().__init__()
        self._host = Host(plugins)

    def submit(self, job: Any) -> Any:
        if "sweep" in job.payload:
            return super().submit(job)
        future: Future[Any] = Future()
        try:
            future.set_result(function_of(job.function)(job.payload, self._host))
        except SiaError as error:
            future.set_exception(error)
        return future

    def close(self) -> None:
        self._host.stop()


class World(Plugins):
    """The plugins of a test, made by what stands in ``parts``, and its runs folder."""

    def __init__(self, runs: Path) -> None:
        super().__init__()
        self.runs = runs
        self.task: Any = Apart()
        self.parts: dict[tuple[str, str], Callable[..., Any]] = {
            ("task", "fake"): lambda **_: self.task,
            ("improver", "scripted"): lambda: ScriptedImprover([Stop(reason="enough")]),
            ("backend", "instant"): Instant,
            ("verifier", "exact"): dict,
            ("lever", "harness"): HarnessLever,
            ("lever", "weights"): WeightLever,
            ("sandbox", "strong"): lambda: FakeSandbox("strong", **HOST_LACKS),
        }

    def create(self, kind: str, name: str, /, **settings: Any) -> Any:
        self._list()
        self.find(kind, name)
        return self.parts[kind, name](**settings)

    def find(self, kind: str, name: str) -> Any:
        self._list()
        return super().find(kind, name)

    def of_kind(self, kind: str) -> list[Offer]:
        self._list()
        return super().of_kind(kind)

    def _list(self) -> None:
        source = Source("test", "test", "0")
        self.offers = [(kind, Offer(name, "s", "builtins:dict"), source) for kind, name in self.parts]

    def config(self, **more: Any) -> Config:
        plan = Plan(**more.pop("plan", {"generations": 2}))
        return Config(OfferRef("fake"), plan, "scripted", backend="instant", **more)

    def run(self, **more: Any) -> Path:
        return start(self.config(**more), self.runs, self, [])

    def stopped(self, **more: Any) -> Path:
        """A run that was stopped after its first steps."""
        self.parts["backend", "instant"] = Killed
        with pytest.raises(KeyboardInterrupt):
            self.run(**more)
        self.parts["backend", "instant"] = Instant
        return runs_in(self.runs)[-1]


class Killed(Instant):
    """The run is stopped when it first wants something rolled out."""

    def submit(self, job: Any) -> Any:
        if "sweep" in job.payload:
            raise KeyboardInterrupt
        return super().submit(job)


@pytest.fixture
def verifier(monkeypatch: pytest.MonkeyPatch) -> type[FakeVerifier]:
    fresh = type("FreshVerifier", (FakeVerifier,), {"log": []})
    monkeypatch.setattr("sia_runtime.worker.host.VerifierProcess", fresh)
    return fresh


@pytest.fixture
def world(tmp_path: Path, own_cache: None, verifier: type[FakeVerifier]) -> World:
    return World(tmp_path / "runs")


def refused(world: World, says: str, error: type[SiaError] = UsageError, **more: Any) -> None:
    with pytest.raises(error) as raised:
        world.run(**more)
    assert says in str(raised.value)
    assert not world.runs.exists()


# A start that works


def test_a_run_records_how_it_was_started_and_ends_with_a_report(world: World, verifier: type[FakeVerifier]) -> None:
    folder = world.run(verifier="exact")
    assert re.fullmatch(r"fake-\d{4}-\d\d-\d\d", folder.name)
    with Ledger.read(folder) as ledger:
        (recorded,), (sandbox,) = ledger.get("run") or (), ledger.get("sandbox") or ()
        assert ledger.get("finished")
    assert Config.from_json(recorded["config"]) == world.config(verifier="exact")
    assert (recorded["version"], recorded["fingerprint"]) == (__version__, fingerprint(world.task))
    assert sandbox == {"name": "strong", "lacks": ["total_memory"]}
    assert verifier.log == ["start exact in strong", "close"]
    before = (folder / "ledger.db").read_bytes()
    resume(folder, world, [])  # a finished one is left as it is
    assert (folder / "ledger.db").read_bytes() == before
    assert world.run() == world.runs / f"{folder.name}-2"


def test_a_stopped_run_goes_on(world: World) -> None:
    folder = world.stopped()
    resume(folder, world, [])
    with Ledger.read(folder) as ledger:
        assert ledger.get("finished")


class Listening(Instant):
    """Knows the secrets of its jobs' settings."""

    def __init__(self, plugins: Plugins) -> None:
        super().__init__(plugins)
        self.secrets: set[str] = set()

    def submit(self, job: Any) -> Any:
        if setting := job.payload.get("setting"):
            self.secrets.add(setting["secret"])
        return super().submit(job)


def test_a_run_has_a_secret_that_its_verifiers_jobs_get_and_nothing_else_in_its_folder_holds(world: World) -> None:
    heard = Listening(world)
    world.parts["backend", "instant"] = lambda plugins: heard
    folder = world.run()
    secret = read_secret(folder / "secret")
    assert heard.secrets == {secret}
    holding = [path.name for path in folder.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]
    assert holding == ["secret"]
    assert read_secret(world.run() / "secret") != secret


def test_a_run_that_goes_on_draws_by_the_secret_that_it_began_with(world: World) -> None:
    folder, heard = world.stopped(), Listening(world)
    secret = (folder / "secret").read_text()
    world.parts["backend", "instant"] = lambda plugins: heard
    (folder / "secret").unlink()
    with pytest.raises(LedgerError, match="secret: No such file or directory"):
        resume(folder, world, [])
    (folder / "secret").write_text(secret)
    resume(folder, world, [])
    assert heard.secrets == {secret.strip()}


def test_a_run_that_is_given_a_secret_has_that_one(world: World) -> None:
    folder = start(world.config(), world.runs, world, [], secret="5e" * 32)
    assert read_secret(folder / "secret") == "5e" * 32


# Refused tasks


@pytest.mark.parametrize("name", sorted(Task.__annotations__))
def test_a_task_without_a_required_attribute_is_refused_and_the_attribute_named(world: World, name: str) -> None:
    class Lacking:
        def __init__(self, whole: Task) -> None:
            self._whole = whole

        def __getattr__(self, attribute: str) -> Any:
            if attribute == name:
                raise AttributeError(attribute)
            return getattr(self._whole, attribute)

    world.task = Lacking(Apart())
    refused(world, f"Lacking lacks {name} (see sia_core.types.Task)", PluginError)


def test_a_task_to_discover_without_what_it_takes_is_refused(world: World) -> None:
    class Discover(FakeTask):
        kind = "discover"

    world.parts["task", "fake"] = Discover
    refused(world, "Discover is of kind 'discover', which takes `evaluations`, at least 1", PluginError)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"metric": Metric("loss", "minimize")}, "minimize within (0.0, 1.0), a failure would earn the best there is"),
        ({"failure_reward": 1.0}, "to maximize within (0.0, 1.0), a failure would earn the best there is"),
        ({"metric": Metric("m", bounds=(0.5, 1.0))}, "failure reward 0.0 must be a number from 0.5 to 1"),
        ({"failure_reward": 2.0}, "failure reward 2.0 must be a number from 0 to 1"),
        ({"metric": Metric("m", bounds=None), "failure_reward": -1e300}, "must be a number from -1e+100 to 1e+100"),
        ({"failure_reward": float("nan")}, "failure reward nan must be a number from 0 to 1"),
        ({"metric": Metric("m", bounds=None), "failure_reward": float("nan")}, "failure reward nan must be a number"),
    ],
    ids=str,
)
def test_a_task_that_this_version_cannot_run_is_refused(world: World, change: dict[str, Any], says: str) -> None:
    for name, value in change.items():
        setattr(world.task, name, value)
    refused(world, says)


def test_a_metric_without_bounds_is_no_fault() -> None:
    task = Apart()
    task.metric, task.failure_reward = Metric("m", bounds=None), -1e9
    check_task(task, Plan())


@pytest.mark.parametrize("split", ["search", "gate", "sealed"])
def test_an_empty_split_is_refused(world: World, split: str) -> None:
    world.task = Apart(**{split: []})
    refused(world, f"task 'fake' has no instance in its '{split}' split")


@pytest.mark.parametrize(
    ("split", "other"),
    [
        ("gate", Instance("search-3", "gate", {"new": 1})),
        ("gate", Instance("new", "gate", {"number": "search 3"})),
        ("sealed", Instance("gate-3", "sealed", {"new": 1})),
        ("sealed", Instance("new", "sealed", {"number": "search 3"})),
    ],
)
def test_one_shared_instance_is_named_with_both_of_its_splits(world: World, split: Any, other: Instance) -> None:
    check_task(Apart(), Plan())
    world.task = Apart(**{split: [*Apart().instances(split), other]})
    first = other.id.partition("-")[0] if "-" in other.id else "search"
    refused(world, f"instance {other.id} is in '{first}' and, by id or by input, in '{split}' too")


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"other.py": b""}, "the entry point 'harness.py' is not in the harness"),
        ({"harness.py": b"", "harness.toml": b"entry = ["}, "harness.toml: "),
    ],
)
def test_a_seed_harness_that_is_none_is_refused(world: World, files: dict[str, bytes], says: str) -> None:
    world.task.seed_harness = lambda: HarnessTree(files)
    refused(world, "the harness that task 'fake' starts from: ")
    refused(world, says)


def test_too_few_gate_instances_to_ever_promote_are_refused_with_the_number_that_is_needed() -> None:
    plan = Plan(generations=8, candidates=2)

    def task(gate: int) -> Apart:
        return Apart(gate=[Instance(f"g{n}", "gate", {"g": n}) for n in range(gate)])

    with pytest.raises(UsageError, match="has 2 instances on the gate, too few to show any gain") as raised:
        check_task(task(2), plan)
    least = int(str(raised.value).partition("at least ")[2].split()[0])
    check_task(task(least), plan)
    with pytest.raises(UsageError, match=f"at least {least} are needed"):
        check_task(task(least - 1), plan)
    check_task(task(2), replace(plan, generations=0))  # a run that measures only needs no gate


# Refused settings


@pytest.mark.parametrize("kind", ["rollouts", "verifications"])
def test_a_budget_that_cannot_pay_for_the_first_agent_and_the_report_is_refused(world: World, kind: str) -> None:
    once = 2 + 40 + 40
    refused(world, f"--budget {kind}={once + 79} is too small", budget={kind: float(once + 79)})
    assert world.run(budget={kind: float(once + 80)}).is_dir()


@pytest.mark.parametrize(
    ("more", "error", "says"),
    [
        ({"plan": {"levers": ("magic",)}}, UsageError, "--levers: magic; the levers are harness, weights"),
        ({"plan": {"levers": ()}}, UsageError, "--levers: none"),
        ({"plan": {"levers": ("weights",)}}, UsageError, "the weights lever needs a policy to train; name one"),
        ({"verifier": "exakt"}, PluginError, "no verifier named 'exakt' (did you mean 'exact'?)."),
        ({"verifier": "exakt:0.1"}, PluginError, "no verifier named 'exakt'"),
        ({"sandbox": "weak"}, PluginError, "no sandbox named 'weak'"),
    ],
)
def test_settings_that_cannot_work_are_refused(
    world: World, more: dict[str, Any], error: type[SiaError], says: str
) -> None:
    refused(world, says, error, **more)


@pytest.mark.parametrize("kind", ["improver", "backend", "task"])
def test_a_name_that_nothing_offers_is_refused(world: World, kind: str) -> None:
    config = replace(world.config(), **{kind: OfferRef("nobody") if kind == "task" else "nobody"})
    with pytest.raises(PluginError, match=f"no {kind} named 'nobody'"):
        start(config, world.runs, world, [])
    assert not world.runs.exists()


def test_a_verifier_that_does_not_start_is_an_error_before_there_is_a_folder(
    world: World, verifier: type[FakeVerifier]
) -> None:
    verifier.fault = UsageError("--verifier numeric:x: the tolerance must be a number")
    refused(world, "the tolerance must be a number")
    assert verifier.log == ["start exact in strong", "close"]


def test_a_backend_that_is_refused_by_its_service_leaves_no_folder(world: World) -> None:
    def refusing(plugins: Plugins) -> Any:
        raise UsageError("no token")

    world.parts["backend", "instant"] = refusing
    refused(world, "no token")


# Sandboxes


def test_a_broken_sandbox_that_nobody_asked_for_is_skipped_and_one_that_was_asked_for_is_an_error(world: World) -> None:
    def broken() -> Any:
        raise PluginError("sandbox 'broken' cannot be loaded")

    world.parts = {("sandbox", "broken"): broken, **world.parts}
    with Ledger.read(world.run()) as ledger:
        assert ledger.get("sandbox") == ({"name": "strong", "lacks": ["total_memory"]},)
    with pytest.raises(PluginError, match="'broken' cannot be loaded"):
        world.run(sandbox="broken")
    assert len(runs_in(world.runs)) == 1


def test_without_a_sandbox_that_holds_what_is_required_nothing_starts_unless_that_is_allowed(world: World) -> None:
    world.parts["sandbox", "strong"] = lambda: FakeSandbox("strong", net="no network namespaces here")
    refused(world, "strong: net: no network namespaces here", SandboxError)
    assert world.run(allow_weak_sandbox=True).is_dir()


@pytest.mark.parametrize(
    ("lacks", "weaker"),
    [
        ({}, []),
        (HOST_LACKS, []),
        ({**HOST_LACKS, "total_disk": "no quota"}, ["total_disk: no quota"]),
        ({"net": "no namespaces", "files": "no Landlock"}, ["files: no Landlock; net: no namespaces"]),
    ],
)
def test_a_run_goes_on_only_in_a_sandbox_that_guarantees_what_was_recorded(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lacks: dict[str, str], weaker: list[str]
) -> None:
    folder = world.stopped()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another machine"))
    world.parts["sandbox", "strong"] = lambda: FakeSandbox("strong", **lacks)
    if not weaker:
        resume(folder, world, [])
        return
    before = events(folder)
    with pytest.raises(
        SandboxError, match="sandbox 'strong' guarantees less here than where the run started"
    ) as failure:
        resume(folder, world, [])
    assert weaker[0] in str(failure.value)
    assert events(folder) == before


def events(folder: Path) -> list[str]:
    with Ledger.read(folder) as ledger:
        return [key for key, _, _ in ledger.events()]


# Going on


def rewrite(folder: Path, change: Callable[[dict[str, Any]], Any], target: Path) -> Path:
    """A run whose first step is another's, changed."""
    with Ledger.read(folder) as old, Ledger.create(target) as new:
        for key, value, _ in old.events():
            if key == "run":
                change(value)
            new.record(key, value)
    return target


def test_another_version_does_not_go_on_with_a_run_whatever_its_configuration_held(world: World) -> None:
    def older(value: dict[str, Any]) -> None:
        value["version"] = "0.0.1"
        value["config"]["a_setting_of_then"] = 1

    folder = rewrite(world.stopped(), older, world.runs / "old")
    before = events(folder)
    with pytest.raises(LedgerError, match=rf"started with sia-core 0\.0\.1, and this is {__version__}"):
        resume(folder, world, [])
    assert events(folder) == before


def test_changed_data_brief_or_catalogue_stop_a_run_from_going_on(world: World) -> None:
    folder, task = world.stopped(), world.task
    edit = {"name": "n", "summary": "s", "change": [{"op": "write", "path": "a", "text": ""}]}
    for changed in (
        Apart(40, seed=1),
        Apart(41),
        Apart(40, playbook=Playbook.model_validate({"edit": [edit]})),
    ):
        world.task = changed
        with pytest.raises(LedgerError, match="data, brief or catalogue of task 'fake' are not those"):
            resume(folder, world, [])
    world.task = Apart()
    world.task.brief = "Be quick."
    with pytest.raises(LedgerError, match="Put them back to go on, or start a new run"):
        resume(folder, world, [])
    world.task = task
    resume(folder, world, [])


def test_a_run_that_was_stopped_before_its_first_step_says_so(world: World) -> None:
    with Ledger.create(world.runs / "empty"):
        pass
    with pytest.raises(LedgerError, match="stopped before its first step; start it again with `sia run`"):
        resume(world.runs / "empty", world, [])


def test_the_configuration_comes_back_from_json_as_it_was() -> None:
    config = Config(OfferRef("t", {"a": 1}), Plan(levers=("harness", "weights"), seed=4), verifier="numeric:1")
    assert Config.from_json(json.loads(json.dumps(asdict(config)))) == config


# Names


def test_runs_are_ordered_by_their_recorded_start_and_not_by_name_or_by_the_time_of_a_file(tmp_path: Path) -> None:
    for name, at in (("a-10", 30.0), ("a-9", 20.0), ("b-1", 10.0), ("unread", None)):
        with Ledger.create(tmp_path / name) as ledger:
            ledger.record("run", {})
        with closing(sqlite3.connect(tmp_path / name / "ledger.db")) as db, db:
            if at:
                db.execute("UPDATE events SET at = ?", (at,))
            else:
                db.execute("DROP TABLE events")
    (tmp_path / "no-run").mkdir()
    os.utime(tmp_path / "b-1", (2e9, 2e9))
    os.utime(tmp_path / "b-1" / "ledger.db", (2e9, 2e9))
    assert [path.name for path in runs_in(tmp_path)] == ["unread", "b-1", "a-9", "a-10"]
    assert find_run(tmp_path, None).name == "a-10"
    assert find_run(tmp_path, "b-1") == find_run(tmp_path, str(tmp_path / "b-1")) == tmp_path / "b-1"
    with pytest.raises(UsageError, match=r"no run 'c-1' in .*; the last ones there: unread, b-1, a-9, a-10"):
        find_run(tmp_path, "c-1")


def test_where_there_is_no_run_it_says_how_to_start_one(tmp_path: Path) -> None:
    assert runs_in(tmp_path / "nowhere") == []
    with pytest.raises(UsageError, match=r"no run in .*; start one with `sia run"):
        find_run(tmp_path / "nowhere", None)


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        (None, None),
        ("exact", "exact"),
        ("numeric:0.1", "numeric:0.1"),
        ("numeric:check.py", "numeric:check.py"),
        ("command", "command"),
        ("command:python3 check.py --fast", "command:python3 {0}/check.py --fast"),
        ("command:./check.py", "command:{0}/check.py"),
        ("command:python3 'my check.py' sub/../check.py", "command:python3 '{0}/my check.py' {0}/check.py"),
        ("command:python3 nowhere.py sub", "command:python3 nowhere.py sub"),
        ("command:python3 'check.py", "command:python3 'check.py"),
        ("command:seconds=5 sort sort", "command:seconds=5 sort {0}/sort"),
        ("command:./sort", "command:{0}/sort"),
        ("python:check.py:worth", "python:{0}/check.py:worth"),
        ("python:worth", "python:worth"),
    ],
)
def test_the_files_that_a_verifier_names_are_known_by_their_full_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str | None, expected: str | None
) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("check.py", "my check.py", "sort"):
        (tmp_path / name).write_text("")
    monkeypatch.chdir(tmp_path)
    config = config_from(["--plugin", "anything", *(["--verifier", setting] if setting else [])])
    assert config.verifier == (expected and expected.format(tmp_path))


# With real processes


def cases(folder: Path, n: int = 60) -> OfferRef:
    """An agent of the user's own that is right on even numbers, and its cases."""
    (folder / "agent").mkdir()
    (folder / "agent" / "harness.py").write_text("def solve(instance, ctx):\n    return instance.input['x'] % 2\n")
    lines = (json.dumps({"id": f"case {x}", "input": {"x": x}, "answer": 0}) + "\n" for x in range(n))
    (folder / "cases.jsonl").write_text("".join(lines))
    settings = {"data": str(folder / "cases.jsonl"), "harness": str(folder / "agent"), "seed": 0}
    return OfferRef("cases", settings)


@pytest.fixture
def real(tmp_path: Path, own_cache: None) -> Path:
    return tmp_path


@pytest.mark.real
@pytest.mark.parametrize(
    ("verifier", "says"),
    [
        ("numeric:x", "--verifier numeric:x: the tolerance must be a number such as 0.01"),
        ("command:", "give the command, for example"),
        ("command:'open", "No closing quotation"),
        ("exact:0.1", "does not take these settings"),
    ],
)
def test_a_real_verifier_with_wrong_settings_leaves_no_run(real: Path, verifier: str, says: str) -> None:
    config = Config(cases(real), Plan(generations=0), verifier=verifier)
    with pytest.raises(SiaError) as raised:
        start(config, real / "runs", Plugins.discover(), [])
    assert says in str(raised.value)
    assert not (real / "runs").exists()


@pytest.mark.real
def test_a_run_with_a_command_goes_on_in_another_folder_until_its_data_are_edited(
    real: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = (
        "import json, sys; case = json.load(sys.stdin)\nassert case['id'] == f\"case {case['input']['x']}\", case\n"
    )
    (real / "check.py").write_text(source + "print(json.dumps({'reward': case['answer'] == case['truth']}))\n")
    monkeypatch.chdir(real)
    check = f"command:{shlex.join(['python3', 'check.py'])}"
    given = config_from(["--plugin", "anything", "--verifier", check])
    config = Config(cases(real), Plan(generations=0, seed=1), verifier=given.verifier)
    plugins = Plugins.discover()

    def stop(event: Any) -> None:
        if event.kind == "run.started":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        start(config, real / "runs", plugins, [stop])
    monkeypatch.chdir("/")
    (folder,) = runs_in(real / "runs")
    whole = (real / "cases.jsonl").read_text()
    (real / "cases.jsonl").write_text(whole.replace('"answer": 0', '"answer": 1', 1))
    with pytest.raises(LedgerError, match=r"data, brief or catalogue of task '.*' are not those"):
        resume(folder, plugins, [])
    (real / "cases.jsonl").write_text(whole)
    resume(folder, plugins, [])
    with Ledger.read(folder) as ledger:
        assert ledger.get("finished")
        gated = [each for key, value, _ in ledger.events("rollouts/gate/") for each in value["rollouts"]]
    assert len(gated) == 15
    assert {each["outcome"] for each in gated} == {"ok"}
    assert 0 < sum(each["reward"] for each in gated) < 15


def test_a_policy_that_cannot_be_had_is_told_before_the_improver_is_asked(world: World) -> None:
    improver = ScriptedImprover([Stop(reason="enough")])
    improver.draft = lambda *_: pytest.fail("the improver was asked")  # type: ignore[method-assign]

    class Policyless(Instant):
        def submit(self, job: Any) -> Any:
            if job.function == "sia_runtime.worker.preflight:prepare":
                return super().submit(job)
            assert job.function == "sia_runtime.worker.preflight:abilities"
            raise UsageError("hf:base has no chat template")

    world.parts[("improver", "scripted")] = lambda: improver
    world.parts[("backend", "instant")] = Policyless
    world.parts[("engine", "torch")] = dict
    with pytest.raises(UsageError, match="no chat template"):
        world.run(engine=OfferRef("torch", {"policy": "hf:base"}))


@pytest.mark.real
def test_a_first_harness_that_does_not_run_leaves_no_run_behind_and_its_name_free(real: Path) -> None:
    config, plugins, runs = Config(cases(real), Plan(generations=0, seed=1)), Plugins.discover(), real / "runs"
    harness = real / "agent" / "harness.py"
    harness.write_text("import nothing_like_it\n")
    with pytest.raises(UsageError, match="the first harness does not run: setup-crash: ModuleNotFoundError"):
        start(config, runs, plugins, [], "fix-1")
    assert list(runs.iterdir()) == []
    harness.write_text("def solve(instance, ctx):\n    return 1\n")
    folder = start(config, runs, plugins, [], "fix-1")
    assert runs_in(runs) == [folder]


@pytest.mark.real
@pytest.mark.parametrize("check", ["print('hello')", "raise SystemExit('broken')"])
def test_a_verifier_that_judges_nothing_leaves_no_run_behind_and_its_name_free(real: Path, check: str) -> None:
    (real / "check.py").write_text(check)
    config = Config(cases(real), Plan(generations=0), verifier=f"command:python3 {real / 'check.py'}")
    with pytest.raises(UsageError, match="the verifier's command"):
        start(config, real / "runs", Plugins.discover(), [], "fix-1")
    assert list((real / "runs").iterdir()) == []


@pytest.mark.real
def test_a_library_that_a_first_harness_cannot_have_is_the_users_mistake(real: Path) -> None:
    config = Config(cases(real), Plan(generations=0))
    (real / "agent" / "harness.toml").write_text('requires = ["sklearn"]\n')
    with pytest.raises(UsageError, match="requires 'sklearn'"):
        start(config, real / "runs", Plugins.discover(), [])
    assert list((real / "runs").iterdir()) == []


def test_a_run_that_paid_for_a_call_is_kept(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def paid(config: Config, task: Task, ledger: Ledger, *_: Any) -> None:
        ledger.record("calls/draft/0123/reply", {"dollars": 1.0})
        raise UsageError("the first harness does not run")

    monkeypatch.setattr("sia_core.run.start._drive", paid)
    with pytest.raises(UsageError):
        world.run()
    assert len(runs_in(world.runs)) == 1
