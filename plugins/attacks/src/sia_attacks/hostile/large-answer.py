"""Answers with a little more than an answer may have."""


def solve(instance, ctx):
    return "x" * (1 << 20)
