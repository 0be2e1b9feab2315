"""The strongest sandbox whose guarantees hold is chosen, and what holds is remembered."""

from __future__ import annotations

import os
import resource
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from sia_core.errors import SandboxError
from sia_runtime.sandbox import choosing
from sia_runtime.sandbox.choosing import choose, examine
from sia_runtime.sandbox.contract import GUARANTEES


class Fake:
    """A sandbox whose probe says what it is told to."""

    guarantees = frozenset(GUARANTEES)

    def __init__(self, name: str, **lacks: str) -> None:
        self.name, self._lacks, self.probed = name, lacks, 0

    def probe(self) -> Mapping[str, str]:
        self.probed += 1
        return self._lacks

    def start(self, spec: Any) -> Any:
        raise NotImplementedError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "sia" / "sandbox"


NOWHERE = dict.fromkeys(GUARANTEES, "unshare: Operation not permitted")


def test_the_first_with_every_required_guarantee_is_chosen() -> None:
    strong, weak, modest = Fake("strong"), Fake("weak", net="open"), Fake("modest", total_disk="not watched")
    assert choose([weak, modest, strong]).sandbox is modest
    assert choose([strong, modest]).lacks == {}
    assert choose([modest]).lacks == {"total_disk": "not watched"}


def test_a_refusal_names_each_sandbox_what_it_lacks_and_what_to_do() -> None:
    with pytest.raises(SandboxError) as raised:
        choose([Fake("best", **NOWHERE), Fake("process", processes="no process namespace", total_disk="x")])
    text = str(raised.value)
    assert "best: environment, files, net, processes: unshare: Operation not permitted" in text
    assert "process: processes: no process namespace" in text
    assert "--sandbox process --allow-weak-sandbox" in text


def test_a_weak_one_is_used_only_where_that_is_allowed_and_nothing_better_is_there() -> None:
    weak, broken = Fake("weak", net="open"), Fake("broken", **NOWHERE)
    assert choose([broken, weak], allow_weak=True).sandbox is weak
    assert choose([weak, Fake("strong")], allow_weak=True).name == "strong"
    with pytest.raises(SandboxError, match="none of them starts"):
        choose([broken], allow_weak=True)


def test_what_a_sandbox_does_not_promise_it_lacks() -> None:
    promises_less = Fake("less")
    promises_less.guarantees = frozenset({"files", "net", "environment"})
    (examined,) = examine([promises_less])
    assert set(examined.lacks) == {"processes", "total_memory", "total_disk"}
    assert not examined.usable


def test_a_probe_runs_once_for_a_machine() -> None:
    first, again, other = Fake("a", net="open"), Fake("a"), Fake("b")
    assert [each.lacks for each in examine([first, again, other])] == [{"net": "open"}, {"net": "open"}, {}]
    assert (first.probed, again.probed, other.probed) == (1, 0, 1)


def test_a_sandbox_that_could_not_start_is_probed_again() -> None:
    broken = Fake("broken", **NOWHERE)
    list(examine([broken, broken]))
    assert broken.probed == 2


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{", b"[]", b"\xff", b"[" * 10**5),
        *(b'{"lacks": 3}', b'{"lacks": {"luck": "x"}}', b'{"lacks": {"net": 1}}'),
    ],
)
def test_a_damaged_memory_costs_a_probe(cache: Path, content: bytes) -> None:
    list(examine([Fake("a")]))
    (place,) = cache.iterdir()
    place.write_bytes(content)
    again = Fake("a")
    assert next(examine([again])).lacks == {}
    assert again.probed == 1
    assert sorted(cache.iterdir()) == [place]


@pytest.mark.parametrize("changed", ["umask", "TMPDIR", "bwrap", "setting", "limit"])
def test_a_change_of_what_a_probe_depends_on_has_it_run_again(
    changed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bwrap, setting = tmp_path / "bwrap", tmp_path / "max_user_namespaces"
    bwrap.write_text("#!/bin/sh\n")
    bwrap.chmod(0o755)
    setting.write_text("100\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(choosing, "_SETTINGS", (*choosing._SETTINGS, str(setting)))
    sandbox = Fake("a")
    before, limit = os.umask(0o022), resource.getrlimit(resource.RLIMIT_CORE)
    try:
        list(examine([sandbox, sandbox]))
        if changed == "umask":
            os.umask(0o077)
        elif changed == "TMPDIR":
            monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        elif changed == "bwrap":
            bwrap.chmod(0o4755)
        elif changed == "setting":
            setting.write_text("0\n")
        else:
            resource.setrlimit(resource.RLIMIT_CORE, (0, limit[1]) if limit[0] else (1, limit[1]))
        list(examine([sandbox, sandbox]))
    finally:
        os.umask(before)
        resource.setrlimit(resource.RLIMIT_CORE, limit)
    assert sandbox.probed == 2


def test_a_home_that_cannot_be_written_costs_a_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    sandbox = Fake("a")
    list(examine([sandbox, sandbox]))
    assert sandbox.probed == 2


@pytest.mark.real
def test_probes_of_the_cores_sandboxes_tell_what_they_promise(sandbox: Any) -> None:
    assert set(sandbox.probe()) == set(GUARANTEES) - sandbox.guarantees
