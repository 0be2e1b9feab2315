"""A catalogue of edits is read from TOML; where it is malformed, file and place are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from sia_core.errors import UsageError
from sia_core.harness import Delete, Replace, Write
from sia_core.playbook import Playbook

GOOD = """
[[edit]]
name = "svc"
family = "classifier"
summary = "a linear machine"
[[edit.change]]
op = "replace"
path = "harness.py"
old = "a"
new = "b"
[[edit.change]]
op = "write"
path = "new.py"
text = "条"
[[edit.change]]
op = "delete"
path = "old.py"

[[edit]]
name = "bayes"
summary = "naive"
change = [{op = "delete", path = "x"}]
"""


def read(tmp_path: Path, text: str | bytes) -> Playbook:
    path = tmp_path / "playbook.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return Playbook.from_toml(path)


def test_edits_are_read_in_the_order_of_the_file(tmp_path: Path) -> None:
    svc, bayes = read(tmp_path, GOOD).edit
    assert (svc.name, svc.family, bayes.name, bayes.family) == ("svc", "classifier", "bayes", "")
    replace, write = Replace(path="harness.py", old="a", new="b"), Write(path="new.py", text="条")
    assert svc.change == (replace, write, Delete(path="old.py"))


EDIT = '[[edit]]\nname = "n"\nsummary = "s"\n'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[[edit]", "not a TOML file: "),
        (b"\xff", "not a TOML file: "),
        ("x = " + "[" * 5000, "not a TOML file: "),
        ("x = " + "9" * 5000, "not a TOML file: "),
        ("", "edit: it is missing; each is a table [[edit]]"),
        (
            "[[edits]]\nname = 'n'\n[[edit.change]]\nop = 'delete'",
            "there is no such setting (did you mean 'edit'?); each is a table [[edit]]",
        ),
        (EDIT, "edit 1, change: it is missing"),
        (EDIT + "change = []", "edit 1, change: "),
        (EDIT + "change = [{op = 'rename', path = 'a'}]", "op is rename, and must be one of replace, write, delete"),
        (
            EDIT + "change = [{op = 'replce', path = 'a'}]",
            "edit 1, change 1: op is replce, and must be one of replace, write, delete (did you mean 'replace'?)",
        ),
        (
            EDIT + "change = [{path = 'a'}]",
            "edit 1, change 1: op is missing, and must be one of replace, write, delete",
        ),
        (EDIT + "change = [{op = 'write', path = 'a'}]", "edit 1, change 1, write, text: it is missing"),
        (EDIT + "change = [{op = 'replace', path = 'a', old = '', new = 'b'}]", "edit 1, change 1, replace, old"),
        (
            EDIT + "famly = 'a'\nchange = [{op = 'delete', path = 'a'}]",
            "edit 1, famly: there is no such setting (did you mean 'family'?)",
        ),
        (EDIT + "change = [{op = 'write', path = 'a', text = '', old = 'a'}]", "write, old: there is no such setting"),
        (EDIT + "change = 'x'", "edit 1, change=x: should be a list"),
        (GOOD + GOOD, "playbook.toml: two edits are named bayes, svc"),
    ],
    ids=lambda value: ascii(value)[-30:],
)
def test_a_malformed_catalogue_names_file_and_place(tmp_path: Path, text: str | bytes, says: str) -> None:
    with pytest.raises(UsageError) as raised:
        read(tmp_path, text)
    assert str(tmp_path / "playbook.toml") in str(raised.value)
    assert says in str(raised.value)
    assert "pydantic" not in str(raised.value)


def test_a_catalogue_that_cannot_be_opened_says_why(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read: No such file or directory"):
        Playbook.from_toml(tmp_path / "nowhere.toml")
    with pytest.raises(UsageError, match="cannot be read: Is a directory"):
        Playbook.from_toml(tmp_path)
