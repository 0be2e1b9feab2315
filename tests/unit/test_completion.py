"""``sia completion``: a shell completes commands and their options."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from sia_cli import main

SEPARATOR = "\x0b"


def completions(line: str) -> list[str]:
    """The words that a shell offers at the end of a line; it reads them from descriptor 8."""
    source, sink = os.pipe()
    variables = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_IFS": SEPARATOR, "COMP_LINE": line, "COMP_POINT": str(len(line))}
    program = f"import os; os.dup2({sink}, 8); from sia_cli import main; main()"
    with os.fdopen(source) as offered:
        subprocess.run(
            [sys.executable, "-c", program], env={**os.environ, **variables}, pass_fds=[sink], check=True, timeout=60
        )
        os.close(sink)
        return [each.strip() for each in offered.read().split(SEPARATOR) if each.strip()]


@pytest.mark.real
def test_commands_and_options_are_completed() -> None:
    assert completions("sia re") == ["resume", "replay", "report"]
    assert completions("sia run --gener") == ["--generations"]
    assert completions("sia nosuch --x") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_is_told_how(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    assert "sia" in capsys.readouterr().out


def test_another_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["completion", "cmd"])
    assert "choose from" in capsys.readouterr().err
