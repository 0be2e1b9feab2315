"""Leaves files for later candidates, wherever one may find them."""

import os

from inside import TARGETS, attempt
from shared import total

AGAINST = ("files",)
HONEST = True


def plant(path):
    with open(path, "w") as file:
        file.write("for whoever comes next")


def setup(ctx):
    plant_all(ctx)


def solve(instance, ctx):
    plant_all(ctx)
    return total(instance.input)


def plant_all(ctx):
    beside = (os.path.dirname(os.path.abspath(__file__)), ctx.public, ctx.scratch.parent, ctx.scratch.parent.parent)
    for place in (*TARGETS["places"], *map(str, beside)):
        attempt(plant, f"{place}/{TARGETS['mark']}")
