"""Harnesses are named by their content, and edits of them stay inside of their bounds."""

from __future__ import annotations

import ntpath
import posixpath
import random
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sia_core import harness
from sia_core.errors import HarnessError
from sia_core.harness import (
    MAX_BYTES,
    MAX_FILES,
    Delete,
    HarnessTree,
    Replace,
    Write,
    applies,
    apply_edits,
    check_path,
    unified_diff,
)

ENTRY = b"def solve(instance, ctx):\n    return 1\n"


def tree(files: Mapping[str, str | bytes] | None = None, **more: str) -> HarnessTree:
    contents = {"harness.py": ENTRY, **(files or {}), **more}
    return HarnessTree({path: text.encode() if isinstance(text, str) else text for path, text in contents.items()})


def fixing(pattern: str, files: Mapping[str, str]) -> HarnessTree:
    return tree({"harness.toml": f"fixed = ['{pattern}']\n", **files})


# Names


def test_equal_trees_have_one_name_however_they_were_made() -> None:
    assert tree({"a": "1", "b": "2"}).digest == tree({"b": "2", "a": "1"}).digest


@given(st.dictionaries(st.sampled_from("abc"), st.binary(max_size=3), max_size=3))
def test_the_name_changes_with_path_and_content(files: dict[str, bytes]) -> None:
    names = {HarnessTree(files).digest}
    names.add(HarnessTree({**files, "d": b""}).digest)
    names.update(HarnessTree({**files, path: content + b"x"}).digest for path, content in files.items())
    assert len(names) == 2 + len(files)


def test_a_file_by_another_name_gives_another_name() -> None:
    assert HarnessTree({"a": b"x"}).digest != HarnessTree({"b": b"x"}).digest
    assert HarnessTree({"a": b"x", "b": b"y"}).digest != HarnessTree({"a": b"y", "b": b"x"}).digest


def test_moving_bytes_from_one_file_to_the_next_gives_another_name() -> None:
    assert HarnessTree({"a": b"xy", "b": b""}).digest != HarnessTree({"a": b"x", "b": b"y"}).digest


# Paths

INSIDE = ["harness.py", "a/b/c.txt", "with space.md", ".hidden", "法律.json", "a-b_c+d,e;f=g.py", "a..b", "console"]
OUTSIDE = [
    *("", ".", "..", "/", "/etc/passwd", "../x", "a/../../x", "a/..", "a//b", "a/", "./a", "a/./b"),
    *(
        "C:",
        "C:\\x",
        "c:x",
        "\\\\host\\share",
        "a\\b",
        "..\\x",
        "a:stream",
        "nul",
        "CON.txt",
        "a/aux.py",
        "com1",
        "lpt¹.x",
    ),
    *(
        "a.",
        "a..",
        "a ",
        " a",
        "a /b",
        "a./b",
        "...",
        "a\0b",
        "a\nb",
        "a\tb",
        "a\x7fb",
        "a\x85b",
        "a\u2028b",
        "a\ud800b",
    ),
    *("a*", "a?", 'a"b', "a<b", "a|b", "\u202egnp.py", "x" * 201, "字" * 70),
]


@pytest.mark.parametrize("path", INSIDE)
def test_a_path_inside_of_the_tree_is_accepted(path: str) -> None:
    assert check_path(path) == path
    assert HarnessTree({path: b""}).digest


@pytest.mark.parametrize("path", OUTSIDE, ids=ascii)
def test_a_path_that_is_outside_somewhere_is_refused_everywhere(path: str) -> None:
    for refused in (lambda: check_path(path), lambda: HarnessTree({path: b""})):
        with pytest.raises(HarnessError, match="is not a path inside the harness"):
            refused()
    with pytest.raises(HarnessError, match="is not a path inside the harness"):
        apply_edits(tree(), [Write(path=path, text="")])


SEGMENTS = st.one_of(st.sampled_from(["..", "", "C:", "nul"]), st.text('.a:/\\ ~*"\0\x85\u2028\ud800é', max_size=4))


@given(st.lists(SEGMENTS, max_size=5).map("/".join) | st.lists(SEGMENTS, max_size=5).map("\\".join))
@example("a/..\\..\\..\\x")
def test_no_path_that_is_accepted_leaves_the_root_on_any_platform(path: str) -> None:
    try:
        check_path(path)
    except HarnessError:
        return
    assert posixpath.normpath(posixpath.join("/root", path)) == "/root/" + path
    joined = ntpath.normpath(ntpath.join("C:\\root", path))
    assert joined == "C:\\root\\" + path.replace("/", "\\")
    assert ntpath.splitdrive(path)[0] == ""
    assert not any(ntpath.basename(part).partition(".")[0].lower() in ("nul", "con") for part in path.split("/"))


