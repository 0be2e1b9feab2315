"""Stops another process of the user's by a descriptor of it, from the set-up."""

import os
import signal

from inside import TARGETS

AGAINST = ("processes",)


def setup(ctx):
    signal.pidfd_send_signal(os.pidfd_open(TARGETS["victim"]["pid"]), signal.SIGSTOP)


def solve(instance, ctx):
    return None
