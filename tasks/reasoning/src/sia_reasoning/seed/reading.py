"""The answer in a reply: its last number, or its last line where answers are no numbers."""

import re

import about

NUMBER = re.compile(r"-?[0-9][0-9,]*(?:\.[0-9]+)?")
PLACE = -1


def answer(text):
    if about.NUMERIC:
        found = [number.rstrip(",").replace(",", "") for number in NUMBER.findall(text)]
    else:
        found = [line.strip() for line in text.splitlines() if line.strip()]
    return found[PLACE] if found else ""
