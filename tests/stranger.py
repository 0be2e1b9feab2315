"""Somebody who has the wheels in a fresh environment, an empty folder, and the docs."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RELEASE: dict[str, Any] = runpy.run_path(str(ROOT / "tools" / "release.py"))

_BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)


class Stranger:
    """``environment`` holds the wheels, ``folder`` is where they work."""

    def __init__(self, environment: Path, folder: Path) -> None:
        self.environment, self.folder = environment, folder

    def run(self, program: str, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run a module of the environment as a program."""
        return self._done([str(self.environment / "bin" / "python"), "-m", program, *arguments], code)

    def sia(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run the command as it was installed."""
        return self._done([str(self.environment / "bin" / "sia"), *arguments], code)

    def _done(self, command: list[str], code: int) -> subprocess.CompletedProcess[str]:
        clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "SIA_PLUGINS")}
        result = subprocess.run(command, cwd=self.folder, env=clean, capture_output=True, text=True, check=False)
        assert result.returncode == code, f"{command}: {result.stdout}{result.stderr}"
        return result

    def install(self, *folders: Path) -> None:
        """Install packages from folders; no index is asked."""
        RELEASE["install_into"](self.environment, folders)

    def begin(self, kind: str, name: str) -> Path:
        """Write a package, install it, and run its tests, in which a warning is an error."""
        self.sia("new", kind, name)
        package = self.folder / f"sia-{name}"
        self.install(package)
        self.run("pytest", "-q", "-W", "error", "-p", "no:cacheprovider", str(package))
        return package

    def follow(self, page: Path) -> dict[str, str]:
        """Do what a page of the docs says: write the files that it shows, run its commands. What each printed."""
        printed = {}
        for language, title, text in blocks(page):
            if title:
                target = self.folder / title
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(text, encoding="utf-8")
            elif language == "console":
                for line in (each[2:] for each in text.splitlines() if each.startswith("$ ")):
                    printed[line] = self._command(shlex.split(line))
        return printed

    def _command(self, words: list[str]) -> str:
        program, *arguments = words
        if program == "pip":
            folders = [self.folder / each for each in arguments if (self.folder / each).is_dir()]
            if folders:  # the rest are the wheels, which are there
                RELEASE["install_into"](self.environment, folders, editable="--editable" in arguments)
            return ""
        if program == "python":
            return self._done([str(self.environment / "bin" / "python"), *arguments], 0).stdout
        return (self.sia(*arguments) if program == "sia" else self.run(program, *arguments)).stdout


def blocks(page: Path) -> Iterator[tuple[str, str, str]]:
    """The code blocks of a page: language, title if it has one, and text."""
    yield from _BLOCK.findall(page.read_text(encoding="utf-8"))


def fresh(folder: Path, wheels: tuple[str, ...]) -> Path:
    """A new environment with the wheels of these distributions, built from this tree."""
    built = RELEASE["build"](folder / "dist", only=wheels)
    binaries: Path = RELEASE["fresh"](folder, built)
    return binaries.parent
