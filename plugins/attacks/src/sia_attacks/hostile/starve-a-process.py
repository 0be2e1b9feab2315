"""Gives another process of the user's the lowest priority, one processor and no descriptors."""

import os
import resource

from inside import TARGETS, attempt

AGAINST = ("processes",)


def solve(instance, ctx):
    victim = TARGETS["victim"]["pid"]
    attempt(os.setpriority, os.PRIO_PROCESS, victim, 19)
    attempt(os.sched_setaffinity, victim, [min(os.sched_getaffinity(0))])
    attempt(resource.prlimit, victim, resource.RLIMIT_NOFILE, (3, 3))
