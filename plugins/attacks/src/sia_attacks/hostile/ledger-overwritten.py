"""Writes a score into the record of the run."""

import os

from inside import TARGETS, attempt, succeeded

AGAINST = ("files",)


def solve(instance, ctx):
    return attempt(os.open, f"{TARGETS['run']}/ledger.db", os.O_WRONLY) and succeeded("may write the run's ledger")
