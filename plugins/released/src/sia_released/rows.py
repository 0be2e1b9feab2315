"""Files whose rows have ids, and what is left of them for some of the ids."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


class Table(Protocol):
    """A file of rows."""

    @property
    def ids(self) -> tuple[str, ...]: ...

    def only(self, ids: Collection[str]) -> bytes:
        """The file with these rows alone, in its own format and order."""


@dataclass(frozen=True)
class Lines:
    """A CSV file: the header, and rows by id."""

    header: Sequence[str]
    rows: Mapping[str, Sequence[str]]

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(self.rows)

    def only(self, ids: Collection[str]) -> bytes:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(
            [self.header, *(self.rows[id] for id in self.rows if id in ids)]
        )
        return text.getvalue().encode()


@dataclass(frozen=True)
class Objects:
    """A JSON file: a list of objects, or one object whose keys are the ids. ``lines`` is JSON Lines."""

    rows: Mapping[str, Any]
    keyed: bool = False
    lines: bool = False

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(self.rows)

    def only(self, ids: Collection[str]) -> bytes:
        rows = {id: row for id, row in self.rows.items() if id in ids}
        if self.lines:
            return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows.values()).encode()
        return json.dumps(rows if self.keyed else list(rows.values()), ensure_ascii=False, indent=1).encode()


def table(name: str, content: bytes) -> Table | None:
    """The file as a table; None where it is none, or its rows have no ids."""
    try:
        text = content.decode("utf-8-sig")
        if name.endswith(".csv"):
            return _lines(list(csv.reader(io.StringIO(text, newline=""), strict=True)))
        if name.endswith(".jsonl"):
            return _objects([json.loads(line) for line in text.split("\n") if line.strip()], lines=True)
        if name.endswith(".json"):
            value = json.loads(text)
            return Objects(value, keyed=True) if isinstance(value, dict) else _objects(value)
    except (UnicodeDecodeError, ValueError, RecursionError, csv.Error):
        return None
    return None


def _lines(rows: list[list[str]]) -> Lines | None:
    header, *rest = [row for row in rows if row] or [[]]
    if not rest or any(len(row) != len(header) for row in rest):
        return None
    column = _named([name for name in header if len({row[header.index(name)] for row in rest}) == len(rest)])
    return Lines(header, {row[header.index(column)]: row for row in rest}) if column is not None else None


def _objects(value: Any, *, lines: bool = False) -> Objects | None:
    if not isinstance(value, list) or not value or not all(isinstance(row, dict) for row in value):
        return None
    keys = [key for key in value[0] if _unique(key, value)]
    key = _named(keys)
    return Objects({str(row[key]): row for row in value}, lines=lines) if key is not None else None


def _unique(key: str, rows: Iterable[Mapping[str, Any]]) -> bool:
    values = [row.get(key) for row in rows]
    return all(isinstance(value, str | int) for value in values) and len(set(map(str, values))) == len(values)


def _named(keys: Sequence[str]) -> str | None:
    """Which of the columns without repetition is the id: the one that says so."""
    names = [key for key in keys if key.lower() == "id"] or [key for key in keys if key.lower().endswith("id")]
    return next(iter(names or keys), None)
