"""Asks the run's model once, and reads the answer out of its reply."""

import about
import asking
import reading
import shots


def setup(ctx):
    return shots.load(ctx.public)


def solve(instance, ctx):
    if not ctx.has_model:
        return {"answer": ""}
    messages = asking.messages(instance.input["question"], ctx.state)
    return {"answer": decide(messages, ctx)}


def decide(messages, ctx):
    return reading.answer(reply(messages, ctx, temperature=0))


def reply(messages, ctx, **settings):
    said = ctx.model(messages, max_tokens=about.TOKENS, **settings)
    return said["choices"][0]["message"]["content"] or ""
