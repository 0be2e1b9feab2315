"""The parts of an audit, each without a process: near duplicates, generated answers, verdicts."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, RootModel

from sia_audit.bench import FAILED, Judged, Tried
from sia_audit.findings import Finding, worst
from sia_audit.generate import HOLE, Generator, like, schema_of
from sia_audit.hostile import hostile_answers
from sia_audit.leaks import look_for_leaks
from sia_audit.measures import judge_failures, judge_headroom, measure_noise
from sia_audit.separation import FIRST, LABELLED, Group, Separation, judge_separation, labelled_answers
from sia_audit.similar import NEAR, Closest, Contained, Weights, essence, grams
from sia_cli import main
from sia_core.harness import HarnessTree
from sia_core.playbook import Playbook
from sia_core.run.plan import Plan, take_samples
from sia_core.types import LARGEST_REWARD, Instance, Metric, Split
from sia_runtime.answers import InvalidAnswer, read_answer
from sia_testing.fakes import FakeTask

# Near and exact duplicates

WORDS = [f"{a}{b}{c}" for a in "bdfgk" for b in "aeiou" for c in "lmnrst"]


def sentence(source: random.Random, length: int = 40) -> str:
    return " ".join(source.choices(WORDS, k=length))


def altered(text: str, source: random.Random, share: float) -> str:
    words = [source.choice(WORDS) if source.random() < share else word for word in text.split()]
    return " ".join(words)


def cosines(texts: Sequence[str], hidden: dict[str, str]) -> dict[tuple[int, str], float]:
    """Every pair's cosine, by the definition and nothing clever."""
    having: dict[str, int] = {}
    for text in texts:
        for gram in grams(text):
            having[gram] = having.get(gram, 0) + 1

    def vector(text: str) -> dict[str, float]:
        weighed = {
            gram: count * (1 + math.log((1 + len(texts)) / (1 + having[gram])))
            for gram, count in grams(text).items()
            if gram in having
        }
        length = math.sqrt(sum(weight**2 for weight in weighed.values()))
        return {gram: weight / length for gram, weight in weighed.items()}

    vectors = [vector(text) for text in texts]
    right = {name: vector(text) for name, text in hidden.items()}
    return {
        (at, name): sum(weight * two[gram] for gram, weight in one.items() if gram in two)
        for at, one in enumerate(vectors)
        for name, two in right.items()
    }


def test_near_duplicates_are_those_that_comparing_all_with_all_finds() -> None:
    source = random.Random(3)
    texts = [essence(sentence(source)) for _ in range(60)]
    hidden = {f"new {n}": essence(sentence(source)) for n in range(20)}
    for n, share in enumerate([0.0, 0.02, 0.05, 0.08, 0.1, 0.15, 0.2, 0.3, 0.5] * 3):
        text = sentence(source)
        texts.append(essence(text))
        hidden[f"altered {n}"] = essence(altered(text, source, share))
    expected = {pair: cosine for pair, cosine in cosines(texts, hidden).items() if cosine > NEAR}
    closest = Closest(hidden, Weights(texts))
    pairs = {(at, name): cosine for at, text in enumerate(texts) for name, cosine in closest.near(text).items()}
    assert pairs == pytest.approx(expected)
    assert 8 < len(expected) < 25


def test_texts_are_the_same_whatever_they_are_dressed_in() -> None:
    assert essence("Ａbc， １２。\n") == essence("abc 12") == "abc12"
    assert essence("⑴") == "1"


def test_a_hidden_text_is_found_whole_inside_of_another_one() -> None:
    source = random.Random(1)
    one, other = (essence(sentence(source)) for _ in range(2))
    contained = Contained({"one": one, "same start": one[:30] + other, "short": one[:20]})
    assert contained.inside("before" + one + "after") == {"one"}
    assert contained.inside(one[1:]) == set()
    assert contained.inside("x" + one[:30] + other) == {"same start"}


