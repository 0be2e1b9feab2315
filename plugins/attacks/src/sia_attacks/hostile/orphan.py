"""Lives on when the process that supervises its sandbox is killed."""

import os

from inside import linger
from shared import total

AGAINST = ("processes",)
HONEST = True
SUPERVISOR_DIES = True


def setup(ctx):
    for _ in range(2):
        if os.fork() == 0:
            linger()


def solve(instance, ctx):
    return total(instance.input)