def test_a_name_cannot_be_a_file_and_a_folder() -> None:
    with pytest.raises(HarnessError, match="'a/b' is a file and a folder at once"):
        tree({"a/b": "", "a/b/c": ""})


@pytest.mark.parametrize(
    ("one", "other"), [("a.py", "A.py"), ("é", "e\u0301"), ("lib/x", "Lib/y"), ("straße", "STRASSE")]
)
def test_two_names_that_some_machines_hold_for_one_are_refused(one: str, other: str) -> None:
    with pytest.raises(HarnessError, match="are one file on some machines"):
        tree({one: "", other: ""})


def test_a_tree_is_limited_in_files_and_bytes() -> None:
    tree({f"f{i}": b"" for i in range(MAX_FILES - 1)})
    with pytest.raises(HarnessError, match=f"at most {MAX_FILES} files; this one has {MAX_FILES + 1}"):
        tree({f"f{i}": b"" for i in range(MAX_FILES)})
    HarnessTree({"a": bytes(MAX_BYTES)})
    with pytest.raises(HarnessError, match="at most 8,388,608 bytes"):
        HarnessTree({"a": bytes(MAX_BYTES), "b": b"1"})


# Folders


def test_a_folder_is_read_and_written_alike(tmp_path: Path) -> None:
    whole = tree({"lib/deep/x.py": "x = '条'\n", "data.bin": b"\0\xff"})
    whole.write_to(tmp_path / "new" / "folder")
    assert HarnessTree.from_folder(tmp_path / "new" / "folder").digest == whole.digest


def test_what_python_and_git_leave_in_a_folder_is_no_part_of_it(tmp_path: Path) -> None:
    tree({".git/config": "", "__pycache__/a.pyc": "", "lib/__pycache__/b.pyc": "", ".venv/pyvenv.cfg": ""}).write_to(
        tmp_path
    )
    assert set(HarnessTree.from_folder(tmp_path).files) == {"harness.py"}


@pytest.mark.parametrize("target", ["harness.py", "/etc/hostname", "nowhere", "."])
def test_links_are_refused(tmp_path: Path, target: str) -> None:
    tree().write_to(tmp_path)
    (tmp_path / "link").symlink_to(target)
    with pytest.raises(HarnessError, match="link is a link; put the file that it points to in its place"):
        HarnessTree.from_folder(tmp_path)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match=r"nowhere: no such folder; a harness is a folder with"):
        HarnessTree.from_folder(tmp_path / "nowhere")


def test_a_folder_that_is_far_too_large_is_refused_before_it_is_read_to_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness, "MAX_BYTES", 100)
    for name in "abc":
        (tmp_path / name).write_bytes(bytes(60))
    (tmp_path / "link").symlink_to("a")  # is refused for another reason, if it is reached
    with pytest.raises(HarnessError, match=r"too large for a harness, which holds at most .* keep data elsewhere"):
        HarnessTree.from_folder(tmp_path)


# Manifests


def test_a_mark_of_the_order_of_bytes_is_no_part_of_a_manifest_or_of_what_is_ignored(tmp_path: Path) -> None:
    for name, text in {"a.py": "", "notes.txt": "", "harness.toml": 'entry = "a.py"', ".siaignore": "*.txt"}.items():
        (tmp_path / name).write_text(f"\ufeff{text}")
    tree = HarnessTree.from_folder(tmp_path)
    assert tree.manifest.entry == "a.py"
    assert "notes.txt" not in tree.files


def test_a_tree_without_manifest_has_the_defaults() -> None:
    manifest = tree().manifest
    assert (manifest.entry, manifest.requires, manifest.stateless, manifest.fixed) == ("harness.py", (), False, ())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("entry = ", "harness.toml: "),
        ("entry = 'other.py'", "the entry point 'other.py' is not in the harness; add it, or set entry"),
        ("entry = '../x.py'", "the entry point '../x.py' is not in the harness"),
        ("entri = 'harness.py'", "harness.toml: entri: "),
        ("requires = 'numpy'", "harness.toml: requires=numpy: should be a list"),
        (f"requires = ['numpy>={'9' * 5000}']", "harness.toml: requires 1"),
        (f"requires = {['numpy'] * 1000}", "harness.toml: requires"),
        ("x = " + "[" * 5000, "harness.toml: "),
        ("x = " + "9" * 5000, "harness.toml: "),
        ("x = 2020-99-99", "harness.toml: "),
        (b"\xff", "'harness.toml' is not a text file"),
    ],
    ids=lambda value: ascii(value)[:20],
)
def test_a_manifest_that_cannot_be_read_says_what_is_wrong(text: str | bytes, says: str) -> None:
    with pytest.raises(HarnessError) as raised:
        tree({"harness.toml": text}).manifest  # noqa: B018 - reads it
    assert says in str(raised.value)


