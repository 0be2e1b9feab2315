"""Leaves a process that nobody is the parent of."""

from inside import detach, linger
from shared import total

AGAINST = ("processes",)
HONEST = True
INSTANCES = 3


def setup(ctx):
    detach(linger)


def solve(instance, ctx):
    detach(linger)
    return total(instance.input)
