"""A stand-in for ``docker``: understands the words that SIA uses and runs the container with bubblewrap instead.

No word that it does not know is passed over, so that a misspelt one is noticed here. It
stands for the engine's part of the contract, not for the engine.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

PLACES = ("/usr", "/lib", "/lib64", "/etc/ld.so.cache")
PLAIN = {"--rm", "--interactive", "--read-only"}
FIXED = {"--network": "none", "--cap-drop": "ALL", "--security-opt": "no-new-privileges", "--ipc": "none"}


def main() -> None:
    state = Path(os.environ["STAND_IN_STATE"])
    match sys.argv[1:]:
        case ["version", "--format", _]:
            print("0.stand-in")
        case ["info", "--format", _]:
            print("true true")
        case ["kill", name]:
            os.kill(int((state / name).read_text()), signal.SIGKILL)
        case ["run", *words]:
            run(words, state)
        case other:
            sys.exit(f"the stand-in knows no {other}")


def run(words: list[str], state: Path) -> None:
    walls = ["bwrap", "--unshare-all", "--unshare-user", "--disable-userns", "--cap-drop", "ALL", "--new-session"]
    walls += ["--die-with-parent", "--as-pid-1", "--clearenv", "--uid", "1000", "--gid", "1000", "--proc", "/proc"]
    for place in (*PLACES, sys.base_prefix):
        walls += ["--ro-bind", os.path.realpath(place), place]
    walls += ["--dev", "/dev"]
    flags = set()
    while words[0].startswith("-"):
        word = words.pop(0)
        flags.add(word)
        if word in PLAIN:
            continue
        value = words.pop(0)
        if word in FIXED:
            assert FIXED[word] == value, (word, value)
        elif word == "--name":
            (state / value).write_text(str(os.getpid()))
        elif word == "--mount":
            about = dict(each.partition("=")[::2] for each in value.split(","))
            assert about.keys() == {"type", "src", "dst", "readonly"}, about
            walls += ["--ro-bind", about["src"], about["dst"]]
        elif word == "--tmpfs":
            place, _, options = value.partition(":")
            size = dict(each.partition("=")[::2] for each in options.split(","))["size"]
            walls += ["--perms", "0700", "--size", size, "--tmpfs", place]
        elif word == "--env":
            walls += ["--setenv", *value.split("=", 1)]
        else:
            assert word in ("--pids-limit", "--memory", "--memory-swap", "--user", "--workdir", "--ulimit"), word
    assert flags >= {*PLAIN, *FIXED, "--pids-limit", "--memory", "--memory-swap", "--user", "--tmpfs"}, flags
    image, python, *rest = words
    assert image.startswith("python:3.")
    assert python == "python"
    os.execvpe("bwrap", [*walls, "--remount-ro", "/", "--", sys.executable, *rest], {"PATH": os.environ["PATH"]})


if __name__ == "__main__":
    main()