def test_a_crowd_of_hidden_texts_that_are_alike_is_not_missed_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sia_audit.similar.CROWD", 5)
    text = essence(sentence(random.Random(2)))
    closest = Closest({str(n): f"{text}{n}" for n in range(9)}, Weights([text]))
    assert len(closest.near(text)) == 5


# Leaks


class Planted(FakeTask):
    """A task of given inputs, public files and harness. It has no labels at all."""

    def __init__(self, folder: Path, inputs: dict[Split, list[Any]], **files: dict[str, Any]) -> None:
        super().__init__()
        self._inputs, self._folder = inputs, folder
        self._harness = files.get("harness", {})
        for name, content in files.get("public", {}).items():
            (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        self._catalogue = files.get("playbook")

    def instances(self, split: Split) -> Sequence[Instance]:
        return [
            Instance(f"{split}-{n}", split, each if isinstance(each, dict) else {"text": each})
            for n, each in enumerate(self._inputs.get(split, []))
        ]

    def public_dir(self, splits: Sequence[Split]) -> Path:
        assert splits == ("public",)
        return self._folder

    def seed_harness(self) -> HarnessTree:
        return HarnessTree({"harness.py": b"", **{name: text.encode() for name, text in self._harness.items()}})

    def playbook(self) -> Playbook | None:
        return Playbook.model_validate(self._catalogue) if self._catalogue else None


TEXTS = [sentence(random.Random(n)) for n in range(12)]
SPLITS: dict[Split, list[Any]] = {
    "public": TEXTS[:3],
    "search": TEXTS[3:6],
    "gate": TEXTS[6:9],
    "sealed": TEXTS[9:],
}
SHORT: dict[Split, list[Any]] = {split: [f"{split} case {n}" for n in range(3)] for split in SPLITS}


def leaks(task: Planted) -> dict[str, Finding]:
    findings, _ = look_for_leaks(task)
    return {each.about: each for each in findings if each.verdict != "ok"}


def test_a_task_without_leaks_is_called_so(tmp_path: Path) -> None:
    public = {"cases.jsonl": "".join(json.dumps({"input": each}) + "\n" for each in TEXTS[:3])}
    assert leaks(Planted(tmp_path, SPLITS, public=public)) == {}


@pytest.mark.parametrize(
    ("place", "files"),
    [
        ("public files", {"public": {"cases.jsonl": json.dumps({"question": TEXTS[10].upper(), "answer": 1})}}),
        ("public files", {"public": {"escaped.json": json.dumps([{"a": TEXTS[10].replace("a", "ａ")}])}}),
        ("public files", {"public": {"notes.md": "# Notes\n\nSeen:\n" + TEXTS[10].replace(" ", "\n")}}),
        ("public files", {"public": {"table.csv": f'id,text\n7,"{TEXTS[10]}, and more"\n'}}),
        ("first harness", {"harness": {"memory.py": f"KNOWN = {{{TEXTS[10]!r}: 3}}\n"}}),
        (
            "playbook",
            {
                "playbook": {
                    "edit": [
                        {
                            "name": "remember",
                            "summary": "s",
                            "change": [{"op": "write", "path": "a.py", "text": f"K = {TEXTS[10]!r}"}],
                        }
                    ]
                }
            },
        ),
    ],
)
def test_a_sealed_input_is_found_wherever_a_harness_can_read_it(
    tmp_path: Path, place: str, files: dict[str, Any]
) -> None:
    findings = leaks(Planted(tmp_path, SPLITS, **files))
    assert set(findings) == {f"sealed in {place}"}
    finding = findings[f"sealed in {place}"]
    assert finding.verdict == "bad"
    assert "1 of 3 inputs are there as they are, such as sealed-1" in finding.says
    assert TEXTS[10][:30] not in finding.says


def test_short_inputs_are_found_where_they_stand_alone_and_never_called_close(tmp_path: Path) -> None:
    public = {"some.py": "A = {'Sealed case: 1': 4, 'xsealed case 2x': 5, 'sealed': 1}", "all.txt": "gate case 1\n"}
    findings = leaks(Planted(tmp_path, SHORT, public=public))
    assert set(findings) == {"sealed in public files", "gate in public files"}
    assert "1 of 3 inputs are there as they are, such as sealed-1 (some.py)" in findings["sealed in public files"].says
    assert "gate-1 (all.txt)" in findings["gate in public files"].says


def test_inputs_without_text_are_compared_as_values(tmp_path: Path) -> None:
    rows = [[float(n * each) for each in range(9)] for n in range(1, 9)]
    splits: dict[Split, list[Any]] = {
        split: [{"n": rows[2 * at + more], "k": at} for more in (0, 1)] for at, split in enumerate(SPLITS)
    }
    public = {"a.json": json.dumps({"all": [{"n": [int(each) for each in rows[6]]}]}), "b.json": '{"k": 3}'}
    findings = leaks(Planted(tmp_path, splits, public=public))
    assert set(findings) == {"sealed in public files"}
    assert "1 of 2 inputs are there as they are, such as sealed-0 (a.json)" in findings["sealed in public files"].says


def test_near_and_exact_duplicates_among_splits_are_told_by_id_and_cosine(tmp_path: Path) -> None:
    near = altered(TEXTS[9], random.Random(5), 0.05)
    splits = {**SPLITS, "search": [*TEXTS[3:6], near], "public": [*TEXTS[:3], TEXTS[6].title()]}
    splits["sealed"] = [*TEXTS[9:], TEXTS[11] + "."]
    findings = leaks(Planted(tmp_path, splits))
    assert set(findings) == {"sealed in other splits", "gate in other splits", "sealed repeated"}
    assert findings["sealed in other splits"].verdict == "bad"  # a quarter of them
    assert "1 of 4 have a near duplicate (cosine above 0.8), such as sealed-0 (search search-3, 0." in (
        findings["sealed in other splits"].says
    )
    assert "gate-0 (public public-3)" in findings["gate in other splits"].says
    assert findings["sealed repeated"].verdict == "look"


def test_a_file_that_is_no_text_or_nests_too_deep_is_no_traceback(tmp_path: Path) -> None:
    public = {"a.npz": b"\xff\xfe\x00", "b.json": "[" * 100_000, "c.json": '{"text": NaN}'}
    findings = leaks(Planted(tmp_path, SPLITS, public=public))
    assert set(findings) == {"files not read"}
    assert "a.npz" in findings["files not read"].says


# Answers


class Choice(BaseModel):
    model_config = ConfigDict(extra="forbid")
    charge: Literal["theft", "arson"]


class Point(BaseModel):
    x: Annotated[float, Field(gt=0, lt=1)]
    n: Annotated[int, Field(ge=3, le=12, multiple_of=5)]
    name: Annotated[str, Field(min_length=2, max_length=4)]


class Shape(BaseModel):
    points: Annotated[list[Point], Field(min_length=1, max_length=3)]
    pair: tuple[int, bool]
    note: str | None = None
    inner: Choice | Point


class Whole(RootModel[Annotated[int, Field(le=-7)]]):
    pass


@pytest.mark.parametrize("model", [Choice, Point, Shape, Whole])
def test_generated_answers_fit_their_schema(model: type[BaseModel]) -> None:
    generator = Generator(schema_of(model, []))
    source = random.Random(0)
    drawn = [generator.drawn(source) for _ in range(60)]
    for value in (generator.smallest(), *drawn):
        model.model_validate_json(json.dumps(value))
    assert len({json.dumps(each) for each in drawn}) > 1


class Anything(RootModel[Any]):
    pass


@pytest.mark.parametrize(
    ("examples", "fits"),
    [
        ([3, 5, None, 9], lambda value: isinstance(value, int) and 3 <= value <= 9),
        (["red", "blue", "red", "blue"], lambda value: value in ("red", "blue")),
        (["abc", "defg"], lambda value: isinstance(value, str) and 3 <= len(value) <= 4),
        ([{"a": 1.5}, {"a": 2.5}], lambda value: 1.5 <= value["a"] <= 2.5),
        ([[True], [False, True]], lambda value: len(value) in (1, 2)),
    ],
)
def test_an_open_schema_is_filled_from_examples(examples: list[Any], fits: Callable[[Any], bool]) -> None:
    generator = Generator(schema_of(Anything, examples))
    source = random.Random(0)
    assert all(fits(generator.drawn(source)) for _ in range(50))


def test_examples_that_differ_are_free_text() -> None:
    assert like([f"text {n}" for n in range(40)])["type"] == "string"


def test_hostile_answers_are_refused_by_a_strict_model_and_reach_an_open_one() -> None:
    generator = Generator(schema_of(Choice, []))
    assert generator.template() == f'{{"charge": {HOLE}}}'
    hostile = hostile_answers(generator.template(), 1000)
    assert hostile["NaN in its place"] == '{"charge": NaN}'
    assert hostile["a key twice"] == '{"charge": 1, "charge": 1}'
    for text in hostile.values():
        with pytest.raises(InvalidAnswer):
            read_answer(text, Choice)
    reached = 0
    for name, text in hostile.items():
        try:
            read_answer(text, Anything)
            reached += 1
        except InvalidAnswer:
            assert name.split(" in ")[0] in NEVER, name
    assert reached > 20


NEVER = (
    "NaN", "Infinity", "minus infinity", "1e999", "an integer of 5000 digits", "a key twice",
    "half of a surrogate pair", "not JSON", "two values", "100,000 lists",
)  # fmt: skip


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ({"id": "public-0", "input": {"number": 0}, "answer": 4}, "4"),
        ({"id": "public-0", "number": 0, "label": 4}, "4"),
        ({"id": "public-0", "number": 0, "label": "four", "more": 1}, None),
        ({"id": "gate-0", "answer": 4}, None),
    ],
)
def test_labelled_answers_are_read_from_the_public_folder(tmp_path: Path, line: Any, answer: str | None) -> None:
    (tmp_path / "cases.jsonl").write_text(f"\nno JSON\n{json.dumps(line)}\n[1]\n")
    splits: dict[Split, list[Any]] = {"public": [{"number": 0}]}
    assert labelled_answers(Planted(tmp_path, splits)) == ({"public-0": answer} if answer else {})


