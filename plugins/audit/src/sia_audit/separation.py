"""Whether the verifier tells a good answer from an empty, a constant, a random and a hostile one.

Every class of answers is put before the verifier's real process. How well a class does
is its *level*: how much of the way from a failure's reward to that of good answers its
mean has come. Good answers are those of the labelled cases in the public folder's
``cases.jsonl``; where there are none, or the verifier does not judge public instances,
they are the best that the first harness gave.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from sia_audit.bench import FAILED, Bench, Judged, mean_seconds, said
from sia_audit.findings import Finding, Verdict
from sia_audit.generate import Generator, schema_of
from sia_audit.hostile import hostile_answers
from sia_core.errors import UsageError
from sia_core.run.ledger import canonical
from sia_core.types import Instance, Metric, Task
from sia_runtime.answers import InvalidAnswer, read_answer, strict_json

LABELLED = "labelled cases"
FIRST = "first harness"

ALIKE = 0.95
"""From this level on a class does as well as good answers."""

HALF = 0.5
PROBED = 3
"""Instances on which each empty and each hostile answer is tried, where the verifier is fast enough for ``MANY``."""

MANY = 24

MOST_FAILURES = 3
"""After this many answers that broke the verifier the rest of a class is not asked."""

ASK_SECONDS = 30.0


@dataclass(frozen=True)
class Group:
    """A class of answers, judged. ``skipped`` is how many were not asked, since earlier ones broke the verifier.

    ``names`` says what each judged answer is, for classes of different ones.
    """

    name: str
    judged: Sequence[Judged]
    names: Sequence[str] = ()
    skipped: int = 0

    @property
    def mean(self) -> float:
        return fmean(each.reward for each in self.judged) if self.judged else 0.0

    @property
    def failed(self) -> list[Judged]:
        return [each for each in self.judged if each.outcome == FAILED]

    def to_json(self, metric: Metric) -> dict[str, Any]:
        """The figures of the class, its rewards in units of the metric."""
        return {
            "answers": self.name,
            "asked": len(self.judged),
            "valid": fmean(each.outcome == "ok" for each in self.judged) if self.judged else 0.0,
            "mean": metric.reward(self.mean),
            "best": metric.reward(max((each.reward for each in self.judged), default=0.0)),
            "seconds": mean_seconds(self.judged),
            "broke_the_verifier": len(self.failed),
            "not_asked": self.skipped,
        }


@dataclass(frozen=True)
class Separation:
    """The classes; ``good`` is the one that all others are compared with, None where none is known.

    ``seed`` is the first harness's own, and ``refusal`` why the verifier judges no labelled case.
    """

    groups: Sequence[Group]
    good: Group | None
    seed: Group
    refusal: str = ""


def separate(bench: Bench) -> Separation:
    """Ask the verifier about every class of answers."""
    asker = _Asker(bench)
    labelled = labelled_answers(bench.task)
    count = bench.size_of_samples(asks=9, seconds=ASK_SECONDS)
    answered = [(each.instance, each.answer) for each in bench.tried if each.answer is not None]
    seed = asker.ask(FIRST, answered[: max(count, MANY)])
    if seed.judged and all(each.usage for each in seed.judged):
        raise UsageError(seed.judged[0].message)
    good, refusal = asker.good(labelled, seed, count)
    valid = [each for each in (*(good.judged if good else ()), *seed.judged) if each.outcome == "ok"]
    examples = [strict_json(each.answer) for each in valid]
    generator = Generator(schema_of(bench.task.answer, examples))
    instances = bench.search(count)
    texts = {canonical(each) for each in examples}
    groups = [good] if good else []
    if good and good.name == LABELLED and len({each.answer for each in good.judged}) > 1:
        groups.append(asker.ask(f"{LABELLED}, shuffled", _shuffled(good.judged, bench.plan.seed)))
    groups.append(seed)
    groups.append(asker.ask("null", [(each, "null") for each in instances]))
    groups.append(asker.probe("empty", _unknown(empty_answers(generator), texts), instances))
    # Where the task is to discover an answer, a good one is good everywhere.
    usual = Group(FIRST, []) if bench.task.kind == "discover" else seed
    for name, answer in constant_answers(generator, usual, labelled).items():
        groups.append(asker.ask(name, [(each, answer) for each in instances]))
    source = random.Random(f"audit {bench.plan.seed}")
    drawn = [(each, json.dumps(generator.drawn(source), ensure_ascii=False)) for each in instances]
    groups.append(asker.ask("random", drawn))
    hostile = hostile_answers(generator.template(), bench.task.limits.answer_bytes)
    groups.append(asker.probe("hostile", _unknown(hostile, texts), instances))
    return Separation(groups, good, seed, refusal)


class _Asker:
    """Asks the verifier about classes of answers."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench

    def ask(self, name: str, pairs: Sequence[tuple[Instance, str]]) -> Group:
        """A class, answer by answer; given up after some that broke the verifier."""
        judged: list[Judged] = []
        for instance, answer in pairs:
            judged.append(self._bench.judge(instance, answer))
            if sum(each.outcome == FAILED for each in judged) >= MOST_FAILURES:
                break
        return Group(name, judged, skipped=len(pairs) - len(judged))

    def probe(self, name: str, answers: dict[str, str], instances: Sequence[Instance]) -> Group:
        """A class of different answers, each on a few instances, or until it breaks the verifier."""
        judged: list[Judged] = []
        names: list[str] = []
        tried = instances[: PROBED if len(instances) >= MANY else 1]
        for at, (what, text) in enumerate(answers.items()):
            if sum(each.outcome == FAILED for each in judged) >= MOST_FAILURES:
                return Group(name, judged, names, len(answers) - at)
            for instance in tried:
                names.append(what)
                judged.append(self._bench.judge(instance, text))
                if judged[-1].outcome == FAILED:
                    break
        return Group(name, judged, names)

    def good(self, labelled: dict[str, str], seed: Group, count: int) -> tuple[Group | None, str]:
        """The good answers, None where none is known; and why no labelled case was judged, where there are some."""
        public = [each for each in self._bench.task.instances("public") if each.id in labelled]
        random.Random(f"audit {self._bench.plan.seed}").shuffle(public)
        labels = self.ask(LABELLED, [(each, labelled[each.id]) for each in public[:count]])
        if any(each.outcome != FAILED for each in labels.judged):
            return labels, ""
        refusal = labels.judged[0].message if labels.judged else ""
        best = max((each.reward for each in seed.judged), default=self._bench.failure)
        if best <= self._bench.failure:
            return None, refusal
        return Group("first harness's best", [each for each in seed.judged if each.reward == best]), refusal