# Edits


def test_edits_apply_in_order_and_leave_the_old_tree_as_it_was() -> None:
    before = tree({"a.txt": "one", "gone.txt": ""})
    edits = [Replace(path="a.txt", old="one", new="two"), Replace(path="a.txt", old="two", new="three")]
    after = apply_edits(before, [*edits, Write(path="new/b.txt", text="条"), Delete(path="gone.txt")])
    assert {path: after.text(path) for path in after.files if path != "harness.py"} == {
        "a.txt": "three",
        "new/b.txt": "条",
    }
    assert before.text("a.txt") == "one"
    assert set(before.files) == {"harness.py", "a.txt", "gone.txt"}


@pytest.mark.parametrize(
    ("text", "old", "count"),
    [
        ("x = 1\n", "y", "nowhere"),
        ("x x", "x", "twice"),
        ("x x x", "x", "3 times"),
        ("aaa", "aa", "twice"),
        ("", "a", "nowhere"),
    ],
)
def test_a_text_to_replace_must_occur_exactly_once(text: str, old: str, count: str) -> None:
    with pytest.raises(HarnessError, match=f"'a.txt': the text to replace occurs {count}; it must occur once"):
        apply_edits(tree({"a.txt": text}), [Replace(path="a.txt", old=old, new="z")])


@given(st.text("ab\n", max_size=12), st.text("ab\n", min_size=1, max_size=3), st.text("ab\n", max_size=3))
def test_a_replacement_changes_one_place_or_none(text: str, old: str, new: str) -> None:
    places = [i for i in range(len(text)) if text.startswith(old, i)]
    before = tree({"t": text})
    edit = Replace(path="t", old=old, new=new)
    if len(places) == 1:
        assert apply_edits(before, [edit]).text("t") == text[: places[0]] + new + text[places[0] + len(old) :]
    else:
        assert not applies(before, [edit])


def test_a_missing_file_is_named_with_the_one_that_is_near() -> None:
    for edit in (Replace(path="harnes.py", old="a", new="b"), Delete(path="harnes.py")):
        with pytest.raises(HarnessError, match=r"no file 'harnes\.py' in the harness \(did you mean 'harness\.py'\?\)"):
            apply_edits(tree(), [edit])


def test_a_binary_file_is_not_edited_as_text() -> None:
    with pytest.raises(HarnessError, match=r"'data\.bin' is not a text file"):
        apply_edits(tree({"data.bin": b"\xff"}), [Replace(path="data.bin", old="a", new="b")])


def test_a_text_that_is_no_unicode_is_refused() -> None:
    for edit in (Write(path="a.txt", text="ab\ud800"), Replace(path="b.txt", old="b", new="\udfff")):
        with pytest.raises(HarnessError, match="the new text is not Unicode at character"):
            apply_edits(tree({"b.txt": "b"}), [edit])


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("labels.json", "labels.json"),
        ("*.json", "deep/er/labels.json"),
        ("data", "data/labels.json"),
        ("data/", "data/deep/labels.json"),
        ("data/*", "data/labels.json"),
        ("harness.toml", "harness.toml"),
    ],
)
def test_what_is_fixed_is_neither_written_nor_replaced_nor_deleted(pattern: str, path: str) -> None:
    before = fixing(pattern, {} if path == "harness.toml" else {path: "fixed"})
    for edit in (Write(path=path, text="x"), Replace(path=path, old="fixed", new="x"), Delete(path=path)):
        with pytest.raises(HarnessError, match=f"{path!r} is fixed by this harness's manifest; leave it as it is"):
            apply_edits(before, [edit])


@pytest.mark.parametrize("path", ["labels.json/x", "LABELS.json", "Labels.JSON"])
def test_what_is_fixed_cannot_be_shadowed(path: str) -> None:
    assert not applies(fixing("labels.json", {"labels.json": "fixed"}), [Write(path=path, text="x")])


def test_no_edit_of_the_manifest_changes_what_is_fixed() -> None:
    before = fixing("labels.json", {"labels.json": "fixed"})
    for edit in (
        Delete(path="harness.toml"),
        Write(path="harness.toml", text=""),
        Write(path="harness.toml", text="fixed = []"),
        Write(path="harness.toml", text="fixed = ['labels.json', 'more']"),
        Replace(path="harness.toml", old="labels.json", new="labels.jsno"),
    ):
        with pytest.raises(HarnessError, match="an edit may not change what is fixed"):
            apply_edits(before, [edit, Write(path="other", text="")])


