"""Effects of a run from elsewhere are shown and refused until its reader trusts it; once is enough."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from sia_cli import main
from sia_cli.replay_run import replay
from sia_compare.arms import Design, begun
from sia_compare.doing import Doing
from sia_compare.doing import begun as run_begun
from sia_core import __version__
from sia_core.errors import LedgerError, SandboxError, UsageError
from sia_core.plugins import Plugins
from sia_core.run import trust
from sia_core.run.ledger import Ledger
from sia_core.run.plan import Plan
from sia_core.run.start import Config, resume
from sia_core.types import OfferRef
from sia_deploy.agent import DeployedAgent
from sia_deploy.export import export
from sia_runtime.sandbox.contract import GUARANTEES
from sia_runtime.worker.preflight import check_sandbox

TASK = OfferRef("lawbench", {"seed": 0, "cases": "200"})
ACTS: dict[str, tuple[dict[str, Any], str]] = {
    "a command": ({"verifier": "command:sh -c 'touch /tmp/x'"}, r"run the command: sh -c 'touch /tmp/x'"),
    "a function": ({"verifier": "python:/tmp/x.py:f"}, r"run the Python function /tmp/x.py:f outside of a sandbox"),
    "a command of several lines": ({"verifier": "command:a\nb"}, r'run the command: "a\\nb"'),
    "a command that looks like another": ({"verifier": "command:c\u0430t"}, r'c\u0430t \(in ASCII: "c\\u0430t"\)'),
    "a command with what is not seen": ({"verifier": "command:a\u200bb"}, r'run the command: "a\\u200bb"'),
    "a server that looks like another": (
        {"engine": OfferRef("litellm", {"base_url": "https://\u0430pi.openai.com"})},
        r"\(in ASCII: .*\\u0430pi\.openai\.com",
    ),
    "a command longer than a screen": ({"verifier": f"command:{'x ' * 1500}"}, r"It has 3,\d{3} characters: see where"),
    "a verifier of a plugin": ({"verifier": "judge:x"}, "score by the verifier judge:x"),
    "a verifier with a path": ({"verifier": "numeric:/dev/zero"}, "score by the verifier numeric:/dev/zero"),
    "a task's file": ({"task": OfferRef("cases", {"data": "/home/me/.ssh/id"})}, "/home/me/.ssh/id"),
    "a hidden file here": ({"task": OfferRef("cases", {"data": ".netrc"})}, ".netrc"),
    "a home": ({"task": OfferRef("folder", {"folder": "~"})}, r'"~"'),
    "a path in a list": ({"task": OfferRef("cases", {"data": ["a", ["/etc"]]})}, "/etc"),
    "a path as a name": ({"task": OfferRef("cases", {"/etc/x": 1})}, "/etc/x"),
    "a task folder's script": (
        {"task": OfferRef("folder", {"folder": "/evil"})},
        "folder .*/evil.* run an evaluate.py",
    ),
    "the working directory": ({"task": OfferRef("folder", {"folder": ""})}, r'task folder {"folder":""}'),
    "an engine's server": (
        {"engine": OfferRef("litellm", {"policy": "m", "base_url": "http://evil"})},
        "litellm .*http://evil.*may send your keys",
    ),
    "an engine by its name": ({"engine": OfferRef("tinker", {})}, "engine tinker {}, which may send your keys"),
    "a model to fetch": ({"engine": OfferRef("torch", {"policy": "hf:who/what"})}, "hf:who/what"),
    "an improver's server": (
        {"improver": "litellm", "improver_settings": {"base_url": "http://evil"}},
        "litellm .*http://evil.*may send your keys",
    ),
    "an improver's program": (
        {"improver": "command", "improver_settings": {"model": "sh -c id"}},
        'run as you the improver command {"model":"sh -c id"}',
    ),
    "an improver's file": ({"improver_settings": {"replay": "/dev/zero"}}, "/dev/zero"),
    "a plugin's lever": (
        {"plan": Plan(levers=("harness", "merge")), "lever_settings": {"merge": {"program": "sh -c id"}}},
        'pull the lever merge {"program":"sh -c id"}',
    ),
    "a lever's file": (
        {"plan": Plan(levers=("weights",)), "lever_settings": {"weights": {"steps": "/dev/zero"}}},
        "pull the lever weights .*/dev/zero",
    ),
    "a backend": ({"backend": "ray", "backend_settings": {"address": "ray://evil"}}, "ray://evil"),
    "a weak sandbox": ({"sandbox": "process", "allow_weak_sandbox": True}, r"does not isolate all of it \(process\)"),
}


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


def recorded(folder: Path, **config: Any) -> Path:
    """A run's folder as somebody else made it."""
    with Ledger.create(folder) as ledger:
        about = {"task": "t", "kind": "solve", "metric": {"name": "m", "direction": "maximize"}}
        first = {"config": asdict(Config(**{"task": TASK, **config})), **about, "fingerprint": "f"}
        ledger.record("run", {**first, "version": __version__})
        ledger.record("sandbox", {"name": "bwrap", "lacks": []})
        ledger.record("draft", "a" * 64)
    return folder


