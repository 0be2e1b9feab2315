"""Before a run starts, its user hears of files that were left out and of edits that can never be tried."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sia_cli.display import Display
from sia_cli.notices import MOST_TREES, notices, unfit
from sia_cli.price import print_price
from sia_core.errors import HarnessError
from sia_core.harness import LARGE_BYTES, HarnessTree
from sia_core.hookspecs import Event
from sia_core.playbook import Playbook
from sia_runtime.cases import Cases

pytestmark = pytest.mark.usefixtures("own_cache")

SEED = HarnessTree({"harness.py": b"a = 1\nb = 2\nb = 2\n"})


def catalogue(*changes: tuple[str, str]) -> Playbook:
    """Edits of harness.py by what they replace, each named by its place."""
    edits = [
        {"name": str(number), "summary": "s", "change": [{"op": "replace", "path": "harness.py", "old": o, "new": n}]}
        for number, (o, n) in enumerate(changes)
    ]
    return Playbook.model_validate({"edit": edits})


# Edits of a catalogue


@pytest.mark.parametrize(("old", "times"), [("a = 7", "nowhere"), ("b = 2", "twice"), ("\n", "3 times")])
def test_an_edit_that_can_never_be_tried_is_named_with_how_often_its_text_occurs(old: str, times: str) -> None:
    (notice,) = unfit(SEED, catalogue(("a = 1", "a = 3"), (old, "c")))
    assert notice == (
        f"playbook.toml: the edit '1' cannot be tried: 'harness.py': the text to replace occurs {times}; it must "
        "occur once; no other edit makes it apply"
    )


def test_an_edit_that_another_one_makes_apply_is_none_of_them() -> None:
    assert unfit(SEED, catalogue(("c = 4", "d"), ("a = 3", "c = 4"), ("a = 1", "a = 3"))) == []


def test_an_edit_that_changes_nothing_is_one_of_them() -> None:
    assert "it changes nothing" in unfit(SEED, catalogue(("a = 1", "a = 1")))[0]


def test_a_catalogue_of_many_edits_is_looked_at_for_a_while_and_says_so() -> None:
    many = HarnessTree({"harness.py": "".join(f"<{number}>" for number in range(40)).encode()})
    (notice,) = unfit(many, catalogue(*((f"<{number}>", "x") for number in range(40)), ("y", "z")))
    assert notice.endswith(f"it applies to none of the first {MOST_TREES} harnesses that other edits make")


# Files that are left out


@pytest.fixture
def agent(tmp_path: Path) -> Path:
    """A folder with an agent, a key, a cache and a model."""
    folder = tmp_path / "agent"
    (folder / ".cache").mkdir(parents=True)
    (folder / "models").mkdir()
    for name in (".env", ".cache/x", "harness.py", "notes.txt"):
        (folder / name).write_text("def solve(instance, ctx): ...\n")
    (folder / "models" / "big.bin").write_bytes(bytes(LARGE_BYTES + 1))
    return folder


def test_dotfiles_and_large_files_are_left_out_and_named(agent: Path) -> None:
    tree = HarnessTree.from_folder(agent)
    assert set(tree.files) == {"harness.py", "notes.txt"}
    assert tree.left_out == (".cache/", ".env", "models/big.bin (1.0 MB)")


@pytest.mark.parametrize(
    ("lines", "files", "named"),
    [
        ("!.env", {".env", "harness.py", "notes.txt"}, {".cache/", "models/big.bin (1.0 MB)"}),
        ("!*.bin\n", {"models/big.bin", "harness.py", "notes.txt"}, {".cache/", ".env"}),
        (".*\n*.bin", {"harness.py", "notes.txt"}, set()),
        ("# a comment\n\nnotes.*\n/models/\n", {"harness.py"}, {".cache/", ".env"}),
        ("models/*\n!models/big.bin", {"models/big.bin", "harness.py", "notes.txt"}, {".cache/", ".env"}),
        ("a/**/b\n**/notes.txt", {"harness.py"}, {".cache/", ".env", "models/big.bin (1.0 MB)"}),
        ("!models/", {"harness.py", "notes.txt"}, {".cache/", ".env", "models/big.bin (1.0 MB)"}),
        ("notes.txt/", {"harness.py", "notes.txt"}, {".cache/", ".env", "models/big.bin (1.0 MB)"}),
    ],
)
def test_a_siaignore_says_what_else_is_left_out_and_what_is_kept(
    agent: Path, lines: str, files: set[str], named: set[str]
) -> None:
    (agent / ".siaignore").write_text(lines)
    tree = HarnessTree.from_folder(agent)
    assert (set(tree.files), set(tree.left_out)) == (files, named)


def test_a_siaignore_that_is_no_text_or_a_link_is_refused(agent: Path) -> None:
    (agent / ".siaignore").write_bytes(b"\xff")
    with pytest.raises(HarnessError, match=r"\.siaignore: not UTF-8 at byte 0"):
        HarnessTree.from_folder(agent)
    (agent / ".siaignore").unlink()
    (agent / ".siaignore").symlink_to("/etc/hostname")
    with pytest.raises(HarnessError, match="is a link"):
        HarnessTree.from_folder(agent)


def test_an_entry_point_that_was_left_out_is_said_to_be(agent: Path) -> None:
    (agent / "harness.py").write_bytes(bytes(LARGE_BYTES + 1))
    with pytest.raises(HarnessError, match=r"'harness.py' is not in the harness.*left out of it: .*harness.py \(1.0"):
        HarnessTree.from_folder(agent).manifest.entry  # noqa: B018


# Where they are shown


@pytest.fixture
def task(agent: Path, tmp_path: Path) -> Cases:
    """The agent's task, whose catalogue has a slip."""
    cases = [json.dumps({"input": number, "answer": number}) + "\n" for number in range(8)]
    (tmp_path / "cases.jsonl").write_text("".join(cases))
    edit = '[[edit]]\nname = "x"\nsummary = "s"\n[[edit.change]]\nop = "replace"\npath = "harness.py"\n'
    (agent / "playbook.toml").write_text(edit + 'old = "def slove"\nnew = "def solve"\n')
    return Cases(str(tmp_path / "cases.jsonl"), str(agent))


