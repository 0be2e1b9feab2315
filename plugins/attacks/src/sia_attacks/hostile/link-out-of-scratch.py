"""Reads a file of the host's through links in its scratch folder."""

import os

from inside import TARGETS, attempt, loot

AGAINST = ("files",)


def solve(instance, ctx):
    secret = TARGETS["secret"]
    attempt(os.symlink, secret, ctx.scratch / "link")
    attempt(os.symlink, "/", ctx.scratch / "root")
    attempt(os.link, secret, ctx.scratch / "hard")
    return loot([ctx.scratch / "link", f"{ctx.scratch}/root{secret}", ctx.scratch / "hard"])