def exported(folder: Path, trusted: bool) -> None:
    with Ledger.read(folder) as ledger:
        export(ledger, folder.parent / "exported", Plugins.discover(allow=""), trusted)


COMMANDS: dict[str, Callable[[Path, bool], object]] = {
    "resume": lambda folder, trusted: resume(folder, Plugins.discover(allow=""), [], None, trusted),
    "serve": lambda folder, trusted: DeployedAgent(folder, Plugins.discover(allow=""), trusted),
    "export": exported,
    "replay": lambda folder, trusted: replay(folder, Plugins.discover(allow=""), trusted),
}
GOT_ON = "no (task|improver) named|no plain file"  # as this plugin, or this file, is not there
SHOWN = r"was not started here by you, or its configuration was changed since. It would\n"


@pytest.mark.parametrize("what", ACTS)
def test_what_a_run_from_elsewhere_does_to_the_world_is_shown_before_it_is_resumed(tmp_path: Path, what: str) -> None:
    config, message = ACTS[what]
    with pytest.raises(UsageError, match=rf"{SHOWN}(.*\n)*.*{message}(.*\n)*.*give --trust") as refused:
        resume(recorded(tmp_path / "run", **config), Plugins.discover(allow=""), [])
    assert refused.value.exit_code == 2


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_that_acts_on_a_record_asks_first_and_goes_on_with_trust(tmp_path: Path, command: str) -> None:
    folder = recorded(tmp_path / "run", task=OfferRef("cases", {"data": "/dev/zero", "harness": "/"}))
    with pytest.raises(UsageError, match=SHOWN):
        COMMANDS[command](folder, False)
    with pytest.raises(UsageError, match=GOT_ON):
        COMMANDS[command](folder, True)
    with pytest.raises(UsageError, match=GOT_ON):  # asked once
        COMMANDS[command](folder, False)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_word_that_names_something_in_the_working_directory_is_asked_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil").mkdir()
    with pytest.raises(UsageError, match=rf"{SHOWN}  read the files that task folder .*evil"):
        COMMANDS[command](recorded(tmp_path / "run", task=OfferRef("folder", {"folder": "evil"})), False)


def test_what_leads_nowhere_is_not_asked_about() -> None:
    plain = Config(TASK, verifier="numeric:0.1", engine=OfferRef("torch", {"policy": "tiny", "rank": "8"}))
    assert trust.effects(asdict(plain)) == []


@pytest.mark.parametrize("command", ["replay", "export"])
def test_a_replay_or_an_export_runs_no_command_and_so_asks_about_files_alone(tmp_path: Path, command: str) -> None:
    folder = recorded(tmp_path / "run", verifier="command:sh", improver="claude")
    with pytest.raises(UsageError, match=GOT_ON):
        COMMANDS[command](folder, False)