def test_the_first_edit_does_not_free_what_the_next_one_writes() -> None:
    before = fixing("labels.json", {"labels.json": "fixed"})
    freed = [Write(path="harness.toml", text="fixed = []"), Write(path="labels.json", text="mine")]
    restored = Write(path="harness.toml", text="fixed = ['labels.json']")
    assert not applies(before, [*freed, restored])


def test_the_rest_of_the_manifest_may_change() -> None:
    before = fixing("labels.json", {"labels.json": "fixed"})
    edit = Write(path="harness.toml", text="fixed = ['labels.json']\nstateless = true\n")
    assert apply_edits(before, [edit]).manifest.stateless


def test_an_edit_that_breaks_the_manifest_or_the_entry_point_is_refused() -> None:
    for edit in (
        Delete(path="harness.py"),
        Write(path="harness.toml", text="entry = ["),
        Write(path="harness.toml", text="="),
    ):
        assert not applies(tree(), [edit])


def test_an_edit_that_changes_nothing_does_not_apply() -> None:
    assert not applies(tree({"a": "1"}), [Write(path="a", text="1")])
    assert not applies(tree({"a": "1"}), [Write(path="a", text="2"), Write(path="a", text="1")])
    assert applies(tree({"a": "1"}), [Write(path="a", text="2")])


# Diffs


def patched(before: HarnessTree, diff: str, folder: Path) -> HarnessTree:
    before.write_to(folder)
    command = ["patch", "-p1", "--binary", "--quiet", "--no-backup-if-mismatch", "--force"]
    result = subprocess.run(command, cwd=folder, input=diff.encode(), capture_output=True, check=False)
    assert result.returncode == 0, (result.stdout, result.stderr, diff)
    return HarnessTree.from_folder(folder)


DIFFS: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "a line": ({"a": "1\n2\n3\n"}, {"a": "1\n!\n3\n"}),
    "a new file": ({}, {"lib/new.py": "x = 1\n"}),
    "a file that is gone": ({"lib/old.py": "x = 1\n"}, {}),
    "no newline before": ({"a": "1\n2"}, {"a": "1\n2\n"}),
    "no newline after": ({"a": "1\n2\n"}, {"a": "1\n2"}),
    "no newline at all": ({"a": "1"}, {"a": "2"}),
    "emptied": ({"a": "1\n"}, {"a": ""}),
    "filled": ({"a": ""}, {"a": "1\n"}),
    "an empty file that is new": ({}, {"lib/__init__.py": ""}),
    "an empty file that is gone": ({"lib/__init__.py": ""}, {}),
    "form feeds and their like": ({"a": "1\f2\x0b3\x854\u20285\n6\n"}, {"a": "1\f2\x0b3\x85!\u20285\n6\n"}),
    "carriage returns": ({"a": "1\r\n2\r3\r\n"}, {"a": "1\r\n!\r3\r\n"}),
    "a name with spaces": ({"my file.py": "1\n"}, {"my file.py": "2\n", "an other.py": "3\n"}),
    "far apart": ({"a": "".join(f"{i}\n" for i in range(50))}, {"a": "".join(f"{i}\n" for i in range(50) if i % 20)}),
    "lines like headers": ({"a": "-- a\n++ b\n"}, {"a": "++ b\n-- a\n@@ -1 +1 @@\n"}),
}


@pytest.mark.real
@pytest.mark.skipif(shutil.which("patch") is None, reason="needs patch")
@pytest.mark.parametrize("name", DIFFS)
def test_a_diff_is_what_patch_makes_of_the_old_tree_the_new_one_with(tmp_path: Path, name: str) -> None:
    before, after = (tree(files) for files in DIFFS[name])
    assert patched(before, unified_diff(before, after), tmp_path).digest == after.digest


def test_a_diff_of_equal_trees_is_empty_and_of_binary_files_a_remark() -> None:
    assert unified_diff(tree(), tree()) == ""
    assert unified_diff(tree({"x": b"\xff"}), tree({"x": b"\xfe"})) == "Binary files a/x and b/x differ\n"


def test_texts_that_would_take_hours_to_compare_are_not_compared_line_by_line() -> None:
    """A model, or somebody else's record, may have written them: a thousandth of the lines is each line's twin."""
    source = random.Random(0)
    one, other = ("".join(f"{source.randrange(110)}\n" for _ in range(100_000)).encode() for _ in range(2))
    assert unified_diff(tree({"x": one}), tree({"x": other})) == "Binary files a/x and b/x differ\n"
