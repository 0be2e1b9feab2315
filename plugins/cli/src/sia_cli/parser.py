"""The parser of the command line."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any, NoReturn

UNKNOWN = "unrecognized arguments: "


class Parser(argparse.ArgumentParser):
    """Takes options by their whole names alone, and says which one a wrong name could mean.

    A shortened name would change its meaning with the next option that begins like it.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **settings})

    def error(self, message: str) -> NoReturn:
        from sia_cli.output import shown  # only where something is wrong

        super().error(shown(self.explained(message)))

    def explained(self, message: str) -> str:
        """A message of argparse, with the options that unknown ones could mean."""
        from sia_core.errors import meant  # only where something is wrong

        if not message.startswith(UNKNOWN):
            return message
        words = [word.partition("=")[0] for word in message.removeprefix(UNKNOWN).split()]
        named = (word for word in words if word.startswith("-") and word.strip("-"))
        near = next((end for word in named if (end := meant(word, self.names()))), "")
        return f"{message}{near or self.listed()}"

    def names(self) -> list[str]:
        """The long options of the command line, those of the command that was named among them."""
        parsers = [self, *self._commands()]
        return [name for parser in parsers for name in parser._option_string_actions if name.startswith("--")]

    def listed(self) -> str:
        """Where the options are listed, as the end of a message."""
        return f"; `{[self, *self._commands()][-1].prog} --help` lists the options"

    def _commands(self) -> Iterator[argparse.ArgumentParser]:
        """The parser of the command that was named; others have no options yet."""
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                yield from (each for each in action.choices.values() if each.get_default("run_command"))
