"""Keeps data in a file that is memory, on no account and of no size limit."""

import os

from inside import attempt, succeeded

AGAINST = ("total_memory",)
INSTANCES = 1


def solve(instance, ctx):
    return attempt(os.memfd_create, "hidden") and succeeded("made a file in memory")
