"""Parsing, repetitions and splits."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path

import pytest

from sia_core.errors import UsageError
from sia_lawbench.data import SHARES, Case, Data, case_id, share_out
from sia_lawbench.source import CHARGES, TEST, TRAIN, locate
from sia_lawbench.task import LawBench

Write = Callable[[Mapping[str, bytes]], Path]


def cases_of(data: Data) -> list[Case]:
    return [case for cases in data.labelled.values() for case in cases]


def read(folder: Path, seed: int = 0) -> Data:
    return Data(locate(str(folder)), seed)


def test_splits_are_disjoint_and_hold_every_case(folder: Path) -> None:
    data = read(folder)
    ids = [case.id for case in cases_of(data)] + [question.id for question in data.sealed]
    assert len(ids) == len(set(ids)) == 6 * 20 + 6 * 3
    assert {split: len(cases) for split, cases in data.labelled.items()} == {"public": 48, "search": 42, "gate": 30}


def test_each_split_gets_its_share_of_each_charge(folder: Path) -> None:
    for split, cases in read(folder).labelled.items():
        assert set(Counter(case.charge for case in cases).values()) == {SHARES[split]}


def test_a_charge_with_few_cases_has_one_in_public() -> None:
    dealt = share_out([Case(case_id(str(n)), str(n), f"charge {n // 2}") for n in range(40)], seed=0)
    assert Counter(case.charge for split, case in dealt if split == "public").keys() == {c.charge for _, c in dealt}


def test_splits_depend_on_the_seed_alone(folder: Path) -> None:
    assert read(folder, seed=3).labelled == read(folder, seed=3).labelled
    assert read(folder, seed=3).labelled != read(folder, seed=4).labelled


def test_neither_id_nor_order_tells_the_charge(folder: Path) -> None:
    data = read(folder)
    for case in cases_of(data):
        assert case.id == case_id(case.text)
    for cases in data.labelled.values():
        assert [case.id for case in cases] == sorted(case.id for case in cases)
        charges = [case.charge for case in cases]
        neighbours = sum(a == b for a, b in pairwise(charges))
        assert neighbours < len(charges) / 2  # sorted by charge, all but five would be alike


def test_a_case_that_repeats_a_sealed_one_is_dropped(files: dict[str, bytes], write: Write) -> None:
    first_sealed = read(write(files)).sealed[0].text
    repeated = first_sealed.replace("，", " ,\u3000").replace("。", "")
    files[TRAIN] += f'9000,"{repeated}",盗窃\r\n'.encode()
    data = read(write(files))
    assert repeated not in {case.text for case in cases_of(data)}
    assert len(cases_of(data)) == 120


def test_of_cases_that_repeat_one_another_one_is_kept(files: dict[str, bytes], write: Write) -> None:
    files[TRAIN] += '9001,被告人甲（男）盗窃电瓶１只。,盗窃\r\n9002,"被告人甲(男)盗窃电瓶1只 。",盗窃\r\n'.encode()
    texts = {case.text for case in cases_of(read(write(files)))}
    assert "被告人甲（男）盗窃电瓶１只。" in texts
    assert len(texts) == 121


def test_a_text_that_occurs_twice_among_the_sealed_has_two_ids(files: dict[str, bytes], write: Write) -> None:
    row = files[TEST].decode().splitlines()[1].removeprefix("0,")
    files[TEST] += f"999,{row}\r\n".encode()
    sealed = read(write(files)).sealed
    assert len({question.id for question in sealed}) == len(sealed) == 19


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (TRAIN, b"id,text\r\n1,x\r\n", "no column 'label'; its first line is 'id,text'"),
        (TRAIN, b"", "no column 'text'"),
        (TRAIN, b"id,text,label\r\n", "it holds no case"),
        (TRAIN, b"id,text,label\r\n1,x\r\n", "line 2 has 2 fields, not 3"),
        (TRAIN, b'id,text,label\r\n1,"x', "unexpected end of data"),
        (TRAIN, b"id,text,label\r\n1,\xff,y\r\n", "can't decode byte 0xff"),
        (TRAIN, "id,text,label\r\n1,x,海盗\r\n".encode(), "case 1 has a label that is not in .*: '海盗'"),
        (TEST, b"id,label\r\n1,x\r\n", "no column 'text'"),
        (CHARGES, b"{}", "expected a list of names"),
        (CHARGES, b"[", "Expecting value"),
        (CHARGES, json.dumps(["a", "a"]).encode(), "a name occurs twice"),
    ],
)
def test_malformed_files_are_refused_with_place_and_remedy(
    name: str, content: bytes, message: str, files: dict[str, bytes], write: Write
) -> None:
    files[name] = content
    folder = write(files)
    with pytest.raises(UsageError, match=message) as caught:
        LawBench(str(folder)).instances("public")
    assert f"{name} in {folder} is malformed" in str(caught.value)
    assert "compare it with the file in the wheel" in str(caught.value)


@pytest.mark.real
def test_the_real_splits() -> None:
    data = Data(locate(None), seed=0)
    assert {split: len(cases) for split, cases in data.labelled.items()} == {
        "public": 2127,
        "search": 1842,
        "gate": 1314,
    }
    assert len(data.charges) == 191
    assert len(data.sealed) == 913
    assert {case.charge for case in data.labelled["public"]} == set(data.charges)
    ids = [case.id for case in cases_of(data)] + [question.id for question in data.sealed]
    assert len(set(ids)) == len(ids)
    assert not {case.text for case in cases_of(data)} & {question.text for question in data.sealed}
