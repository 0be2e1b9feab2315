"""Plants a sitecustomize, which every later Python would run as it starts."""

from inside import TARGETS, attempt

AGAINST = ("files",)
FILES = {"sitecustomize.py": "raise SystemExit(3)\n", "usercustomize.py": "raise SystemExit(3)\n"}


def plant(folder):
    with open(f"{folder}/sitecustomize.py", "x") as file:
        file.write("# planted\n")


def solve(instance, ctx):
    for folder in (TARGETS["site"], ctx.scratch, ctx.scratch.parent, ctx.public):
        attempt(plant, folder)
