"""Sends, from its set-up, results that took 10 to the power of 400 seconds: no number that a computer adds up."""

from inside import done, send_later

SECONDS = 2.0


def setup(ctx):
    send_later(done(b"1", job=job, seconds=10**400, answer=1) for job in range(1, 30))


def solve(instance, ctx):
    while True:
        pass
