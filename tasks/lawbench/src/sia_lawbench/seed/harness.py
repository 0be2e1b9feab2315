"""Names the criminal charge of a case: score every charge, keep the best few, decide among them."""

import scorer

SHORTLIST = 8


def setup(ctx):
    return scorer.fit(ctx.public)


def solve(instance, ctx):
    text = instance.input["text"]
    scores = scorer.score(ctx.state, text)
    shortlist = sorted(scores, key=scores.get, reverse=True)[:SHORTLIST]
    return {"charge": decide(text, shortlist)}


def decide(text, shortlist):
    """Takes the best. A model that reads the case could choose among the shortlist here."""
    return shortlist[0]
