"""Plants a .pth file, whose lines every later Python would run as it starts."""

from inside import TARGETS, attempt

AGAINST = ("files",)
FILES = {"evil.pth": "import os; os._exit(3)\n"}


def plant(folder):
    with open(f"{folder}/{TARGETS['mark']}.pth", "w") as file:
        file.write("# planted\n")


def solve(instance, ctx):
    for folder in (TARGETS["site"], ctx.scratch, ctx.scratch.parent, ctx.public):
        attempt(plant, folder)
