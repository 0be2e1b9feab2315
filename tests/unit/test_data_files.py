"""Cases come from the files that people have; a file that holds none is refused with what to do."""

from __future__ import annotations

import datetime
import gzip
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from sia_adapters.cases_of import USUAL, Columns
from sia_cli import main
from sia_core.errors import UsageError
from sia_runtime import data_files
from sia_runtime.builtin_verifiers import Numeric
from sia_runtime.cases import Cases, read_cases
from sia_runtime.data_files import rows_in

pytestmark = pytest.mark.usefixtures("own_cache")

ROWS: list[dict[str, Any]] = [{"input": f"say {number}", "answer": number} for number in range(8)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
CSV = b"input,answer\n" + b"".join(f'"say {row["answer"]}",{row["answer"]}\n'.encode() for row in ROWS)


def parquet(rows: list[dict[str, Any]]) -> bytes:
    """Rows as a Parquet file."""
    pyarrow = pytest.importorskip("pyarrow")
    file = io.BytesIO()
    pytest.importorskip("pyarrow.parquet").write_table(pyarrow.Table.from_pylist(rows), file)
    return file.getvalue()


def write(folder: Path, name: str, content: bytes | str) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def pairs(path: Path, columns: Columns = USUAL) -> list[tuple[Any, Any]]:
    return [(case.input, case.answer) for case in read_cases(path, columns)]


EXPECTED = [({"text": row["input"]}, row["answer"]) for row in ROWS]


# Kinds of files


@pytest.mark.parametrize("zipped", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("cases.jsonl", LINES),
        ("cases.json", LINES),
        ("cases.json", json.dumps(ROWS, indent=2).encode()),
        ("cases", json.dumps(ROWS).encode()),
        ("cases.csv", CSV),
        ("cases.csv", b"\xef\xbb\xbf" + CSV.replace(b"\n", b"\r\n")),
        ("cases.csv", CSV.replace(b",", b";")),
        ("cases.csv", b"sep=;\r\n" + CSV.replace(b",", b";")),
        ("cases.csv", CSV.replace(b"\n", b"\r")),
        ("cases.csv", CSV.replace(b"\n", b"\n  \n")),
        ("cases.tsv", CSV.replace(b",", b"\t")),
        ("cases.txt", CSV),
    ],
)
def test_the_same_cases_come_from_any_kind_of_file(tmp_path: Path, name: str, content: bytes, zipped: bool) -> None:
    path = write(tmp_path, name + ".gz" * zipped, gzip.compress(content, mtime=0) if zipped else content)
    assert pairs(path) == EXPECTED


def test_a_parquet_file_has_cases_and_its_dates_are_texts(tmp_path: Path) -> None:
    assert pairs(write(tmp_path, "cases.parquet", parquet(ROWS))) == EXPECTED
    dated = [{**row, "answer": datetime.date(2024, 1, row["answer"] + 1)} for row in ROWS]
    assert pairs(write(tmp_path, "dated.parquet", parquet(dated)))[1][1] == "2024-01-02"


def test_without_its_library_a_parquet_file_is_refused_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(UsageError, match=r"takes pyarrow: pip install 'sia-runtime\[parquet\]', or save it as CSV"):
        read_cases(write(tmp_path, "cases.parquet", b"PAR1 and so on"))


def test_a_json_object_of_splits_is_the_cases_of_each(tmp_path: Path) -> None:
    whole = {"train": ROWS[:3], "validation": ROWS[3:6], "test": ROWS[6:]}
    cases = read_cases(write(tmp_path, "cases.json", json.dumps(whole)))
    assert [case.split for case in cases] == ["search"] * 3 + ["gate"] * 3 + ["sealed"] * 2


@pytest.mark.parametrize(("cell", "value"), [(".5", 0.5), ("5.", 5.0), ("1e3", 1000.0), ("-.5e1", -5.0)])
def test_a_cell_is_a_number_as_spreadsheets_write_it(tmp_path: Path, cell: str, value: float) -> None:
    assert pairs(write(tmp_path, "cases.csv", CSV + f"more,{cell}\n".encode()))[-1][1] == value


