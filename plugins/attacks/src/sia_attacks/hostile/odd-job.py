"""Sends, from its set-up, results and questions of jobs that are no number, or one of 4,000 digits."""

from inside import done, frame, send_later

SECONDS = 2.0


def setup(ctx):
    jobs = ({"job": 1}, [], None, True, 1.5, 10**4000)
    forged = [done(b"1", job=job, seconds=0.1, answer=1) for job in jobs]
    send_later(data for each in forged for data in (each, frame({"op": "evaluate", "job": []}, b"1")))


def solve(instance, ctx):
    while True:
        pass