# Verdicts


def judged(*rewards: float, outcome: str = "ok", message: str = "", answers: Sequence[str] = ()) -> list[Judged]:
    texts = answers or ["1"] * len(rewards)
    return [
        Judged(Instance(f"i{n}", "search", {}), text, outcome, reward, 0.001, message)
        for n, (reward, text) in enumerate(zip(rewards, texts, strict=True))
    ]


GOOD = Group(LABELLED, judged(1.0, 1.0, 1.0, 1.0))


def verdict_of(group: Group, good: Group | None = GOOD) -> Finding:
    first = Group(FIRST, judged(0.0, 1.0))
    groups = [group] if group is good or good is None else [good, group]
    findings = judge_separation(Separation(groups, good, first), 0.0, 1.0, Metric("right"))
    return next(each for each in findings if each.about == group.name)


@pytest.mark.parametrize(
    ("rewards", "verdict"), [((0.0, 0.0, 1.0), "ok"), ((0.0, 1.0), "look"), ((1.0, 1.0), "bad"), ((0.95,), "bad")]
)
def test_a_class_that_earns_as_much_as_good_answers_is_bad(rewards: tuple[float, ...], verdict: str) -> None:
    assert verdict_of(Group("random", judged(*rewards))).verdict == verdict


def test_one_hostile_answer_that_earns_is_bad_among_many_that_do_not() -> None:
    group = Group("hostile", judged(0.0, 0.0, 1.0, 1.0), ["NaN", "NaN", "an order to a judge", "an order to a judge"])
    finding = verdict_of(group)
    assert finding.verdict == "bad"
    assert "1 of 2 earn more than a failure, most of all an order to a judge, 1.000" in finding.says
    assert verdict_of(Group("empty", judged(0.0, 0.2), ["a list", "an object"])).verdict == "look"
    assert verdict_of(Group("empty", judged(0.0, 0.0), ["a list", "an object"])).verdict == "ok"


