"""Whether inputs of ``gate`` and ``sealed`` can be read, or nearly so, where a harness learns from.

Inputs alone are compared. No label is asked for: a task gives its instances without
them, its public folder is that of ``public`` alone, and the verifier is not involved.
What is found is told by ids and cosines, never by the text.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sia_audit.findings import Finding
from sia_audit.similar import LEAST_NEAR, LEAST_TEXT, NEAR, Closest, Contained, Weights, essence
from sia_core.run.ledger import canonical
from sia_core.types import Instance, Split, Task

HIDDEN: tuple[Split, ...] = ("gate", "sealed")
LABELLED: tuple[Split, ...] = ("public", "search", "gate")
MOST_BYTES = 64 * 2**20
"""Of public files, and of any one of them, that are read."""

NEAR_BAD = 0.1
"""From this share of near duplicates on a score tells of remembering."""

EXACT_BAD = 0.01
"""From this share on inputs of ``gate`` that a harness can read are bad; of ``sealed`` every one is."""

SPLITS = "other splits"
EXAMPLES = 3

_BETWEEN = re.compile(r"[\"'`\n\t,;|]+")
"""Separators of texts in a program or a table."""


@dataclass
class Overlap:
    """Which inputs of one hidden split were found in one place: as they are, or close, each with where and its cosine.

    ``size`` is how many inputs the split has, ``short`` how many of them are too short for closeness to mean anything.
    """

    split: Split
    place: str
    size: int
    short: int
    exact: dict[str, str] = field(default_factory=dict)
    near: dict[str, tuple[str, float]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        exact = [{"id": name, "in": where} for name, where in sorted(self.exact.items())]
        near = sorted(self.near.items(), key=lambda item: (-item[1][1], item[0]))
        return {
            "split": self.split,
            "place": self.place,
            "inputs": self.size,
            "too_short_for_near": self.short,
            "exact": exact,
            "near": [{"id": name, "in": where, "cosine": round(cosine, 4)} for name, (where, cosine) in near],
        }


def look_for_leaks(task: Task) -> tuple[list[Finding], dict[str, Any]]:
    """Compare the inputs of ``gate`` and ``sealed`` with whatever else a harness can read, and with each other."""
    search = _Search(task)
    for split in LABELLED:
        search.split(split)
    search.repeated("sealed")
    folder = task.public_dir(("public",))
    search.folder("public files", folder)
    search.files("first harness", task.seed_harness().files)
    if catalogue := task.playbook():
        search.values("playbook", "playbook", catalogue.model_dump(mode="json"))
    rows = search.found()
    findings = [_finding(each) for each in rows]
    if search.unread:
        many = f"{search.unread[0]} and {len(search.unread) - 1} more" if search.unread[1:] else search.unread[0]
        findings.append(Finding("leaks", "files not read", "look", f"no text, or too large to be searched: {many}"))
    return findings, {"places": [each.to_json() for each in rows], "unread": search.unread}


class _Search:
    """The hidden inputs, and where they were found so far."""

    def __init__(self, task: Task) -> None:
        self._instances = {split: task.instances(split) for split in (*LABELLED, "sealed")}
        self._keys: defaultdict[str, list[tuple[Split, str]]] = defaultdict(list)
        self._shapes: set[object] = set()
        self._sizes: Counter[tuple[Split, bool]] = Counter()
        texts: dict[str, str] = {}
        self._named: dict[str, tuple[Split, str]] = {}
        for split in HIDDEN:
            for instance in self._instances[split]:
                text = _text(instance)
                name = f"{split}/{instance.id}"
                texts[name], self._named[name] = text, (split, instance.id)
                self._sizes[split, len(text) < LEAST_NEAR] += 1
                for key in _keys(instance):
                    self._keys[key].append((split, instance.id))
                self._shapes.update(map(_shape, _wholes(instance)))
        self._contained = Contained(texts)
        self._closest = Closest(texts, Weights(_text(each) for split in LABELLED for each in self._instances[split]))
        self._near: dict[str, dict[str, float]] = {}
        self._table: dict[tuple[Split, str], Overlap] = {}
        self.unread: list[str] = []

    def found(self) -> list[Overlap]:
        return list(self._table.values())

    def split(self, place: Split) -> None:
        """Compare with the inputs of a labelled split."""
        others = [split for split in HIDDEN if split != place]
        self._rows(SPLITS, others)
        for instance in self._instances[place]:
            where = f"{place} {instance.id}"
            for split, name in (pair for key in _keys(instance) for pair in self._keys.get(key, ())):
                if split in others:
                    self._row(split, SPLITS).exact.setdefault(name, where)
            self._add_near(_text(instance), SPLITS, where, others)

    def repeated(self, split: Split) -> None:
        """Note which inputs of a hidden split are the same."""
        row = self._row(split, split)
        first_of: dict[str, str] = {}
        for instance in self._instances[split]:
            first = next((first_of[key] for key in _keys(instance) if key in first_of), None)
            if first is not None:
                row.exact[instance.id] = first
            for key in _keys(instance):
                first_of.setdefault(key, instance.id)

    def folder(self, place: str, folder: Path) -> None:
        """Search every file of a folder that holds text."""
        files, room = {}, MOST_BYTES
        for path in sorted(each for each in folder.rglob("*") if each.is_file() and not each.is_symlink()):
            name = path.relative_to(folder).as_posix()
            if os.path.getsize(path) > room:
                self.unread.append(name)
                continue
            files[name] = path.read_bytes()
            room -= len(files[name])
        self.files(place, files)

    def files(self, place: str, files: Mapping[str, bytes]) -> None:
        """Search files by name."""
        self._rows(place, HIDDEN)
        for name, content in files.items():
            try:
                text = content.decode("utf-8-sig")
            except UnicodeDecodeError:
                self.unread.append(name)
                continue
            for value in _parsed(name, text):
                self.values(place, name, value)

    def values(self, place: str, where: str, value: Any) -> None:
        """Search JSON: every object and list of it as a whole, every string also for what it contains."""
        self._rows(place, HIDDEN)
        for part in _parts(value):
            text = essence(part) if isinstance(part, str) else ""
            key = text if len(text) >= LEAST_TEXT else _key(part) if _shape(part) in self._shapes else ""
            matches = [*self._keys.get(key, ()), *(self._named[name] for name in self._contained.inside(text))]
            for split, name in matches:
                self._row(split, place).exact.setdefault(name, where)
            self._add_near(text, place, where, HIDDEN)

    def _rows(self, place: str, splits: Sequence[Split]) -> None:
        """Have a row for each split, also where nothing is found."""
        for split in splits:
            self._row(split, place)

    def _row(self, split: Split, place: str) -> Overlap:
        key = (split, place)
        if key not in self._table:
            short = self._sizes[split, True]
            self._table[key] = Overlap(split, place, short + self._sizes[split, False], short)
        return self._table[key]

    def _add_near(self, text: str, place: str, where: str, splits: Sequence[Split]) -> None:
        if text not in self._near:
            self._near[text] = self._closest.near(text)
        for key, cosine in self._near[text].items():
            split, name = self._named[key]
            if split not in splits:
                continue
            row = self._row(split, place)
            if name not in row.exact and cosine > row.near.get(name, ("", NEAR))[1]:
                row.near[name] = (where, cosine)


def _finding(row: Overlap) -> Finding:
    """A row in a sentence."""
    near = {name: each for name, each in row.near.items() if name not in row.exact}
    exact, size = len(row.exact), row.size
    if row.place == row.split:
        says = f"{exact} of {size} repeat another one of the split" if exact else f"no two of {size} are the same"
        return Finding("leaks", f"{row.split} repeated", "look" if exact else "ok", says)
    about, parts = f"{row.split} in {row.place}", []
    if exact:
        some = ", ".join(f"{name} ({where})" for name, where in sorted(row.exact.items())[:EXAMPLES])
        parts.append(f"{exact} of {size} inputs are there as they are, such as {some}; take them out of one of the two")
    if near:
        top = sorted(near.items(), key=lambda item: (-item[1][1], item[0]))[:EXAMPLES]
        some = ", ".join(f"{name} ({where}, {cosine:.2f})" for name, (where, cosine) in top)
        parts.append(f"{len(near)} of {size} have a near duplicate (cosine above {NEAR}), such as {some}")
    if not parts:
        parts.append(f"none of {size} inputs is there, nor one close to it")
    if row.short:
        parts.append(f"{row.short} are too short to be called close to anything")
    bad = (exact and (row.split == "sealed" or exact >= EXACT_BAD * size)) or len(near) >= NEAR_BAD * size
    return Finding("leaks", about, "bad" if bad else "look" if exact or near else "ok", "; ".join(parts))


def _parsed(name: str, text: str) -> Iterator[Any]:
    """A file's values: JSON, JSON lines or cells where it is such a file; else the text as a whole, and its lines."""
    if name.endswith((".json", ".jsonl", ".ndjson")):
        try:
            yield json.loads(text)
            return
        except (ValueError, RecursionError):
            pass
        for line in text.split("\n"):
            try:
                yield json.loads(line)
            except (ValueError, RecursionError):
                yield line
        return
    if name.endswith((".csv", ".tsv")):
        with suppress(csv.Error):
            yield list(csv.reader(io.StringIO(text, newline=""), delimiter="\t" if name.endswith(".tsv") else ","))
    yield text
    yield from dict.fromkeys([*text.split("\n"), *_BETWEEN.split(text)])


