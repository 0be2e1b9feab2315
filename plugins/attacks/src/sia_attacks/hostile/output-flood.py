"""Prints without end."""

import os

INSTANCES = 1


def solve(instance, ctx):
    while True:
        os.write(1, b"x" * 4096)
