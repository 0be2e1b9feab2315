"""Data in memory as a file of cases: lists of mappings, data frames, data sets."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from sia_adapters.adapted import plain
from sia_core.errors import UsageError

BESIDE = ("answer", "id", "split")
"""Columns that are no part of the input where a row has no ``input``."""


def cases_of(data: Any) -> str:
    """The cases as JSON Lines: of each row its ``input`` and ``answer``, and its ``id`` and ``split`` if it has them.

    A row without ``input`` has its other columns as one. ``data`` is a list of mappings, a frame of
    pandas or polars, or a data set of Hugging Face.
    """
    return "".join(_line(row, number) for number, row in enumerate(_rows(data)))


def _rows(data: Any) -> Iterable[Any]:
    if hasattr(data, "to_dicts"):  # polars
        rows: Iterable[Any] = data.to_dicts()
    elif hasattr(data, "to_dict") and hasattr(data, "columns"):  # pandas
        rows = data.to_dict("records")
    elif isinstance(data, Mapping):
        raise UsageError(f"data is one mapping, of {_listed(data)}; give a list of rows, or one part: data[...]")
    elif isinstance(data, Iterable):
        rows = data
    else:
        raise UsageError(f"data is a {type(data).__name__}; give a path, a list of mappings, a frame or a data set")
    return rows


def _line(row: Any, number: int) -> str:
    where = f"data, row {number}"
    if not isinstance(row, Mapping):
        raise UsageError(f'{where}: a {type(row).__name__}; a row is a mapping such as {{"input": ..., "answer": ...}}')
    told = {name: plain(value) for name, value in row.items()}
    if "answer" not in told:
        raise UsageError(
            f"{where}: no answer among {_listed(row)}; call the column with the truth `answer` "
            "(of a frame: data.rename(columns={...}))"
        )
    beside = {name: value for name, value in told.items() if name in BESIDE and (name == "answer" or value is not None)}
    given = told["input"] if "input" in told else {str(key): told[key] for key in told if key not in BESIDE}
    try:
        return json.dumps({"input": given, **beside}, ensure_ascii=False, allow_nan=False) + "\n"
    except ValueError:
        raise UsageError(
            f"{where}: it holds a NaN or an infinity, which JSON has not; leave such rows out (of a frame: dropna())"
        ) from None
    except TypeError as error:
        raise UsageError(f"{where}: {error}; make it a text, a number, a list or a mapping first") from None


def _listed(row: Mapping[Any, Any]) -> str:
    return ", ".join(f"`{name}`" for name in row) or "no columns"
