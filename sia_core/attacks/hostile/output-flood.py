"""Prints without end."""

import os

SECONDS = 5.0
INSTANCES = 1


def solve(instance, ctx):
    while True:
        os.write(1, b"x" * 4096)