def test_an_answer_that_breaks_the_verifier_is_named() -> None:
    broken = judged(0.0, outcome=FAILED, message="verifier 'x' ended unexpectedly")
    finding = verdict_of(Group("hostile", [*judged(0.0), *broken], ["NaN", "deep lists"], skipped=3))
    assert finding.verdict == "bad"
    assert finding.says.startswith("1 of 2 broke the verifier; 3 were not asked; deep lists: verifier 'x' ended")


def test_labels_that_the_verifier_does_not_agree_with_are_told() -> None:
    wrong, some = Group(LABELLED, judged(0.0, 0.0)), Group(LABELLED, judged(0.0, 1.0))
    assert verdict_of(wrong, wrong).verdict == "bad"
    assert verdict_of(some, some).verdict == "look"


def test_without_a_good_answer_the_audit_says_so() -> None:
    separation = Separation([Group("null", judged(0.0))], None, GOOD, "no public case")
    findings = judge_separation(separation, 0.0, 1.0, Metric("right"))
    verdicts = [(each.about, each.verdict) for each in findings]
    assert verdicts == [("null", "ok"), (LABELLED, "look"), ("good answers", "look")]
    assert "no public case" in findings[1].says
    assert worst(each.verdict for each in findings) == "look"
    assert worst([]) == "ok"


