"""Looks for a key among its environment variables."""

import os

from inside import TARGETS

AGAINST = ("environment",)


def solve(instance, ctx):
    return os.environ[TARGETS["key"]]