def test_an_export_that_will_ask_a_server_is_asked_about(tmp_path: Path) -> None:
    folder = recorded(tmp_path / "run", engine=OfferRef("litellm", {"policy": "m", "base_url": "http://evil"}))
    with pytest.raises(UsageError, match=rf"{SHOWN}  ask or train a policy by the engine litellm .*http://evil"):
        exported(folder, False)


def test_a_configuration_that_is_changed_after_it_was_trusted_is_asked_about_again(tmp_path: Path) -> None:
    first, second = (recorded(tmp_path / name, verifier=f"command:{name}") for name in ("first", "second"))
    with pytest.raises(UsageError, match=GOT_ON):
        resume(first, Plugins.discover(allow=""), [], None, True)
    with pytest.raises(UsageError, match=SHOWN):
        resume(second, Plugins.discover(allow=""), [])


def test_what_was_trusted_lies_in_a_folder_of_the_users_alone_and_nothing_in_the_runs_own(
    tmp_path: Path, state: Path
) -> None:
    folder = recorded(tmp_path / "run", verifier="command:sh")
    before = sorted(path.name for path in folder.iterdir())
    with pytest.raises(UsageError, match=GOT_ON):
        resume(folder, Plugins.discover(allow=""), [], None, True)
    assert sorted(path.name for path in folder.iterdir()) == before
    assert [path.stat().st_mode & 0o777 for path in (state / "sia", state / "sia" / "trusted")] == [0o700, 0o700]


def loosened(place: Path) -> None:
    place.chmod(0o777)


def a_link(place: Path) -> None:
    place.rename(place.with_name("elsewhere"))
    place.symlink_to(place.with_name("elsewhere"))


def given_away(place: Path) -> None:
    os.chown(place, 65534, 65534)


@pytest.mark.parametrize("spoil", [loosened, a_link, given_away], ids=lambda each: each.__name__)
def test_a_memory_that_others_may_have_written_is_not_believed(
    tmp_path: Path, state: Path, spoil: Callable[[Path], None]
) -> None:
    if spoil is given_away and os.geteuid() != 0:
        pytest.skip("only root can give a folder away")
    folder = recorded(tmp_path / "run", verifier="command:sh")
    with pytest.raises(UsageError, match=GOT_ON):
        resume(folder, Plugins.discover(allow=""), [], None, True)
    spoil(state / "sia" / "trusted")
    with pytest.raises(UsageError, match=SHOWN):
        resume(folder, Plugins.discover(allow=""), [])


def test_where_nothing_can_be_remembered_trust_holds_for_that_call_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/proc/nowhere")
    folder = recorded(tmp_path / "run", verifier="command:sh")
    with pytest.raises(UsageError, match=GOT_ON):
        resume(folder, Plugins.discover(allow=""), [], None, True)
    assert "it cannot be remembered that you trust this; sia will ask for --trust again" in caplog.text
    with pytest.raises(UsageError, match=SHOWN):
        resume(folder, Plugins.discover(allow=""), [])


class Weak:
    """A sandbox that shares the host's network, and the plugin that offers it."""

    name, guarantees = "weak", frozenset(GUARANTEES)

    def create(self, kind: str, name: str) -> Weak:
        return self

    def probe(self) -> dict[str, str]:
        return {"net": "no namespaces"}