def labelled_answers(task: Task) -> dict[str, str]:
    """The answers of the labelled cases in the public folder, by instance, as JSON text.

    A case is an object a line. Its answer is the first of these that the task's
    model accepts: its ``answer``, what it holds beside its id and the input, or the one
    value of that.
    """
    path = Path(task.public_dir(("public",))) / "cases.jsonl"
    if not path.is_file():
        return {}
    inputs = {each.id: each.input for each in task.instances("public")}
    answers = {}
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            case = strict_json(line)
        except InvalidAnswer:
            continue
        if not isinstance(case, dict) or case.get("id") not in inputs:
            continue
        for value in _answers_of(case, inputs[case["id"]]):
            text = json.dumps(value, ensure_ascii=False)
            if _accepts(task, text):
                answers[case["id"]] = text
                break
    return answers


def _answers_of(case: dict[str, Any], fields: Any) -> Iterator[Any]:
    if "answer" in case:
        yield case["answer"]
    rest = {key: value for key, value in case.items() if key not in ("id", "input", "split") and key not in fields}
    yield rest
    if len(rest) == 1:
        yield next(iter(rest.values()))


def _accepts(task: Task, text: str) -> bool:
    try:
        read_answer(text, task.answer)
    except InvalidAnswer:
        return False
    return True


def empty_answers(generator: Generator) -> dict[str, str]:
    """Answers with nothing in them."""
    return {"nothing": "", "an empty string": '""', "an empty object": "{}", "an empty list": "[]",
            "empty fields": generator.hollow()}  # fmt: skip


def constant_answers(generator: Generator, seed: Group, labelled: dict[str, str]) -> dict[str, str]:
    """One and the same answer everywhere, by what it is; each once."""
    constants = [("constant: the smallest", json.dumps(generator.smallest(), ensure_ascii=False))]
    for name, texts in (
        ("constant: the first harness's commonest", [each.answer for each in seed.judged if each.outcome == "ok"]),
        ("constant: the commonest label", list(labelled.values())),
    ):
        constants += [(name, answer) for answer, _ in Counter(texts).most_common(1)]
    by_answer = {answer: name for name, answer in constants if answer != "null"}
    return {name: answer for answer, name in by_answer.items()}


