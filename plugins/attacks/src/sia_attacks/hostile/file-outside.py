"""Writes to files and folders of the host's."""

import os

from inside import TARGETS, attempt

AGAINST = ("files",)


def write(path):
    with open(path, "w") as file:
        file.write("written from inside")


def solve(instance, ctx):
    for path in (TARGETS["written"], TARGETS["secret"], f"{TARGETS['precious']}/new"):
        attempt(write, path)
    attempt(os.rename, f"{TARGETS['precious']}/thesis", ctx.scratch / "thesis")
