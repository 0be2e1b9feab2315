"""Names the criminal charge of a case: score every charge, and let the run's model, if it has one, choose."""

import scorer


def setup(ctx):
    return scorer.fit(ctx.public)


def solve(instance, ctx):
    text = instance.input["text"]
    scores = scorer.score(ctx.state, text)
    question = scorer.question(text, scores) if ctx.has_model else None
    if question is None:
        return {"charge": max(scores, key=scores.get)}
    reply = ctx.model(**question, temperature=0, max_tokens=64)
    return {"charge": reply["choices"][0]["message"]["content"]}