class FakeBench:
    """Scores again by a function of (instance's id, salt, how often the verifier was renewed, calls so far)."""

    def __init__(self, score: Callable[[str, str, int, int], float], gate: int = 200) -> None:
        self.task, self.plan, self.failure = FakeTask(gate), Plan(), 0.0
        self.samples = take_samples(self.task, self.plan)
        self._score, self.renewed, self.calls = score, 0, 0
        self.tried: list[Tried] = []

    def judge(self, instance: Instance, answer: str, salt: str = "") -> Judged:
        self.calls += 1
        return Judged(instance, answer, "ok", self._score(instance.id, salt, self.renewed, self.calls), 0.001)

    def renew_verifier(self) -> None:
        self.renewed += 1


@pytest.mark.parametrize(
    ("score", "verdict", "words"),
    [
        (lambda name, salt, renewed, calls: 1.0, "ok", "no score changed"),
        (lambda name, salt, renewed, calls: calls % 2, "bad", "100% with the same seed"),
        (lambda name, salt, renewed, calls: float(renewed == 0), "bad", "100% with a fresh process"),
        (lambda name, salt, renewed, calls: 1 - 0.02 * (calls % 2), "look", "with the same seed"),
        (lambda name, salt, renewed, calls: float(not salt), "look", "100% with another seed (sd 0.577)"),
    ],
)
def test_noise_is_told_with_what_changes_a_score(score: Any, verdict: str, words: str) -> None:
    bench = FakeBench(score)
    separation = Separation([GOOD], GOOD, Group(FIRST, judged(1.0, 1.0)))
    (finding,), figures = measure_noise(bench, separation, 1.0)  # type: ignore[arg-type]
    assert finding.verdict == verdict
    assert words in finding.says
    assert figures["answers"] == 6
    assert bench.renewed == 1


@pytest.mark.parametrize(("size", "span"), [(LARGEST_REWARD, 1.0), (LARGEST_REWARD, 1e-320), (1e-320, 1e-320)])
def test_noise_of_any_size_is_measured(size: float, span: float) -> None:
    bench = FakeBench(lambda name, salt, renewed, calls: -size * (calls % 2))
    _, figures = measure_noise(bench, Separation([GOOD], GOOD, GOOD), span)  # type: ignore[arg-type]
    assert figures["repeats"] >= 1


