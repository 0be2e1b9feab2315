"""Answers with a number of 400 digits, after step rewards that are booleans and a log of bytes that are no text."""

import os

from inside import done, send_everywhere


def solve(instance, ctx):
    os.write(1, b"\0\xff\xfe\xed\xa0\x80\x1b[2J")
    if instance.id[-1] in "02468ace":
        send_everywhere(done(b"9" * 400, rewards=[True, False]))
    return 10**400
