"""Sends results from its set-up, before anything was asked."""

from inside import frame, send_everywhere

SECONDS = 1.0


def setup(ctx):
    result = {"op": "done", "job": 1, "outcome": "ok", "message": "", "rewards": [], "seconds": 0.0, "answer": 1}
    send_everywhere(frame({"op": "ready"}) + frame(result, b"1"))


def solve(instance, ctx):
    return None
