#!/usr/bin/env python3
"""Ask the run about this folder: ./check working-1 runs a working copy, ./check decision reads decision.json."""

import os
import sys
import time
from pathlib import Path

CHECKS = Path(__file__).resolve().parent / "checks"


def main() -> int:
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    name = f"{time.time_ns()}-{os.getpid()}"
    (CHECKS / f"{name}.new").write_text(sys.argv[1])
    (CHECKS / f"{name}.new").rename(CHECKS / f"{name}.asked")
    answer, run = CHECKS / f"{name}.answered", int((CHECKS / "run").read_text())
    while not answer.exists():
        try:
            os.kill(run, 0)
        except ProcessLookupError:
            print("the run that this folder belongs to has ended", file=sys.stderr)
            return 1
        time.sleep(0.05)
    print(answer.read_text(encoding="utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
