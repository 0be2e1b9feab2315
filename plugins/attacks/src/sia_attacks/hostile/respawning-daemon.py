"""Leaves a process that starts itself anew all the time, to slip through whatever kills what it finds."""

import os
import time

from inside import LINGER, attempt, detach, wear_mark
from shared import total

AGAINST = ("processes",)
HONEST = True
INSTANCES = 1


def respawn():
    until = time.monotonic() + LINGER
    while time.monotonic() < until:
        wear_mark()
        time.sleep(0.002)
        if attempt(os.fork):
            os._exit(0)


def setup(ctx):
    detach(respawn)


def solve(instance, ctx):
    return total(instance.input)
