"""The cost of a generation as a run grows: seconds, Python calls, bytes of its folder; without a model.

    python bench/growth.py [--generations 200] [--every 25] [--improver playbook]

The loop, its ledger and the improver (``playbook``, or one that costs nothing) are real; the task, and what rolls
out, are fakes that answer at once. A row is the mean over the generations since the row before.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from durability.growth import COLUMNS, IMPROVERS, grow


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--generations", type=int, default=200, metavar="N", help="in all (default: 200)")
    parser.add_argument(
        "--every", type=int, default=25, metavar="N", help="print a row for every N edits (default: 25)"
    )
    parser.add_argument("--improver", choices=sorted(IMPROVERS), default="playbook", help="(default: playbook)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        marks = grow(Path(folder) / "run", options.generations, options.every, IMPROVERS[options.improver]())
    print("  ".join(f"{name:>14}" for name in COLUMNS))
    for before, after in pairwise(marks):
        size = after.generation - before.generation
        cells = ((getattr(after, name) - getattr(before, name)) / size for name in COLUMNS[1:])
        print("  ".join([f"{after.generation:14}", *(f"{cell:14,.3f}" for cell in cells)]))


if __name__ == "__main__":
    main()
