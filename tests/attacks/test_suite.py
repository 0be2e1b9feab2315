"""Every attack of the suite, under every sandbox that is offered here; and each without one, where it must work."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sia_attacks.arena import KNOWN, Arena, Result
from sia_attacks.catalogue import HOSTILE, Attack, attacks, may_pass, read
from sia_core.errors import SandboxError
from sia_core.plugins import Plugins
from sia_runtime.sandbox.contract import GUARANTEES

from .conftest import NAKED, QUICK, SUITE, examined, sandboxes
from .test_naive import NAIVE

Meet = Callable[[str, Attack], Result]

BROKEN = ("NameError", "AttributeError", "TypeError", "SyntaxError", "ImportError", "ModuleNotFoundError", "IndexError")


ENDS = {
    **dict.fromkeys(("deep-json", "infinity", "key-twice", "not-a-number", "object-answer"), "not-json"),
    **dict.fromkeys(("memory-in-children", "memory-in-one-process"), "memory"),
    **dict.fromkeys(("huge-file", "many-files"), "disk"),
    "forged-outcome": "protocol",
    "large-answer": "answer-too-large",
    "output-flood": "flood",
}
"""How each of these is called where it is stopped: the reason that a user sees for the failure."""


def cases() -> list[Any]:
    """The strongest sandbox meets a few attacks in `make test`; all others are for `make test-all`."""
    parameters = []
    for place, sandbox in enumerate(sandboxes()):
        for name in SUITE:
            slow = [] if place == 0 and name in QUICK else [pytest.mark.slow]
            parameters.append(pytest.param(sandbox, name, marks=[pytest.mark.real, *slow], id=f"{sandbox}-{name}"))
    return parameters


@pytest.mark.parametrize(("sandbox", "name"), cases())
def test_an_attack_is_stopped_and_changes_no_score_but_its_own(sandbox: str, name: str, meet: Meet) -> None:
    about, attack = examined(sandbox), SUITE[name]
    if not about.starts:
        pytest.skip(f"{sandbox} does not start here: {'; '.join(set(about.lacks.values()))}")
    result = meet(sandbox, attack)
    if not about.lacks.keys() & set(attack.against):
        assert result.openings == ()
    assert len(result.rollouts) == attack.instances
    for rollout in result.rollouts:
        assert rollout.outcome in KNOWN
        assert rollout.outcome == ENDS.get(name, rollout.outcome)
        # Else it may have been stopped by its own mistake.
        assert not rollout.message.startswith(BROKEN), rollout.message


OPEN = (
    *("abstract-socket", "core-read", "daemon", "deleted-files", "environment-of-others", "file-outside", "fork-bomb"),
    *("home", "huge-file", "inherited-descriptors", "key-in-environment", "kill-a-process", "kill-the-verifier"),
    *("labels", "labels-overwritten", "ledger-overwritten", "link-out-of-scratch", "many-files", "memory-file"),
    *("memory-in-children", "memory-in-one-process", "order-of-instances", "orphan", "path-file", "planted-files"),
    *("planted-module", "replies-of-others", "respawning-daemon", "search-the-disk", "shared-segment"),
    *("sitecustomize", "socket-pair", "starve-a-process", "stop-a-process", "tcp", "udp", "unix-socket"),
    *("datagrams", "large-pipes", "socket-buffers", "sockets-in-flight", "unaccepted-sockets"),
    *("secret-of-the-run", "verifier-overwritten"),
)
"""Those that get through where there is no sandbox, on any machine."""

BY_KERNEL = {
    "landlock-rules": "a kernel may have no Landlock",
    "spliced-pages": "a kernel may have no large pages",
    "io-uring": "kernel.io_uring_disabled may forbid it",
    "kernel-sockets": "needs root, or kernel modules",
    "memory-of-a-process": "Yama lets a process trace its descendants alone",
    "mount": "needs root",
    "nested-namespace": "AppArmor may forbid it",
    "scratch-traps": "a device needs root",
    "take-a-descriptor": "Yama, as for memory",
    "trace-a-process": "Yama, as for memory",
    "file-attributes": "a file system may have none",
    "vsock": "needs a kernel with it",
}
"""Those that get through where there is no sandbox, if the machine's settings let them."""