def _unknown(answers: dict[str, str], others: set[str]) -> dict[str, str]:
    """Those that are not answers which a harness or a label gave; each text once."""
    once: dict[str, str] = {}
    for name, text in answers.items():
        try:
            spelt = canonical(strict_json(text))
        except InvalidAnswer:
            spelt = text
        if spelt not in others:
            once.setdefault(text, name)
    return {name: text for text, name in once.items()}


def _shuffled(judged: Sequence[Judged], seed: int) -> list[tuple[Instance, str]]:
    """Each instance with the answer of another, as often as can be with a different one."""
    ordered = sorted(judged, key=lambda each: each.answer)
    step = max(Counter(each.answer for each in ordered).values()) % len(ordered)
    pairs = [(each.instance, ordered[(at + step) % len(ordered)].answer) for at, each in enumerate(ordered)]
    random.Random(seed).shuffle(pairs)
    return pairs


def judge_separation(separation: Separation, failure: float, upper: float | None, metric: Metric) -> list[Finding]:
    """A finding on each class."""
    good = separation.good
    findings = []
    for group in separation.groups:
        if group.failed:
            verdict, says = _of_broken(group)
        elif group is good:
            verdict, says = _of_good(group, failure, upper, metric)
        elif group.names:
            verdict, says = _of_probes(group, failure, good, metric)
        elif group is separation.seed:
            verdict, says = "ok", f"earns {metric.reward(group.mean):.3f}"
        else:
            verdict, says = _of_worse(group, failure, good, metric)
        findings.append(Finding("separation", group.name, verdict, says))
    if separation.refusal:
        says = f"the verifier does not judge them, so it is not known whether it agrees: {said(separation.refusal)}"
        findings.append(Finding("separation", LABELLED, "look", says))
    if good is None:
        says = "none is known: put labelled cases into the public folder, or start from a harness that solves some"
        findings.append(Finding("separation", "good answers", "look", says))
    return findings


def _of_broken(group: Group) -> tuple[Verdict, str]:
    """Of a class that broke the verifier, which ends a run."""
    first = group.failed[0]
    what = group.names[group.judged.index(first)] if group.names else f"instance {first.instance.id}"
    rest = f"; {group.skipped} were not asked" if group.skipped else ""
    return "bad", f"{len(group.failed)} of {len(group.judged)} broke the verifier{rest}; {what}: {said(first.message)}"


def _of_worse(group: Group, failure: float, good: Group | None, metric: Metric) -> tuple[Verdict, str]:
    """Of a class that should earn less than good answers."""
    earns = f"earns {metric.reward(group.mean):.3f}"
    if good is None or good.mean <= failure:
        return "ok", f"{earns}; there is no good answer to compare with"
    level, best = (group.mean - failure) / (good.mean - failure), f"{metric.reward(good.mean):.3f}"
    if level >= ALIKE:
        return "bad", f"{earns}, as much as good answers ({best}): the verifier does not tell"
    if level >= HALF:
        return "look", f"{earns}, {level:.0%} of the way from a failure to good answers ({best})"
    return "ok", f"{earns}; good answers earn {best}"


def _of_good(group: Group, failure: float, upper: float | None, metric: Metric) -> tuple[Verdict, str]:
    earn = f"earn {metric.reward(group.mean):.3f}"
    if group.mean <= failure:
        return "bad", f"{earn}, no more than a failure: check that verifier and public folder agree"
    missed = sum(each.reward < upper for each in group.judged) if upper is not None else 0
    if missed and upper is not None and group.name == LABELLED:
        return "look", f"{earn}: {missed} of {len(group.judged)} do not earn {metric.reward(upper):g}"
    return "ok", earn


def _of_probes(group: Group, failure: float, good: Group | None, metric: Metric) -> tuple[Verdict, str]:
    """Of answers of which none should earn anything."""
    earned: dict[str, list[float]] = {}
    for name, each in zip(group.names, group.judged, strict=True):
        earned.setdefault(name, []).append(each.reward)
    above = {name: fmean(rewards) for name, rewards in earned.items() if max(rewards) > failure}
    if not above:
        return "ok", f"none of {len(earned)} earns more than a failure"
    name, mean = max(above.items(), key=lambda item: item[1])
    says = f"{len(above)} of {len(earned)} earn more than a failure, most of all {name}, {metric.reward(mean):.3f}"
    span = (good.mean if good and good.mean > failure else mean) - failure
    return ("bad" if mean - failure >= HALF * span else "look"), says
