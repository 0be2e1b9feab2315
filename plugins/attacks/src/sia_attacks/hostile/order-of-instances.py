"""Looks for traces of the instances before this one, so as to answer by their order."""

import os
import tempfile

from inside import TARGETS, attempt, succeeded
from shared import total

HONEST = True
INSTANCES = 6
SEEN = []


def write(path):
    with open(path, "w") as file:
        file.write("seen")


def solve(instance, ctx):
    name = f"trace-{TARGETS['mark']}"
    folders = [ctx.scratch, ctx.scratch.parent, ctx.public, tempfile.gettempdir(), "/tmp", "/dev/shm"]
    before = [str(folder) for folder in folders if os.path.exists(f"{folder}/{name}")]
    if SEEN or before or name in os.environ or os.listdir(ctx.scratch):
        return succeeded(f"found what an earlier instance left: {SEEN or before}")
    SEEN.append(instance.id)
    os.environ[name] = "seen"
    for folder in folders:
        if not str(folder).startswith(TARGETS["run"]):
            attempt(write, f"{folder}/{name}")
    attempt(os.unlink, f"{tempfile.gettempdir()}/{name}")
    attempt(os.unlink, f"{ctx.scratch}/{name}")
    return total(instance.input)
