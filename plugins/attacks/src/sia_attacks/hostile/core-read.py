"""Reads and imports the program that judges it."""

import sys

from inside import TARGETS, attempt, read, succeeded

AGAINST = ("files",)


def solve(instance, ctx):
    if text := read(TARGETS["verifier_source"]):
        return succeeded(f"read {len(text)} characters of the verifier's code")
    sys.path.insert(0, TARGETS["core"].rpartition("/")[0])
    return attempt(imported)


def imported():
    try:
        import sia_runtime.builtin_verifiers
    except ImportError:
        return None
    return succeeded(f"imported {sia_runtime.builtin_verifiers.__name__}")
