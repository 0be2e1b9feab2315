"""Rows as cases: lists of mappings, data frames, data sets, and the rows of files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sia_adapters.adapted import plain
from sia_core.errors import UsageError
from sia_core.types import Split

BESIDE = ("answer", "id", "split")
"""Columns that are no part of the input where a row has no ``input``."""

SPLIT_NAMES: Mapping[str, Split] = {
    "public": "public",
    "search": "search",
    "train": "search",
    "training": "search",
    "gate": "gate",
    "validation": "gate",
    "valid": "gate",
    "val": "gate",
    "dev": "gate",
    "sealed": "sealed",
    "test": "sealed",
}
"""The split that each name stands for, in small letters."""

_SHAPE = 'a case is an object such as {"input": ..., "answer": ...}'


@dataclass(frozen=True)
class Columns:
    """The columns that hold a case's input and its answer; empty for those that are called so."""

    input: str = ""
    answer: str = ""


USUAL = Columns()


def cases_of(data: Any, columns: Columns = USUAL) -> str:
    """The cases as JSON Lines: of each row its ``input`` and ``answer``, and its ``id`` and ``split`` if it has them.

    A row without ``input`` has its other columns as one. ``data`` is a list of mappings, a frame of
    pandas or polars, a data set of Hugging Face, or a mapping of these by the names of splits.
    """
    rows = enumerate(_rows(data))
    return "".join(line_of(case_of(row, columns, f"data, row {n}"), f"data, row {n}") + "\n" for n, row in rows)


def case_of(row: Any, columns: Columns, where: str) -> dict[str, Any]:
    """A row's ``input`` and ``answer``, and its ``id`` and ``split`` if it has them."""
    if not isinstance(row, Mapping):
        raise UsageError(f"{where}: a {type(row).__name__}; {_SHAPE}")
    try:
        fields = {str(name): plain(value) for name, value in row.items()}
    except RecursionError:
        raise UsageError(f"{where}: it is nested too deeply, or holds itself; leave the row out") from None
    answer = columns.answer or "answer"
    for column, option in ((answer, "answer"), (columns.input, "input")):
        if column and column not in fields:
            raise UsageError(
                f"{where}: no `{column}` among {_listed(row)}; name the column with the {option} by "
                f"--{option}-column NAME (from Python: config={{'{option}-column': NAME}}); {_SHAPE}"
            )
    if columns.input or "input" in fields:
        question = fields[columns.input or "input"]
    elif not (question := {name: value for name, value in fields.items() if name not in (*BESIDE, answer)}):
        raise UsageError(f"{where}: no input among {_listed(row)}; {_SHAPE}")
    beside = {name: fields[name] for name in ("id", "split") if fields.get(name) is not None}
    return {"input": question, "answer": fields[answer], **beside}


def line_of(case: Mapping[str, Any], where: str) -> str:
    """A case as JSON; UsageError where it holds anything else."""
    try:
        line = json.dumps(case, ensure_ascii=False, allow_nan=False)
        line.encode()
        return line
    except UnicodeEncodeError:
        raise UsageError(f"{where}: it holds half of a character (of a surrogate pair); leave the row out") from None
    except ValueError as error:
        reason = "it holds a NaN or an infinity, which JSON has not" if "float" in str(error) else str(error)
        raise UsageError(f"{where}: {reason}; leave such rows out (of a frame: dropna())") from None
    except TypeError as error:
        raise UsageError(f"{where}: {error}; make it a text, a number, a list or a mapping first") from None


def by_split(data: Mapping[Any, Any], where: str = "data") -> Iterator[Mapping[str, Any]]:
    """The rows of a mapping from the names of splits; UsageError where it is none."""
    if not data or not all(str(name).casefold() in SPLIT_NAMES for name in data):
        raise UsageError(
            f"{where} is one mapping, of {_listed(data)}; give the list of rows alone, or a list for each of the "
            "splits train, validation and test"
        )
    for name, part in data.items():
        for row in _rows(part):
            yield {**row, "split": str(name)} if isinstance(row, Mapping) else row


def _rows(data: Any) -> Iterable[Any]:
    if hasattr(data, "to_dicts"):  # polars
        rows: Iterable[Any] = data.to_dicts()
    elif hasattr(data, "to_dict") and hasattr(data, "columns"):  # pandas
        rows = data.to_dict("records")
    elif isinstance(data, Mapping):
        rows = by_split(data)
    elif isinstance(data, Iterable):
        rows = data
    else:
        raise UsageError(
            f"data is of type {type(data).__name__}; give a path, a list of mappings, a frame or a data set"
        )
    return rows


def _listed(row: Mapping[Any, Any]) -> str:
    return ", ".join(f"`{name}`" for name in row) or "no columns"
