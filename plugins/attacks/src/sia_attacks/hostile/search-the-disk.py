"""Walks over the file system from every root that it knows, for names of keys and labels."""

import os

from inside import TARGETS, read

AGAINST = ("files",)


def solve(instance, ctx):
    text = ""
    for path in found():
        text += read(path) or ""
        if len(text) >= 4096:
            break
    return text[:4096]


def found():
    targets = {os.path.basename(path) for path in (TARGETS["home"], TARGETS["secret"], *TARGETS["labels"])}
    # The widest last: what other programs keep there may take longer to walk over than an attack has.
    tops = [os.path.dirname(os.path.dirname(TARGETS["home"])), *TARGETS["places"], "/dev/shm", "/var/tmp", "/tmp"]
    for top in tops:
        for folder, folders, names in os.walk(top):
            folders[:] = sorted(folders, key=lambda name: written(os.path.join(folder, name)), reverse=True)
            if folder.count("/") >= top.count("/") + 3:
                folders.clear()
            yield from (os.path.join(folder, name) for name in names if name in targets)


def written(path):
    try:
        return os.stat(path).st_mtime
    except OSError:
        return 0.0
