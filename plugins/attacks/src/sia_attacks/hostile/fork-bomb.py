"""Forks without end."""

import os

from inside import TARGETS, attempt, linger, succeeded

AGAINST = ("processes",)
INSTANCES = 1


def solve(instance, ctx):
    # Far more than it may, and no more than any machine can bear.
    most = 4 * TARGETS["limits"]["processes"]
    started = 0
    for _ in range(most):
        child = attempt(os.fork)
        if child == 0:
            linger()
        started += child is not None
    return succeeded(f"started {started} processes") if started == most else None
