"""Reads the file with the hidden labels, by every path that leads to it."""

from inside import TARGETS, loot

AGAINST = ("files",)


def solve(instance, ctx):
    ways = ("", "/proc/1/root", "/proc/self/root", "/proc/self/cwd/../../../../..", "../../../../../../../../..")
    return "".join(loot(way + path for way in ways for path in TARGETS["labels"]))[:4096]
