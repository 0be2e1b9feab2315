"""A task's own catalogue of harness edits, which lets the loop run with no language model.

The catalogue is data, a TOML file of tables like this one::

    [[edit]]
    name = "linear-svc"
    family = "classifier"
    summary = "a linear support vector machine over character n-grams"
    [[edit.change]]
    op = "replace"
    path = "harness.py"
    old = "SCORER = 'names'"
    new = "SCORER = 'svc'"

Edits of one family inform each other when an improver weighs what they earned. ``gain = 0.1`` in an
edit is what its author expects of it, in units of the reward, and has it tried sooner.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from pydantic import Field, SerializerFunctionWrapHandler, ValidationError, model_serializer, model_validator

from sia_core.errors import UsageError, faults
from sia_core.given_files import read_file
from sia_core.harness import Edit, Frozen, Replace, Write

PLAYBOOK = "playbook.toml"


class Entry(Frozen):
    """An edit: ``name``, ``summary`` and ``family``, its ``change`` in order, and the ``gain`` expected, 0 for none."""

    name: str = Field(min_length=1, max_length=80)
    summary: str = Field(min_length=1)
    family: str = ""
    change: tuple[Edit, ...] = Field(min_length=1)
    gain: float = Field(default=0.0, allow_inf_nan=False)

    @model_serializer(mode="wrap")
    def _without_no_gain(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # A catalogue without expectations stays what it was in the record of earlier runs.
        return {name: value for name, value in dump(self).items() if name != "gain" or value}


class Playbook(Frozen):
    """The catalogue: each ``edit`` under its own name, in the order of the file."""

    edit: tuple[Entry, ...]

    @model_validator(mode="after")
    def _names_are_unique(self) -> Playbook:
        names = [entry.name for entry in self.edit]
        if doubled := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two edits are named {', '.join(doubled)}")
        return self

    @classmethod
    def from_toml(cls, path: Path) -> Playbook:
        """Read a catalogue; UsageError with file and place where it is malformed."""
        try:
            return cls.parse(path.read_bytes(), path)
        except OSError as error:
            raise UsageError(f"{path}: cannot be read: {error.strerror}") from None

    @classmethod
    def in_folder(cls, folder: Path) -> Playbook | None:
        """The catalogue of a folder that the user handed over, if it has one; it may be no link."""
        try:
            return cls.parse(read_file(folder, PLAYBOOK), folder / PLAYBOOK)
        except FileNotFoundError:
            return None

    @classmethod
    def parse(cls, content: bytes, path: Path) -> Playbook:
        """The catalogue that a file holds; UsageError, with file and place, where it is malformed."""
        try:
            return cls.model_validate(tomllib.loads(content.decode("utf-8-sig")))
        except ValidationError as error:
            wrong = faults(error, {"edit", *Entry.model_fields, *Replace.model_fields, *Write.model_fields})
            end = "; each is a table [[edit]]" if wrong[:5] in ("edit:", "edit=") else ""
            raise UsageError(f"{path}: {wrong.removeprefix('settings: ')}{end}") from None
        except (ValueError, RecursionError) as error:  # not TOML, not UTF-8, or deeper than Python reads
            raise UsageError(f"{path}: not a TOML file: {error}") from None
