"""Rewrites, through its own folder, a file that an honest candidate has too."""

import os

from inside import attempt

AGAINST = ("files",)


def rewrite(path):
    with open(path, "w") as file:
        file.write("def total(given):\n    return 'spoilt'\n")


def setup(ctx):
    path = f"{os.path.dirname(os.path.abspath(__file__))}/shared.py"
    attempt(os.chmod, path, 0o666)
    attempt(rewrite, path)


def solve(instance, ctx):
    return None