def _parts(value: Any) -> Iterator[Any]:
    """Every object, list and string of a JSON value, in its order; not recursive, since files nest as they like."""
    waiting = [value]
    while waiting:
        part = waiting.pop()
        if isinstance(part, str | dict | list):
            yield part
        if isinstance(part, dict | list):
            waiting.extend(reversed(list(part.values()) if isinstance(part, dict) else part))


def _text(instance: Instance) -> str:
    """The essence of an input's strings, one after another."""
    return essence("".join(part for part in _parts(dict(instance.input)) if isinstance(part, str)))


def _wholes(instance: Instance) -> list[Any]:
    """Parts of an input to find by equality: all of it, and lists too long to be equal by chance."""
    lists = [part for part in _parts(dict(instance.input)) if isinstance(part, list) and len(part) >= LEAST_TEXT]
    return [dict(instance.input), *lists]


def _keys(instance: Instance) -> set[str]:
    """By what an input is found: its wholes, and its text where that is long enough to be one."""
    text = _text(instance)
    return {key for key in (*map(_key, _wholes(instance)), text if len(text) >= LEAST_TEXT else "") if key}


def _shape(value: Any) -> object:
    """A quick key that is the same for equal objects and for equal lists."""
    return frozenset(value) if isinstance(value, dict) else len(value) if isinstance(value, list) else ""


def _key(value: Any) -> str:
    """An object or list in one spelling, whatever its strings are dressed in; empty for what is no JSON."""
    try:
        return canonical(_plain(value))
    except (ValueError, RecursionError):
        return ""


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return essence(value)
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
