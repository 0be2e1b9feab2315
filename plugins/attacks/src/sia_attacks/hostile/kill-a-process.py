"""Kills another process of the user's."""

import os
import signal

from inside import TARGETS

AGAINST = ("processes",)


def solve(instance, ctx):
    os.kill(TARGETS["victim"]["pid"], signal.SIGKILL)
