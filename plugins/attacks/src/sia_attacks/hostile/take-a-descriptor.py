"""Takes an open file out of another process of the user's."""

import os

from inside import TARGETS, attempt, call, read

AGAINST = ("processes",)
PIDFD_GETFD = 438


def taken(victim):
    handle = os.pidfd_open(victim["pid"])
    return os.pread(call(PIDFD_GETFD, handle, victim["descriptor"], 0), 100, 0).decode()


def solve(instance, ctx):
    victim = TARGETS["victim"]
    return [attempt(taken, victim), read(f"/proc/{victim['pid']}/fd/{victim['descriptor']}")]
