"""Answers with JSON so deep that a reader which recurses dies of it."""

from inside import done, send_everywhere

SECONDS = 1.0


def solve(instance, ctx):
    send_everywhere(done(b"[" * 30_000 + b"]" * 30_000))
    return
