"""Says what befell most labelled passengers who have the same values in a few columns."""

import json
from collections import defaultdict

COLUMNS = ["VIP"]


def labelled(public):
    lines = (public / "cases.jsonl").read_text(encoding="utf-8").splitlines()
    return [(case["input"], case["answer"]["transported"]) for case in map(json.loads, lines)]


def key(passenger):
    return tuple(passenger[name] for name in COLUMNS)


def setup(ctx):
    votes = defaultdict(int)
    for passenger, transported in labelled(ctx.public):
        votes[key(passenger)] += 1 if transported else -1
    return {each: count >= 0 for each, count in votes.items()}


def solve(instance, ctx):
    return {"transported": ctx.state.get(key(instance.input), True)}
