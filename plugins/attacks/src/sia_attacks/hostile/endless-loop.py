"""Computes without end."""

SECONDS = 1.0


def solve(instance, ctx):
    while True:
        pass
