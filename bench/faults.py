"""A run's record after its process is killed, or its disk fails, at every file system call in turn.

    python bench/faults.py [--runs ledger,loop,sums] [--every 1] [--show 5]

Prints a line for each run and kind of fault; all that follows ``injected`` should be
zero. The exit code is 1 where it is not. ``sums`` is a real run of examples/sums, with
its sandbox and its verifier. Needs ``strace``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from durability import faults


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", default="ledger,loop", help="of ledger, loop, sums (default: ledger,loop)")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="each N-th call only (default: 1)")
    parser.add_argument(
        "--show", type=int, default=5, metavar="N", help="print at most N faults that went wrong (default: 5)"
    )
    options = parser.parse_args()
    print(faults.heading(), flush=True)
    bad = False
    for name in options.runs.split(","):
        with faults.Bench(name) as bench:
            for how, cases in bench.faults().items():
                tally = bench.tally(cases[:: options.every])
                print(faults.row(name, how, tally), flush=True)
                for line in tally.bad[: options.show]:
                    print(f"    {line}")
                bad = bad or bool(tally.bad)
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
