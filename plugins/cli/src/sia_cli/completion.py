"""``sia completion``: the code by which a shell completes command lines of ``sia``."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Callable, Sequence

ASKED = "_ARGCOMPLETE"
"""The variable by which a shell asks for completions, instead of for a command."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = """\
bash: add `eval "$(sia completion bash)"` to ~/.bashrc
zsh:  add `eval "$(sia completion zsh)"` to ~/.zshrc, after compinit
fish: sia completion fish > ~/.config/fish/completions/sia.fish"""
    parser.add_argument("shell", choices=("bash", "zsh", "fish"))


def run(options: argparse.Namespace) -> int:
    from argcomplete.shell_integration import shellcode

    print(shellcode(["sia"], shell=options.shell))
    return 0


def complete(parser_of: Callable[[Sequence[str]], argparse.ArgumentParser]) -> None:
    """Answer a shell that asks for completions, and exit."""
    import argcomplete

    from sia_core.errors import SiaError

    try:
        parser = parser_of(shlex.split(os.environ.get("COMP_LINE", ""))[1:])
    except (ValueError, SiaError):  # a quote that is still open, or half a command's name
        parser = parser_of(())
    argcomplete.autocomplete(parser, always_complete_options="long")
