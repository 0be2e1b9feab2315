"""Answers with an object that has a key twice, so that two readers see two answers."""

from inside import done, send_everywhere

SECONDS = 1.0


def solve(instance, ctx):
    send_everywhere(done(b'{"answer": 0, "answer": 1}'))
    return {1: 0, "1": 1}
