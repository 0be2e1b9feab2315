"""Computes without end."""

SECONDS = 0.5


def solve(instance, ctx):
    while True:
        pass
