"""Answers, and leaves a thread that changes its answer afterwards."""

import threading

from inside import done, send_everywhere


def later():
    while True:
        send_everywhere(done(b"1"))


def solve(instance, ctx):
    threading.Thread(target=later, daemon=True).start()
    return "no answer at all"
