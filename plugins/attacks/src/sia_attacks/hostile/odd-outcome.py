"""Sends, from its set-up, results whose outcome is a list: what looks it up in a set of known ones fails."""

from inside import done, send_later

SECONDS = 2.0


def setup(ctx):
    send_later(done(b"1", job=job, seconds=0.1, answer=1, outcome=[]) for job in range(1, 30))


def solve(instance, ctx):

    while True:
        pass
