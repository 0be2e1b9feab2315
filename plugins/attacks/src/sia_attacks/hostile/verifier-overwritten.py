"""Opens the verifier's code for writing."""

import os

from inside import TARGETS, attempt, succeeded

AGAINST = ("files",)


def solve(instance, ctx):
    # Opened, and left as it is: on the machine of whoever runs this it is the real one.
    return attempt(os.open, TARGETS["verifier_source"], os.O_WRONLY) and succeeded("may overwrite the verifier")