def test_a_weak_sandbox_is_not_taken_by_the_word_of_a_record(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    record: Mapping[str, Any] = {"name": "weak", "lacks": sorted(GUARANTEES)}
    offers: Any = Weak()
    with pytest.raises(SandboxError, match="--sandbox weak --allow-weak-sandbox"):
        check_sandbox(record, offers, allow_weak=False)
    check_sandbox(record, offers, allow_weak=True)


@pytest.mark.parametrize(
    "broken", [{"config": []}, {"config": {}}, {"version": 1}, {"config": {"plan": {"levers": 1}}}], ids=str
)
def test_a_first_step_of_another_shape_is_an_error_and_no_traceback(tmp_path: Path, broken: dict[str, Any]) -> None:
    folder = recorded(tmp_path / "run")
    with Ledger.read(folder) as ledger:
        (first,) = ledger.get("run") or ({},)
    with Ledger.create(tmp_path / "broken") as ledger:
        ledger.record("run", {**first, **broken})
        ledger.record("sandbox", {"name": "bwrap", "lacks": []})
        ledger.record("draft", "a" * 64)
    for command in COMMANDS.values():
        with pytest.raises(LedgerError, match=r"cannot make sense of its records|cannot read the configuration"):
            command(tmp_path / "broken", True)


@pytest.mark.parametrize("left_out", ["verifier", "sandbox", "backend", "improver_settings"])
def test_what_a_configuration_leaves_out_is_taken_as_the_run_takes_it(tmp_path: Path, left_out: str) -> None:
    task = OfferRef("cases", {"data": "/dev/zero"})
    with Ledger.read(recorded(tmp_path / "whole", task=task)) as ledger:
        (first,) = ledger.get("run") or ({},)
    first["config"].pop(left_out)
    with Ledger.create(tmp_path / "run") as ledger:
        ledger.record("run", first)
        ledger.record("sandbox", {"name": "bwrap", "lacks": []})
        ledger.record("draft", "a" * 64)
    with pytest.raises(UsageError, match=SHOWN):
        replay(tmp_path / "run", Plugins.discover(allow=""))


# Comparisons


DESIGN = Design(("--plugin", "lawbench"), ("--verifier", "command:sh"), (), ("none", "harness"), 1, "rollouts=9")


def test_a_comparison_from_elsewhere_shows_its_command_and_starts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    DESIGN.write(tmp_path / "compared")
    monkeypatch.setattr(Doing, "all", lambda *_: pytest.fail("it was begun"))
    assert main(["compare", str(tmp_path / "compared")]) == 2
    assert "It would\n  run: sia run --plugin lawbench --verifier command:sh" in capsys.readouterr().err


def test_a_comparison_from_elsewhere_shows_the_command_of_each_arm(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hidden = replace(DESIGN, improver=("--verifier", "command:id"), arms=("fixed-alternation", "both"), seeds=2)
    hidden.write(tmp_path / "compared")
    assert main(["compare", str(tmp_path / "compared")]) == 2
    error = capsys.readouterr().err
    assert error.count("  run: sia run") == 2
    assert "--verifier command:id --levers harness,weights" in error


@pytest.mark.parametrize(
    "broken", [{"task": [1]}, {"task": 5}, {"budget": 7}, {"seeds": 1.5}, {"arms": [["none"], "both"]}], ids=str
)
def test_a_comparison_of_another_shape_is_an_error_and_no_traceback(tmp_path: Path, broken: dict[str, Any]) -> None:
    (tmp_path / "comparison.json").write_text(json.dumps({"design": {**asdict(DESIGN), **broken}}))
    with pytest.raises(UsageError, match="is not the design of a comparison"):
        Design.read(tmp_path)


def test_a_comparison_of_ones_own_goes_on_without_a_question(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun(tmp_path / "compared", DESIGN)
    monkeypatch.setattr(Doing, "all", lambda *_: [])
    assert main(["compare", str(tmp_path / "compared"), "--json"]) == 0


def test_a_comparison_is_read_and_locked_through_no_link(tmp_path: Path) -> None:
    folder, victim = tmp_path / "compared", tmp_path / "victim"
    victim.write_text(json.dumps({"design": asdict(DESIGN)}))
    folder.mkdir()
    (folder / "comparison.json").symlink_to(victim)
    with pytest.raises(LedgerError, match="is a link"):
        Design.read(folder)
    (folder / "comparison.json").unlink()
    (folder / "lock").symlink_to(victim)
    with pytest.raises(LedgerError, match="is a link"):
        Doing(folder, DESIGN, lambda *_: None).all(1)
    assert json.loads(victim.read_text())


def test_a_run_of_a_comparison_whose_record_cannot_be_read_is_not_begun_anew_over_it(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").write_text("damaged")
    assert run_begun(tmp_path)
