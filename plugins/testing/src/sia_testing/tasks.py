"""The contract of tasks, for plugin authors to inherit."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self, get_args

import pytest
from pydantic import BaseModel, ValidationError

from sia_audit.generate import Generator, schema_of
from sia_audit.leaks import look_for_leaks
from sia_core.errors import PluginError, SiaError, UsageError
from sia_core.harness import HarnessTree, applies, apply_edits
from sia_core.playbook import Playbook
from sia_core.plugins import Plugins
from sia_core.run.ledger import canonical
from sia_core.run.plan import EVALUATED
from sia_core.types import Called, Instance, Kind, Metric, Ran, Score, Split, Task, Verifier, VerifierContext
from sia_testing.verifiers import predictable

SPLITS: tuple[Split, ...] = get_args(Split)
TELLING = 8
"""Characters that an id must have to count as found in a file: shorter ones stand there by chance."""

MOST_TREES = 200


class TaskContract:
    """``class TestMine(TaskContract)`` with a fixture ``make``: ``make(seed)`` gives the task, as a run makes it."""

    def test_it_has_every_part_of_a_task(self, make: Callable[[int], Task]) -> None:
        task = make(0)
        assert not [name for name in Task.__annotations__ if not hasattr(task, name)]
        assert isinstance(task, Task)
        assert task.kind in get_args(Kind)
        assert isinstance(task.metric, Metric)
        assert issubclass(task.answer, BaseModel)
        assert math.isfinite(task.failure_reward)
        assert all(isinstance(text, str) and text for text in (task.name, task.brief, task.fingerprint))
        settings = dict(task.verifier.settings)
        assert json.loads(json.dumps(settings)) == settings, "the verifier's settings cross a process as JSON"

    def test_the_splits_are_disjoint_and_none_that_decides_is_empty(self, make: Callable[[int], Task]) -> None:
        task = make(0)
        split_of: dict[str, str] = {}
        for split in SPLITS:
            instances = task.instances(split)
            assert instances or split not in EVALUATED, f"the split {split!r} is empty"
            for each in instances:
                for mark in (f"id {each.id}", canonical(dict(each.input))):
                    assert split_of.setdefault(mark, split) == split, (
                        f"{each.id} is in {split_of[mark]!r} and in {split!r}"
                    )

    def test_no_id_tells_the_split(self, make: Callable[[int], Task]) -> None:
        task = make(0)
        telling = [each.id for split in SPLITS for each in task.instances(split) if names_a_split(each.id)]
        assert not telling, f"{len(telling)} ids name a split, such as {telling[0]}: derive them from content"

    def test_instances_are_json_and_of_the_split_that_was_asked_for(self, make: Callable[[int], Task]) -> None:
        task = make(0)
        for split in SPLITS:
            instances = task.instances(split)
            assert len({each.id for each in instances}) == len(instances), f"an id occurs twice in {split!r}"
            for each in instances:
                assert each.split == split
                assert json.loads(json.dumps(dict(each.input))) == each.input

    def test_the_same_seed_is_the_same_task(self, make: Callable[[int], Task]) -> None:
        first, second = make(0), make(0)
        assert first.fingerprint == second.fingerprint
        assert first.brief == second.brief
        assert first.seed_harness().digest == second.seed_harness().digest
        for split in SPLITS:
            assert list(first.instances(split)) == list(first.instances(split)) == list(second.instances(split))

    def test_the_public_folder_tells_nothing_of_other_splits(self, make: Callable[[int], Task]) -> None:
        task = make(0)
        findings, _ = look_for_leaks(task)
        assert not [each.says for each in findings if each.verdict == "bad"]
        splits: list[Split] = []
        for split in ("public", "search", "gate"):
            splits.append(split)
            text = _text_of(task.public_dir(tuple(splits)))
            for hidden in (each for each in SPLITS if each not in splits):
                leaks = [each.id for each in task.instances(hidden) if _found(each, text)]
                assert not leaks, f"the public folder of {splits} holds {len(leaks)} of {hidden!r}, such as {leaks[0]}"

    def test_the_sealed_cases_are_never_public(self, make: Callable[[int], Task]) -> None:
        task = make(0)
        try:
            folder = task.public_dir(SPLITS)
        except UsageError:
            return
        text = _text_of(folder)
        assert not [each.id for each in task.instances("sealed") if _found(each, text)]

    def test_the_public_folder_is_the_same_one_every_time_and_holds_no_links(self, make: Callable[[int], Task]) -> None:
        first, second = make(0).public_dir(("public",)), make(0).public_dir(("public",))
        assert _files_of(first) == _files_of(second)
        assert not [path for path in first.rglob("*") if path.is_symlink()]

    def test_the_brief_names_no_hidden_case(self, make: Callable[[int], Task]) -> None:
        task = make(0)
        for split in EVALUATED:
            assert not [each.id for each in task.instances(split) if _found(each, task.brief)]

    def test_what_its_verifier_draws_cannot_be_predicted(self, make: Callable[[int], Task]) -> None:
        """Scored is the smallest answer that there is; a program in it fails. VerifierContract tries others."""
        task, plugins = make(0), Plugins.discover()
        name, settings = task.verifier.name, task.verifier.settings
        try:
            plugins.find("verifier", name)
            answer = task.answer.model_validate(Generator(schema_of(task.answer, [])).smallest())
        except (PluginError, ValidationError) as error:
            pytest.skip(f"its verifier cannot be tried here: {error}")
        cases = [(each, answer.model_dump(mode="json")) for split in EVALUATED for each in task.instances(split)[:1]]
        generators = predictable(lambda: _Lenient(plugins.create("verifier", name, **settings)), cases, _failing())
        assert not generators, (
            f"whoever knows the code and what a harness is told can draw the same from {sorted(generators)}"
        )

    def test_the_first_harness_is_one(self, make: Callable[[int], Task]) -> None:
        tree = make(0).seed_harness()
        assert isinstance(tree, HarnessTree)
        assert "def solve" in tree.text(tree.manifest.entry)

    def test_every_edit_of_the_playbook_applies_somewhere(self, make: Callable[[int], Task]) -> None:
        task = make(0)
        playbook = task.playbook()
        if playbook is not None:
            assert not _unreached(playbook, task.seed_harness())


class _Lenient:
    """A verifier of which no score is wanted."""

    def __init__(self, verifier: Verifier) -> None:
        self._verifier = verifier

    def score(self, instance: Instance, answer: Any, ctx: VerifierContext) -> Score:
        with suppress(SiaError):  # it may need a program that runs
            return self._verifier.score(instance, answer, ctx)
        return Score(0.0, valid=False)


class _Dead:
    """A program that has failed before it was called."""

    def call(self, *arguments: Any, **settings: Any) -> Called:
        return Called("error", message="nothing runs here")

    def close(self) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *about: object) -> None:
        pass


def _failing() -> VerifierContext:
    """A context in which every program fails."""
    ran = Ran("error", 1, b"", b"nothing runs here", 0.0)
    return VerifierContext(lambda *arguments, **settings: ran, 0, lambda *arguments, **settings: _Dead())


def names_a_split(text: str) -> bool:
    """Whether a word of the text is the name of a split: a harness that is shown it knows where it stands."""
    return any(word in SPLITS for word in re.findall("[a-z]+", text.lower()))


def _text_of(folder: Path) -> str:
    return "\n".join(path.read_text("utf-8", "replace") for path in sorted(folder.rglob("*")) if path.is_file())


def _files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _found(instance: Instance, text: str) -> bool:
    return len(instance.id) >= TELLING and instance.id in text


def _unreached(playbook: Playbook, seed: HarnessTree) -> list[str]:
    """The edits that apply neither to the first harness nor to one that other edits make of it."""
    trees, remaining = {seed.digest: seed}, {entry.name: entry for entry in playbook.edit}
    looked: set[str] = set()
    while remaining and looked != trees.keys() and len(looked) < MOST_TREES:
        digest = next(each for each in trees if each not in looked)
        looked.add(digest)
        for entry in playbook.edit:
            if applies(trees[digest], entry.change):
                remaining.pop(entry.name, None)
                edited = apply_edits(trees[digest], entry.change)
                trees.setdefault(edited.digest, edited)
    return sorted(remaining)
