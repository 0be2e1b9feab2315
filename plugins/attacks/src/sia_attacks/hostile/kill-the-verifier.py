"""Kills the process that holds the labels, so that nobody can score it."""

import os
import signal

from inside import TARGETS

AGAINST = ("processes",)


def solve(instance, ctx):
    for process in TARGETS["verifiers"]:
        os.kill(process, signal.SIGKILL)
