"""The rows of a data file: CSV, JSON Lines, a JSON array, Parquet, and gzip of these."""

from __future__ import annotations

import csv
import gzip
import importlib
import io
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from sia_adapters.cases_of import by_split
from sia_core.errors import UsageError
from sia_core.given_files import MOST_BYTES
from sia_runtime.answers import MAX_DIGITS, InvalidAnswer, strict_json

KINDS = "give CSV, JSON Lines, a JSON array, or Parquet"
LARGEST_CELL = 1 << 27

_WHOLE = re.compile(r"-?(0|[1-9][0-9]*)")
NUMBER = re.compile(r"-?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
_DELIMITERS = (",", ";", "\t", "|")
_SEPARATOR = re.compile(r"sep=([,;\t|])(?=\r|\n)", re.IGNORECASE)
"""The line by which a spreadsheet is told what separates cells."""


@dataclass(frozen=True)
class Row:
    """One row: its place in the file, ``line 3`` or ``row 3``, and its number there.

    ``of_csv`` rows cannot tell a value that is missing from a blank one.
    """

    place: str
    number: int
    value: Any
    of_csv: bool = False


def rows_in(content: bytes, name: str, where: str) -> Iterator[Row]:
    """The rows of a file by its content and name; UsageError, which begins with ``where``, says what to do."""
    if content.startswith(b"\x1f\x8b"):
        content, name = _unzipped(content, where), name.removesuffix(".gz")
    suffix = PurePath(name).suffix.lower()
    if content.startswith(b"PAR1"):
        return _numbered(_parquet(content, where))
    if content.startswith(b"PK\x03\x04"):
        raise UsageError(f"{where}: an Excel workbook, or another zip archive; {KINDS}")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{where}: not UTF-8 at byte {error.start}; save it as UTF-8, or {KINDS}") from None
    begin = text.lstrip()[:1]
    if suffix in (".csv", ".tsv") or (suffix not in (".jsonl", ".ndjson", ".json") and begin not in ("[", "{", "")):
        return _csv(text, "\t" if suffix == ".tsv" else "", where)
    if begin == "[":
        return _numbered(_array(text, where))
    if suffix == ".json" and (whole := _whole(text)) is not None:
        return _numbered(by_split(whole, where))
    return _lines(text, where)


def _unzipped(content: bytes, where: str) -> bytes:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
            data = file.read(MOST_BYTES + 1)
    except (OSError, EOFError, zlib.error):
        raise UsageError(f"{where}: a gzip file that is damaged or not whole") from None
    if len(data) > MOST_BYTES:
        raise UsageError(f"{where}: more than {MOST_BYTES:,} bytes once it is unzipped; give fewer rows")
    return data


def _numbered(rows: Iterator[Any] | Sequence[Any]) -> Iterator[Row]:
    return (Row(f"row {number}", number, value) for number, value in enumerate(rows, 1))


def _lines(text: str, where: str) -> Iterator[Row]:
    # Not str.splitlines: inside of JSON strings, U+2028 and its like end no line.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                value = strict_json(line)
            except InvalidAnswer as error:
                hint = "; each line is one JSON object" if "not JSON" in str(error) else ""
                raise UsageError(f"{where}, line {number}: {error}{hint}") from None
            yield Row(f"line {number}", number, value)


def _array(text: str, where: str) -> list[Any]:
    try:
        rows: list[Any] = strict_json(text)
    except InvalidAnswer as error:
        raise UsageError(f"{where}: {error}; it begins as a JSON array of rows") from None
    return rows


def _whole(text: str) -> Mapping[str, Any] | None:
    """The one object that a file is; None where it is none, such as one object a line."""
    try:
        value = strict_json(text)
    except InvalidAnswer:
        return None
    return value if isinstance(value, Mapping) and not {"input", "answer"} & value.keys() else None


def _parquet(content: bytes, where: str) -> list[Any]:
    try:
        pyarrow: Any = importlib.import_module("pyarrow")
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ModuleNotFoundError:
        raise UsageError(
            f"{where}: reading Parquet takes pyarrow: pip install 'sia-runtime[parquet]', or save it as CSV"
        ) from None
    try:
        file = parquet.ParquetFile(io.BytesIO(content))
        groups = [file.metadata.row_group(each).total_byte_size for each in range(file.metadata.num_row_groups)]
        room, rows = MOST_BYTES, list[Any]()
        plain = pyarrow.schema([each.with_type(_unpacked(each.type)) for each in file.schema_arrow])
        # A value that many rows share is there once, so a batch may be as large as its rows times all that is there.
        size = max(1, min(1024, MOST_BYTES // max([*groups, 1])))
        for batch in file.iter_batches(size, use_threads=False) if sum(groups) <= room else ():
            table = pyarrow.Table.from_batches([batch]).cast(plain)
            room -= table.nbytes
            if room < 0:
                break
            rows += table.to_pylist()
    except (OSError, ValueError) as error:  # pyarrow's errors are such
        raise UsageError(f"{where}: a Parquet file that cannot be read: {str(error)[:200]}") from None
    if room < 0 or sum(groups) > MOST_BYTES:
        raise UsageError(f"{where}: more than {MOST_BYTES:,} bytes once it is unpacked; give fewer rows")
    return rows


def _unpacked(kind: Any) -> Any:
    """The type of a column whose values stand in each row; ValueError for one that refers to them deeper inside."""
    kind = getattr(kind, "value_type", kind) if str(kind).startswith("dictionary<") else kind
    if "dictionary<" in str(kind):
        raise ValueError(f"a column of {kind}; write it without a dictionary")
    return kind


def _csv(text: str, delimiter: str, where: str) -> Iterator[Row]:
    """Rows by the names of the first line. A column of numbers, or of true and false, holds these, as in a frame."""
    if named := _SEPARATOR.match(text):
        delimiter, text = named[1], text[named.end(1) :]
    header = re.split(r"[\r\n]", re.sub(r'"[^"]*"', "", text.lstrip("\r\n")), maxsplit=1)[0]
    delimiter = delimiter or max(_DELIMITERS, key=header.count)
    table: list[tuple[int, list[str]]] = []
    with _wide_cells():
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        begin = 1
        try:
            for cells in reader:
                if len(cells) > 1 or (cells and cells[0].strip()):
                    table.append((begin, cells))
                begin = reader.line_num + 1
        except csv.Error as error:
            raise UsageError(f"{where}, line {begin}: not CSV: {error}; a cell with a quote doubles it") from None
    if not table:
        raise UsageError(f"{where}: it is empty; {KINDS}")
    (_, names), *rows = table
    names = [name.strip() for name in names]
    if "" in names:
        raise UsageError(
            f"{where}, line {table[0][0]}: column {names.index('') + 1} has no name; name it, or leave it out "
            "(an index, which pandas writes without a name, by to_csv(..., index=False))"
        )
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UsageError(f"{where}, line {table[0][0]}: two columns are named {twice}; give each another name")
    for number, cells in rows:
        if len(cells) != len(names):
            raise UsageError(
                f"{where}, line {number}: {len(cells)} cell{'s'[: len(cells) != 1]}, and the first line names "
                f"{len(names)}; "
                f'put quotes around a cell that holds a "{delimiter}"'
            )
    columns = [_typed(name, [cells[place] for _, cells in rows]) for place, name in enumerate(names)]
    values = zip(*columns, strict=True)
    for (number, _), cells_of_row in zip(rows, values, strict=True):
        yield Row(f"line {number}", number, dict(zip(names, cells_of_row, strict=True)), of_csv=True)


def _typed(name: str, cells: list[str]) -> list[Any]:
    """The cells of a column as numbers or booleans if all are such, blank ones as None; else as they stand."""
    values = [cell.strip() for cell in cells]
    filled = [cell for cell in values if cell]
    if name in ("id", "split"):
        return [cell or None for cell in values]
    if filled and all(_WHOLE.fullmatch(cell) and len(cell) <= MAX_DIGITS for cell in filled):
        return [int(cell) if cell else None for cell in values]
    if filled and all(NUMBER.fullmatch(cell) and abs(float(cell)) < float("inf") for cell in filled):
        return [float(cell) if cell else None for cell in values]
    if filled and all(cell.lower() in ("true", "false") for cell in filled):
        return [cell.lower() == "true" if cell else None for cell in values]
    return [*cells]


@contextmanager
def _wide_cells() -> Iterator[None]:
    """Cells longer than the library's limit, which holds for the whole process."""
    before = csv.field_size_limit(LARGEST_CELL)
    try:
        yield
    finally:
        csv.field_size_limit(before)
