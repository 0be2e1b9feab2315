"""A model that works on LawBench by script, for as long as a conversation may take: 60 replies, then it stops.

It reads the harness, failures and whole cases, edits and checks in turns as real models did, and writes long files.
"""

from __future__ import annotations

import re

from sia_testing.model_server import Asked, Turn, Use

REPLIES = 60
NEIGHBOURS = '''"""Scores a charge by the labelled case that is nearest to the text, in grams of two characters."""

import json
from collections import Counter
from math import log, sqrt

PHRASES = {phrases}


def fit(public):
    cases = [json.loads(line) for line in (public / "cases.jsonl").read_text(encoding="utf-8").splitlines()]
    names = json.loads((public / "charges.json").read_text(encoding="utf-8"))
    return {{"names": names, "cases": cases}}


def score(model, text):
    found = grams(text)
    scores = {{name: len(grams(name) & found) / len(grams(name)) for name in model["names"]}}
    for phrase, name in PHRASES.items():
        if phrase in text and name in scores:
            scores[name] += 0.1
    return scores


def question(text, scores):
    best = sorted(scores, key=scores.get, reverse=True)[:20]
    return {{"messages": [{{"role": "user", "content": text}}], "choices": best}}


def grams(text):
    return {{text[i : i + 2] for i in range(len(text) - 1)}}
'''
"""A scorer, to be filled with phrases of which every version has more."""


class Lawyer:
    """Plays the conversation; what a reply names, it has read in the results before."""

    def __init__(self) -> None:
        self._instances: list[str] = []

    def play(self, request: Asked) -> Turn:
        messages = [each for each in request.body["messages"] if each["role"] != "system"]
        self._instances += re.findall(r"^(\S+): \S+, reward 0", "\n".join(request.results), re.MULTILINE)
        return self._reply(sum(message["role"] == "assistant" for message in messages))

    def _reply(self, count: int) -> Turn:
        opening = [
            Turn("I look first.", [Use("list_files"), Use("read_file", {"path": "scorer.py"})]),
            Turn(uses=[Use("read_file", {"path": "harness.py"}), Use("read_public", {"path": "charges.json"})]),
            Turn(uses=[Use("failures")]),
            Turn(uses=[Use("failures", {"outcome": "ok"})]),
            Turn(uses=[Use("read_public", {"path": "charges.json", "first_line": 100})]),
        ]
        if count < len(opening):
            return opening[count]
        if count == REPLIES - 1:
            return Turn(uses=[Use("decide", {"changes": [{"lever": "stop", "reason": "this is a recording"}]})])
        round, step = divmod(count - len(opening), 5)
        return [
            Turn(uses=[self._case(2 * round), self._case(2 * round + 1)]),
            Turn("Its phrases tell it.", [Use("write_file", {"path": "scorer.py", "text": self._scorer(round)})]),
            Turn(uses=[Use("check")]),
            Turn(uses=[Use("read_file", {"path": "scorer.py"}), self._case(2 * round + 20)]),
            Turn("I look at what is left.", [Use("search_files", {"text": "grams"}), Use("failures")]),
        ][step]

    def _case(self, number: int) -> Use:
        return Use("trajectory", {"instance": self._instances[number % len(self._instances)]})

    def _scorer(self, round: int) -> str:
        phrases = {f"phrase {number} of a crime": "盗窃" for number in range(20 + 10 * round)}
        lines = "".join(f"    {phrase!r}: {name!r},\n" for phrase, name in phrases.items())
        return NEIGHBOURS.format(phrases=f"{{\n{lines}}}")