def test_answers_of_which_some_are_numbers_are_texts(tmp_path: Path) -> None:
    text = "input,answer\n" + "".join(f"say {n},{n if n % 2 else 'none'}\n" for n in range(8))
    assert [answer for _, answer in pairs(write(tmp_path, "cases.csv", text))][:2] == ["none", "1"]


# Columns


def test_columns_are_named_by_options(tmp_path: Path) -> None:
    path = write(tmp_path, "cases.csv", CSV.replace(b"input,answer", b"text,label"))
    assert pairs(path, Columns("text", "label")) == EXPECTED
    assert pairs(path, Columns(answer="label"))[0] == ({"text": "say 0"}, 0)


def test_columns_beside_the_answer_are_the_input_of_a_row_without_one(tmp_path: Path) -> None:
    rows = "".join(f"{n},{n}.5,true,007,yes\n" for n in range(8))
    path = write(tmp_path, "cases.csv", f"a,b,c,d,answer\n{rows}")
    assert pairs(path)[3] == ({"a": 3, "b": 3.5, "c": True, "d": "007"}, "yes")


def test_a_cell_may_hold_line_breaks_delimiters_and_quotes_and_be_long(tmp_path: Path) -> None:
    cell = "x" * 200_000
    path = write(tmp_path, "cases.csv", CSV + f'"a ""b"",\nc",9\n"{cell}",10\n'.encode())
    assert pairs(path)[8:] == [({"text": 'a "b",\nc'}, 9), ({"text": cell}, 10)]


@pytest.mark.parametrize(
    ("name", "split"),
    [("train", "search"), ("Validation", "gate"), ("dev", "gate"), ("test", "sealed"), ("public", "public")],
)
def test_the_names_of_splits_that_others_use_are_understood(tmp_path: Path, name: str, split: str) -> None:
    text = "input,answer,split\n" + "".join(f"say {n},{n},{name}\n" for n in range(8))
    assert {case.split for case in read_cases(write(tmp_path, "cases.csv", text))} == {split}


def test_a_blank_split_is_none_and_a_split_that_is_missing_is_named_with_what_to_do(tmp_path: Path) -> None:
    harness = tmp_path / "agent"
    harness.mkdir()
    text = "input,answer,split\n" + "".join(f"say {n},{n},{'train' if n % 2 else 'test'}\n" for n in range(8))
    with pytest.raises(UsageError, match=r"no case is in the split 'gate', which may be called 'validation'; put some"):
        Cases(str(write(tmp_path, "cases.csv", text)), str(harness)).instances("search")
    blank = write(tmp_path, "blank.csv", text.replace("train", "").replace("test", ""))
    assert len(Cases(str(blank), str(harness)).instances("gate")) == 2


def test_the_verifier_reads_the_cases_of_the_file_and_names_its_lines(tmp_path: Path) -> None:
    (tmp_path / "agent").mkdir()
    path = write(tmp_path, "cases.csv", CSV.replace(b",5\n", b",five\n"))
    task = Cases(str(path), str(tmp_path / "agent"))
    assert read_cases(Path(task.verifier.settings["data"])) == read_cases(path)
    with pytest.raises(UsageError, match=r"--data, line 7: the answer is no number"):
        Numeric(task.verifier.settings["data"])