def test_a_task_of_a_folder_has_a_notice_for_both(task: Cases) -> None:
    files, edit = notices(task)
    assert files.startswith("left out of the harness: .cache/, .env, models/big.bin (1.0 MB). A line in .siaignore")
    assert "the edit 'x' cannot be tried: 'harness.py': the text to replace occurs nowhere" in edit


def test_the_display_of_a_run_and_its_dry_run_show_them(capsys: pytest.CaptureFixture[str]) -> None:
    text = io.StringIO()
    display = Display(Console(file=text))
    about: dict[str, Any] = {"sandbox": {"name": "s", "lacks": []}, "gate": 8, "budget": {}, "generations": 1}
    display(Event("run.started", {"run": "r", **about, "notices": ["left out\nof it"]}))
    display.close()
    assert "left out of it" in text.getvalue()
    amounts = {"least": 1, "most": 2}
    counts: dict[str, Any] = dict.fromkeys(("candidate", "report", "robustness", "run"), amounts)
    print_price(
        {
            "task": "t",
            "sandbox": "s",
            "sandbox_lacks": [],
            "notices": ["left out\nof it"],
            "gate": {"n": 8, "smallest_gain": 0.1},
            "repeats": 1,
            "unit": "rollouts",
            "rollouts": {**counts, "first_agent": 1, "candidates": 1, "update": 0},
            "measured": {"rollouts": 1, "setup_seconds": 0.0, "seconds": 0.0, "tokens": 0, "memory": 0.0},
            "seconds": amounts,
            "tokens": None,
            "budget": {},
        }
    )
    assert "left out of it" in capsys.readouterr().out
