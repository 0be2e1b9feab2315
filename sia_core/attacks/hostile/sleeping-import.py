"""Sleeps while it is imported."""

import time

SECONDS = 0.5

time.sleep(60)


def solve(instance, ctx):
    return None