# Refusals


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("cases.csv", CSV.replace(b"answer", b"label", 1), "line 2: no `answer` among `input`, `label`; name"),
        ("cases.csv", CSV + b"a,b,c\n", 'line 10: 3 cells, and the first line names 2; put quotes around a cell'),
        ("cases.csv", CSV + b'"a,1\n', "line 10: not CSV: "),
        ("cases.csv", CSV + b"a,\n", "line 10: no answer; give one, or leave the row out"),
        ("cases.csv", CSV.replace(b"input,", b"answer,", 1), "line 1: two columns are named answer; give each"),
        ("cases.csv", b"," + CSV.replace(b"\n", b"\n0,"), "line 1: column 1 has no name; name it, or leave it out"),
        ("cases.csv", CSV + b"a\n", "line 10: 1 cell, and the first line names 2"),
        ("cases.csv", CSV + b"a,1\nb,2\nc,n/a\n", "line 12: the answer 'n/a' is no number as JSON writes it, so"),
        ("cases.csv", b"", "it is empty; give CSV, JSON Lines, a JSON array, or Parquet"),
        ("cases.csv", b"answer\n" + b"1\n" * 8, "line 2: no input among `answer`; a case is an object such as"),
        ("cases.jsonl", CSV, "line 1: not JSON"),
        ("cases.jsonl", CSV, "(char 0); each line is one JSON object"),
        ("cases.jsonl", b'{"text": "a", "label": 1}\n', "line 1: no `answer` among `text`, `label`; name the column"),
        ("cases.json", b'{"data": []}', "cases.json is one mapping, of `data`; give the list of rows alone"),
        ("cases.json", json.dumps(ROWS).encode()[:-3], "not JSON: "),
        ("cases.json", json.dumps([*ROWS, 3]).encode(), "row 9: a int; a case is an object such as"),
        ("cases.json", json.dumps([*ROWS, ROWS[0]]).encode(), "row 9: the same input as in row 1;"),
        ("cases.xlsx", b"PK\x03\x04...", "an Excel workbook, or another zip archive; give CSV"),
        ("cases.gz", gzip.compress(LINES, mtime=0)[:-9], "a gzip file that is damaged or not whole"),
        ("cases.gz", b"\x1f\x8b not gzip", "a gzip file that is damaged or not whole"),
        ("cases.csv", CSV.decode().encode("utf-16"), "not UTF-8 at byte 0; save it as UTF-8"),
    ],
)  # fmt: skip
def test_a_file_without_cases_is_refused_with_its_place_and_what_to_do(
    tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    with pytest.raises(UsageError) as raised:
        read_cases(write(tmp_path, name, content))
    assert says in str(raised.value)
    assert raised.value.exit_code == 2


def test_a_parquet_file_whose_rows_share_a_large_value_is_measured_by_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few kilobytes may hold a value of megabytes, once, and a thousand rows that refer to it."""
    pyarrow, file = pytest.importorskip("pyarrow"), io.BytesIO()
    texts = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 500), pyarrow.array(["x" * 100]))
    pytest.importorskip("pyarrow.parquet").write_table(pyarrow.table({"input": texts, "answer": texts}), file)
    assert len(list(rows_in(file.getvalue(), "cases.parquet", "--data"))) == 500
    monkeypatch.setattr(data_files, "MOST_BYTES", 50_000)
    with pytest.raises(UsageError, match="more than 50,000 bytes once it is unpacked"):
        rows_in(file.getvalue(), "cases.parquet", "--data")


def test_a_parquet_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    with pytest.raises(UsageError, match="a Parquet file that cannot be read: "):
        read_cases(write(tmp_path, "cases.parquet", b"PAR1 and no more"))


def test_a_small_file_that_unzips_to_a_large_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_files, "MOST_BYTES", 1000)
    with pytest.raises(UsageError, match="more than 1,000 bytes once it is unzipped"):
        read_cases(write(tmp_path, "cases.jsonl.gz", gzip.compress(bytes(5000), mtime=0)))


def test_columns_are_for_cases_of_ones_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--plugin", "lawbench", "--answer-column", "x"]) == 2
    assert "--input-column and --answer-column are for the cases of your own agent" in capsys.readouterr().err
    assert main(["run", "--harness", "x", "--data", "y", "--set", "answer_column=z"]) == 2
    assert "give it as --answer-column" in capsys.readouterr().err
