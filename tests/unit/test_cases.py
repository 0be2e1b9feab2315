"""A file of cases becomes a task with four disjoint splits; what is wrong in it is named by its line."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sia_core.errors import UsageError
from sia_core.types import Instance, Perturbs, Split, Task
from sia_runtime.cases import Case, Cases, read_cases

pytestmark = pytest.mark.usefixtures("own_cache")

SPLITS: tuple[Split, ...] = ("public", "search", "gate", "sealed")


def lines(n: int) -> list[str]:
    return [json.dumps({"input": {"x": index}, "answer": f"answer {index}"}) for index in range(n)]


def write(folder: Path, content: list[str] | str | bytes) -> Path:
    path = folder / "cases.jsonl"
    text = content if isinstance(content, str | bytes) else "".join(line + "\n" for line in content)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def task(folder: Path, content: list[str] | str, seed: int = 0) -> Cases:
    harness = folder / "my_agent"
    harness.mkdir(exist_ok=True)
    (harness / "harness.py").write_text("def solve(instance, ctx):\n    return 1\n")
    return Cases(str(write(folder, content)), str(harness), seed)


def ids(of: Cases) -> dict[str, list[str]]:
    return {split: [each.id for each in of.instances(split)] for split in SPLITS}


# Reading


def test_cases_are_read_in_the_order_of_the_lines(tmp_path: Path) -> None:
    first, *rest = lines(7)
    rows = [first, "", *rest, '{"id": "mine", "input": "a text", "answer": [1], "split": "gate", "more": 1}']
    cases = read_cases(write(tmp_path, rows))
    assert len(cases) == 8
    assert (cases[0].input, cases[0].answer, cases[0].split) == ({"x": 0}, "answer 0", None)
    assert cases[-1] == Case(cases[-1].id, "mine", {"text": "a text"}, [1], "gate", cases[-1].line)


def test_an_id_derives_from_the_input_alone(tmp_path: Path) -> None:
    rows = lines(8)
    other = [line.replace("answer ", "label ") for line in rows]
    assert [each.id for each in read_cases(write(tmp_path, rows))] == [
        each.id for each in read_cases(write(tmp_path, other))
    ]
    assert len({each.id for each in read_cases(write(tmp_path, rows))}) == 8


def test_the_users_own_id_is_kept_as_the_name_and_is_never_the_id(tmp_path: Path) -> None:
    rows = lines(9)
    named = [json.dumps({**json.loads(line), "id": f"theft-{index}"}) for index, line in enumerate(rows)]
    named[8] = json.dumps({**json.loads(rows[8]), "id": 7})
    with_names, without = (read_cases(write(tmp_path, each)) for each in (named, rows))
    assert [each.id for each in with_names] == [each.id for each in without]
    assert [each.name for each in with_names] == [*(f"theft-{index}" for index in range(8)), "7"]
    assert [each.name for each in without] == [each.id for each in without]


@pytest.mark.parametrize("text", ["\ufeff{0}", "{0}\r", "  {0} \t"], ids=["a byte order mark", "CRLF", "white space"])
def test_what_other_systems_write_around_lines_does_not_matter(tmp_path: Path, text: str) -> None:
    first, *rest = lines(8)
    assert len(read_cases(write(tmp_path, "\n".join([text.format(first), *rest])))) == 8


def test_u2028_in_a_text_ends_no_line(tmp_path: Path) -> None:
    odd = json.dumps({"input": "a\u2028b\x85c", "answer": "d\u2029"}, ensure_ascii=False)
    assert read_cases(write(tmp_path, [odd, *lines(8)]))[0].input == {"text": "a\u2028b\x85c"}


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "not JSON"),
        ('{"input": 1, "answer": NaN}', "NaN is not a number here"),
        ('{"input": 1, "input": 2, "answer": 3}', "the same key twice"),
        ('{"input": "\\ud800", "answer": 3}', "not Unicode"),
        ("[1, 2]", 'a case is an object such as {"input": ..., "answer": ...}'),
        ('{"input": 1}', "a case is an object such as"),
        ('{"answer": 1}', "a case is an object such as"),
        (
            '{"input": 1, "answer": 1, "split": "hidden"}',
            "split 'hidden' is none of public, search, gate, sealed, nor of train,",
        ),
        ('{"input": 1, "answer": 1, "split": ["gate"]}', "is none of public"),
        ('{"input": 1, "answer": 1, "id": {"a": 1}}', 'an id is a text or an integer, not {"a":1}'),
        ('{"input": 1, "answer": 1, "id": true}', "an id is a text or an integer, not true"),
        ('{"input": {"x": 1}, "answer": "another"}', "the same input as in line 2; a case must not be in two splits"),
        ('{"id": "mine", "input": {"x": 7}, "answer": "answer 7"}', "the same input as in line 8;"),
    ],
)
def test_a_malformed_line_is_named_by_its_number(tmp_path: Path, line: str, says: str) -> None:
    path = write(tmp_path, [*lines(8), "", line, *lines(1)])
    with pytest.raises(UsageError) as raised:
        read_cases(path)
    assert f"--data {path}, line 10: " in str(raised.value)
    assert says in str(raised.value)


def test_one_id_may_not_be_used_twice_also_as_text_and_number(tmp_path: Path) -> None:
    rows = ['{"id": 1, "input": "a", "answer": 1}', '{"id": "1", "input": "b", "answer": 1}']
    with pytest.raises(UsageError, match="line 2: the same id as in line 1;"):
        read_cases(write(tmp_path, [*rows, *lines(8)]))


@pytest.mark.parametrize("n", [0, 7])
def test_too_few_cases_are_counted(tmp_path: Path, n: int) -> None:
    with pytest.raises(UsageError, match=f"{n} cases; at least 8 are needed for four disjoint splits"):
        read_cases(write(tmp_path, lines(n)))


def test_a_file_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--data .*nowhere: No such file"):
        read_cases(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="is a folder; give a file"):
        read_cases(tmp_path)
    with pytest.raises(UsageError, match="not UTF-8 at byte 2"):
        read_cases(write(tmp_path, b"ab\xff"))


# Splits


@given(st.integers(8, 60), st.integers(0, 5))
def test_splits_are_disjoint_and_hold_every_case(tmp_path_factory: pytest.TempPathFactory, n: int, seed: int) -> None:
    folder = tmp_path_factory.mktemp("cases")
    dealt = ids(task(folder, lines(n), seed))
    together = [name for names in dealt.values() for name in names]
    assert len(together) == n
    assert len(set(together)) == n
    assert all(abs(len(names) - n / 4) <= 1 for names in dealt.values())


def test_splits_depend_on_content_and_seed_and_not_on_the_order_of_the_lines(tmp_path: Path) -> None:
    rows = lines(40)
    first = task(tmp_path, rows)
    dealt, fingerprint = ids(first), first.fingerprint
    random.Random(1).shuffle(rows)
    again = task(tmp_path, rows)
    assert ids(again) == dealt
    assert again.fingerprint == fingerprint
    other = task(tmp_path, rows, seed=1)
    assert ids(other) != dealt
    assert other.fingerprint != fingerprint


def test_the_fingerprint_changes_with_every_part_of_a_case(tmp_path: Path) -> None:
    rows = lines(8)
    changed = [
        '{"input": {"x": 0}, "answer": "another"}',
        '{"input": {"x": 99}, "answer": "answer 0"}',
        '{"id": "a", "input": {"x": 0}, "answer": "answer 0"}',
        '{"input": {"x": 0}, "answer": "answer 0", "split": "gate"}',
    ]
    prints = {
        task(tmp_path, each).fingerprint for each in (rows, [*lines(9)], *([line, *rows[1:]] for line in changed))
    }
    assert len(prints) == 6


def test_a_split_that_a_line_names_is_kept_and_the_rest_is_dealt_out(tmp_path: Path) -> None:
    named = [json.dumps({"id": split, "input": split, "answer": 1, "split": split}) for split in SPLITS]
    mine = task(tmp_path, [*named, *lines(8)])
    dealt = ids(mine)
    assert all({"text": split} in [each.input for each in mine.instances(split)] for split in SPLITS)
    assert {split: len(names) for split, names in dealt.items()} == dict.fromkeys(SPLITS, 3)


@pytest.mark.parametrize("missing", ["search", "gate", "sealed"])
def test_a_split_without_a_case_is_named(tmp_path: Path, missing: str) -> None:
    there = [split for split in SPLITS if split != missing]
    rows = [json.dumps({"input": index, "answer": 1, "split": there[index % 3]}) for index in range(9)]
    with pytest.raises(UsageError, match=f"no case is in the split '{missing}', which may be called"):
        task(tmp_path, rows).instances("search")


def test_there_may_be_no_public_case(tmp_path: Path) -> None:
    rows = [json.dumps({"input": index, "answer": 1, "split": SPLITS[1 + index % 3]}) for index in range(9)]
    assert task(tmp_path, rows).instances("public") == []


# What is handed out


def test_instances_hold_no_answer(tmp_path: Path) -> None:
    mine = task(tmp_path, lines(20))
    assert isinstance(mine, Task)
    for split in SPLITS:
        for instance in mine.instances(split):
            assert instance.split == split
            assert "answer" not in repr(instance)


@pytest.mark.parametrize("splits", [(), ("public",), ("public", "search", "gate"), ("gate", "gate")])
def test_the_public_folder_holds_the_splits_that_were_asked_for_and_no_other(
    tmp_path: Path, splits: tuple[Split, ...]
) -> None:
    mine = task(tmp_path, lines(20))
    folder = mine.public_dir(splits)
    assert [path.name for path in folder.iterdir()] == ["cases.jsonl"]
    rows: list[dict[str, Any]] = [json.loads(line) for line in (folder / "cases.jsonl").read_text().splitlines()]
    assert sorted(each["id"] for each in rows) == sorted(name for split in set(splits) for name in ids(mine)[split])
    assert all(each["answer"] == f"answer {each['input']['x']}" for each in rows)


def test_what_a_harness_is_shown_holds_the_digest_and_not_the_users_own_id(tmp_path: Path) -> None:
    named = [json.dumps({**json.loads(line), "id": f"theft-{n}"}) for n, line in enumerate(lines(20))]
    mine, plain = task(tmp_path, named), task(tmp_path, lines(20))
    assert ids(mine) == ids(plain)
    assert all("theft" not in repr(mine.instances(split)) for split in SPLITS)
    assert "theft" not in (mine.public_dir(("public", "search", "gate")) / "cases.jsonl").read_text()


def test_the_sealed_cases_are_never_in_a_public_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the sealed cases are for the report alone"):
        task(tmp_path, lines(20)).public_dir(("public", "sealed"))


def test_the_verifier_reads_a_copy_so_that_an_edited_file_changes_no_score(tmp_path: Path) -> None:
    mine = task(tmp_path, lines(8))
    copy = Path(mine.verifier.settings["data"])
    before = copy.read_bytes()
    assert read_cases(copy) == read_cases(tmp_path / "cases.jsonl")
    assert (tmp_path / "cache") in copy.parents
    write(tmp_path, lines(9))
    assert copy.read_bytes() == before
    assert task(tmp_path, lines(9)).verifier.settings["data"] != str(copy)


def test_the_same_folder_is_handed_out_again(tmp_path: Path) -> None:
    assert task(tmp_path, lines(20)).public_dir(("public",)) == task(tmp_path, lines(20)).public_dir(("public",))


def test_the_seed_harness_is_the_users_folder_without_the_playbook(tmp_path: Path) -> None:
    assert task(tmp_path, lines(8)).playbook() is None
    mine = task(tmp_path, lines(8))
    change = '[[edit]]\nname = "n"\nsummary = "s"\nchange = [{op = "write", path = "a", text = ""}]\n'
    (tmp_path / "my_agent" / "playbook.toml").write_text(change)
    assert set(mine.seed_harness().files) == {"harness.py"}
    book = mine.playbook()
    assert book is not None
    assert book.edit[0].name == "n"
    (tmp_path / "my_agent" / "playbook.toml").unlink()
    assert mine.playbook() == book  # as it was when it was first asked for


def test_the_brief_is_the_users_own_if_there_is_one(tmp_path: Path) -> None:
    assert "cases.jsonl" in task(tmp_path, lines(8)).brief
    mine = task(tmp_path, lines(8))
    (tmp_path / "my_agent" / "README.md").write_text("Name the charge.")
    assert mine.brief == "Name the charge."
    (tmp_path / "my_agent" / "README.md").write_text("Name the sentence.")
    assert mine.brief == "Name the charge."  # as it was when it was first read
    assert mine.name == "my_agent"


def test_another_guise_of_a_case_doubles_the_white_space_of_its_texts_and_changes_nothing_else(tmp_path: Path) -> None:
    cases = task(tmp_path, lines(8))
    assert isinstance(cases, Perturbs)
    instance = Instance("x", "sealed", {"text": "two plus three", "n": 2, "more": ["a b", {"key c": None}]})
    assert cases.perturbed(instance) == {
        "text": " two  plus  three ",
        "n": 2,
        "more": [" a  b ", {"key c": None}],
    }


@pytest.mark.parametrize("seconds", ["inf", "nan", "0", "-1", "1e999", "1e300", "soon"])
def test_a_limit_of_a_case_that_no_clock_can_count_is_refused(tmp_path: Path, seconds: str) -> None:
    cases = task(tmp_path, lines(9))
    with pytest.raises(UsageError, match=f"--set seconds={seconds}: .* is no time limit; give seconds"):
        Cases(str(tmp_path / "cases.jsonl"), str(tmp_path / cases.name), seconds=seconds)
