"""Calls its own failure by a name that nobody knows."""

from inside import done, send_everywhere

SECONDS = 1.0


def solve(instance, ctx):
    send_everywhere(done(b"1", outcome="promoted"))
    return