BY_THE_ROAD = {
    "answer-that-runs": "nobody unpickles an answer",
    "calls-of-others": "a frame says nothing of whose it is",
    "deep-json": "read by a parser that counts first",
    "endless-loop": "a clock of the host's",
    "forged-outcome": "the outcomes are known",
    "forged-result": "no frame holds a score",
    "forged-set-up": "no frame holds a score",
    "huge-answer": "a length is checked before anything is kept",
    "infinity": "read strictly",
    "key-twice": "read strictly",
    "large-answer": "its size is limited",
    "not-a-number": "read strictly",
    "object-answer": "an answer is text",
    **dict.fromkeys(("odd-answer", "odd-job", "odd-number", "odd-outcome"), "every field of a frame is checked"),
    "secret-in-memory": "the secret goes to the verifier's process alone",
    "order-kept-by-stateless": "what it kept is of no use to it",
    "output-flood": "what is printed is counted",
    "sleeping-import": "a clock of the host's",
    "tcp-buffers": "who shares the host's network has no endpoint over TCP",
    "step-rewards": "they are no scores",
    "time-by-order": "an instance's time is its own",
    "words-to-the-improver": "tests/unit/test_quoting.py shows what they would do without a fence",
    "zip-bomb": "nobody unpacks an answer",
    "deferred-thread": "the first answer counts, and the process ends with it",
}
"""Those that no sandbox has to stop, as the way of an answer gives them nothing; and what of it does so."""


def test_of_every_attack_it_is_known_what_would_let_it_through() -> None:
    proven = [*OPEN, *BY_KERNEL, *NAIVE, *BY_THE_ROAD]
    assert sorted(proven) == sorted(SUITE)


@pytest.mark.real
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in ("labels", "tcp") else [pytest.mark.slow]) for name in OPEN]
)
def test_an_attack_gets_through_where_there_is_no_sandbox(name: str, meet: Meet) -> None:
    assert meet(NAKED, SUITE[name]).verdict == "open"


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("name", BY_KERNEL)
def test_an_attack_gets_through_where_there_is_no_sandbox_and_the_kernel_lets_it(name: str, meet: Meet) -> None:
    if meet(NAKED, SUITE[name]).verdict == "stopped":
        pytest.skip(f"{name}: {BY_KERNEL[name]}")


# The catalogue.


def test_the_suite_covers_every_guarantee_and_each_attack_says_what_it_tries() -> None:
    assert len(SUITE) >= 40
    assert set(GUARANTEES) == {each for attack in SUITE.values() for each in attack.against}
    assert len({attack.what for attack in SUITE.values()}) == len(SUITE)
    for attack in SUITE.values():
        assert attack.what.endswith("."), attack.name
        assert set(attack.against) <= set(GUARANTEES), attack.name


def test_what_a_sandbox_may_not_stop_follows_from_what_it_lacks() -> None:
    assert may_pass([]) == []
    disk = may_pass(["total_disk"])
    assert disk == ["deleted-files", "file-attributes", "huge-file", "many-files"]
    assert set(may_pass(["total_disk", "processes"])) > {*disk, "daemon", "orphan"}


def test_an_attack_is_read_and_not_run(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text('"""Exits."""\nAGAINST = ("net",)\nSECONDS = 2.0\nOTHER = 1 / 0\nraise SystemExit\n')
    attack = read(path)
    assert (attack.name, attack.what, attack.against, attack.seconds) == ("mine", "Exits.", ("net",), 2.0)
    assert (attack.instances, attack.honest, attack.files) == (2, False, {})


def test_an_installation_carries_the_attacks() -> None:
    package = HOSTILE.parent
    project = package.parents[1] / "pyproject.toml"
    if not project.exists():
        pytest.skip("not a checkout")
    patterns = tomllib.loads(project.read_text())["tool"]["setuptools"]["package-data"][package.name]
    carried = {path for pattern in patterns for path in package.glob(pattern)}
    assert set(HOSTILE.glob("*.py")) <= carried
    assert len(attacks()) == len(list(HOSTILE.glob("*.py")))


@pytest.mark.real
def test_a_sandbox_in_which_nothing_runs_stops_no_attack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sia_attacks.arena.HONEST", b"raise ImportError('nothing can be read here')\n")
    with (
        Arena(Plugins.discover(), sandboxes()[0]) as arena,
        pytest.raises(SandboxError, match="even an honest harness fails in it: setup-crash: ImportError"),
    ):
        arena.meet(SUITE["tcp"])
