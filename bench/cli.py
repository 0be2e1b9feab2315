"""The cost of `sia --help` and `sia plugins`, beside an empty interpreter, with 20 foreign plugins installed.

    python bench/cli.py [--rounds 15]

The three are started in turn, and the ratios are of the medians and of the minima. All of the environment's own
plugins are there beside the 20.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PLUGINS = 20
PLUGIN = """
from sia_core.hookspecs import Offer, hookimpl

sia_api = 1


@hookimpl
def sia_tasks():
    return [Offer("stranger-{number}", "a task", "stranger_{number}.task:Task")]
"""


def strangers(folder: Path) -> None:
    """Write distributions with an entry point each."""
    for number in range(PLUGINS):
        package, about = folder / f"stranger_{number}", folder / f"stranger_{number}-1.0.dist-info"
        package.mkdir()
        about.mkdir()
        (package / "__init__.py").write_text("")
        (package / "plugin.py").write_text(PLUGIN.format(number=number))
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: stranger-{number}\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text(f"[sia]\nstranger-{number} = stranger_{number}.plugin\n")


def seconds(command: list[str], environment: dict[str, str]) -> float:
    """How long a program takes from start to end."""
    started = time.perf_counter()
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> int:
    """Print a line for each command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    sia = str(Path(sys.executable).with_name("sia"))
    commands = {"empty": [sys.executable, "-c", ""], "sia --help": [sia, "--help"], "sia plugins": [sia, "plugins"]}
    with tempfile.TemporaryDirectory(prefix="sia-bench-") as name:
        strangers(Path(name))
        environment = {**os.environ, "PYTHONPATH": name}
        times: dict[str, list[float]] = {each: [] for each in commands}
        for _ in range(options.rounds + 1):
            for each, command in commands.items():
                times[each].append(seconds(command, environment))
    middle = {each: statistics.median(row[1:]) for each, row in times.items()}  # the first writes bytecode
    least = {each: min(row[1:]) for each, row in times.items()}
    for each in commands:
        print(
            f"{each:12} median {1000 * middle[each]:6.1f} ms ({middle[each] / middle['empty']:.2f} times empty), "
            f"least {1000 * least[each]:6.1f} ms ({least[each] / least['empty']:.2f})"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