def test_noise_says_how_many_repeats_a_gate_would_want() -> None:
    bench = FakeBench(lambda name, salt, renewed, calls: float(not salt))
    _, figures = measure_noise(bench, Separation([GOOD], GOOD, GOOD), 1.0)  # type: ignore[arg-type]
    assert figures["repeats"] == math.ceil(2 * (1 / 3) / 0.02)


@pytest.mark.parametrize(
    ("right", "gate", "verdicts"),
    [(2, 1314, ("ok", "ok")), (10, 1314, ("bad", "bad")), (8, 40, ("ok", "bad")), (6, 40, ("ok", "look"))],
)
def test_head_room_is_what_the_first_harness_leaves_and_the_gate_can_see(
    right: int, gate: int, verdicts: tuple[str, str]
) -> None:
    bench = FakeBench(lambda *_: 1.0, gate)
    bench.tried = [Tried(each.instance, "ok", "1", 0.1, "", "", 0) for each in judged(*[0.0] * 10)]
    first = Group(FIRST, judged(*[float(n < right) for n in range(10)]))
    findings, figures = judge_headroom(bench, Separation([GOOD], GOOD, first), Plan())  # type: ignore[arg-type]
    assert tuple(each.verdict for each in findings) == verdicts
    assert figures["room"] == pytest.approx(1 - right / 10)


def test_head_room_counts_rollouts_without_an_answer_as_failures_and_leaves_out_what_was_not_judged() -> None:
    bench = FakeBench(lambda *_: 1.0)
    answers = ["1", None, "1", "1", None]
    bench.tried = [
        Tried(each.instance, "ok" if answer else "crash", answer, 0.1, "", "", 0)
        for each, answer in zip(judged(*[0.0] * 5), answers, strict=True)
    ]
    whole = judged(1.0, 1.0, 1.0)
    first = Group(FIRST, [whole[0], whole[2]])
    _, figures = judge_headroom(bench, Separation([GOOD], GOOD, first), Plan())  # type: ignore[arg-type]
    assert (figures["first_harness"]["value"], figures["first_harness"]["n"]) == (pytest.approx(2 / 3), 3)


@pytest.mark.parametrize(
    ("answers", "finding"),
    [
        (["null", "null"], ("bad", "all 2 answers of the first harness are null: its solve returned None")),
        (["null", None], ("look", "1 of 2 rollouts of the first harness gave no answer: crash: ")),
        (["null", "1"], None),
    ],
)
def test_a_first_harness_whose_every_answer_is_null_is_no_harness(
    answers: list[str | None], finding: tuple[str, str] | None
) -> None:
    bench = FakeBench(lambda *_: 1.0)
    bench.tried = [
        Tried(each.instance, "ok" if answer else "crash", answer, 0.1, "", "", 0)
        for each, answer in zip(judged(0.0, 0.0), answers, strict=True)
    ]
    findings = [(each.verdict, each.says) for each in judge_failures(bench)]  # type: ignore[arg-type]
    assert findings == ([finding] if finding else [])


def test_rewards_without_bounds_are_measured_by_the_best_class() -> None:
    bench = FakeBench(lambda *_: 1.0)
    bench.task.metric = Metric("right", bounds=None)
    bench.tried = [Tried(each.instance, "ok", "1", 0.1, "", "", 0) for each in judged(3.0, 5.0)]
    good = Group(LABELLED, judged(9.0, 9.0))
    first = Group(FIRST, judged(3.0, 5.0))
    findings, figures = judge_headroom(bench, Separation([good, first], good, first), Plan())  # type: ignore[arg-type]
    assert figures["room"] == 5.0
    assert [each.verdict for each in findings] == ["ok", "look"]


# The command line


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["audit"], "name what to improve"),
        (["audit", "a", "--plugin", "b"], "named twice"),
        (["audit", "nosuchtask"], "nosuchtask"),
        (["audit", "--harness", "somewhere"], "--data"),
    ],
)
def test_a_task_that_is_not_named_well_is_the_users_mistake(
    capsys: pytest.CaptureFixture[str], argv: list[str], words: str
) -> None:
    assert main(argv) == 2
    assert words in capsys.readouterr().err
