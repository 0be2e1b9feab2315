"""The arms, and the runs of a comparison: which commands make them, and what was decided beforehand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from sia_core.errors import UsageError
from sia_core.run.beneath import read_plain
from sia_core.run.trust import remember

MANIFEST = "comparison.json"
MOST_BYTES = 2**20
BOTH = ("harness", "weights")


@dataclass(frozen=True)
class Arm:
    """One way to spend a budget. ``improver`` is None where the comparison's own decides."""

    name: str
    what: str
    levers: tuple[str, ...]
    improver: str | None = None
    generations: int | None = None


ARMS = {
    arm.name: arm
    for arm in (
        Arm("none", "the first agent, as it is", ("harness",), generations=0),
        Arm("harness", "the harness lever alone", ("harness",)),
        Arm("weights", "the weight lever alone", ("weights",)),
        Arm("both", "both levers, chosen on evidence", BOTH),
        Arm("fixed-alternation", "both levers in turn, whatever they earn", BOTH, "fixed-alternation"),
        Arm("random-choice", "both levers, by chance", BOTH, "random-choice"),
        Arm("best-of-n", "changes of the first agent by chance, the best of which stays", BOTH, "best-of-n"),
        Arm("learned", "both levers, by what they earned in the earlier runs of ./runs", BOTH, "learned"),
    )
}
USUAL = tuple(name for name in ARMS if name != "learned")
"""Without the one that needs earlier runs to learn from."""

QUICK = ("none", "harness", "weights", "both")


@dataclass(frozen=True)
class Cell:
    """A run of a comparison: an arm with a seed."""

    arm: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.arm}-{self.seed}"


@dataclass(frozen=True)
class Design:
    """The comparison, decided before anything is run. ``task`` and ``how`` are options of ``sia run``.

    ``improver`` decides in arms that name no improver; ``budget`` is each run's, as ``--budget`` has it;
    ``train`` goes to the runs that train.
    """

    task: tuple[str, ...]
    how: tuple[str, ...]
    improver: tuple[str, ...]
    arms: tuple[str, ...]
    seeds: int
    budget: str
    train: str = ""

    def __post_init__(self) -> None:
        if unknown := [name for name in self.arms if name not in ARMS]:
            raise UsageError(f"--arms: {', '.join(unknown)} is none; the arms are {', '.join(ARMS)}")
        if len(set(self.arms)) != len(self.arms) or len(self.arms) < 2:
            raise UsageError("--arms: name at least two different ones")
        if not 1 <= self.seeds <= 1000:
            raise UsageError("--seeds: from 1 to 1000")

    def cells(self) -> list[Cell]:
        """The runs, seed by seed, so that a comparison that is stopped has whole rows."""
        return [Cell(arm, seed) for seed in range(self.seeds) for arm in self.arms]

    def command(self, cell: Cell) -> list[str]:
        """The options of ``sia run`` that make a run of the comparison, but for where it lies."""
        arm = ARMS[cell.arm]
        improver = ("--improver", arm.improver) if arm.improver else self.improver
        generations = () if arm.generations is None else ("--generations", str(arm.generations))
        levers = ("--levers", ",".join(arm.levers))
        train = ("--train", self.train) if self.train and "weights" in arm.levers else ()
        options = (*self.task, *self.how, *improver, *levers, *train, *generations)
        return [*options, "--budget", self.budget, "--seed", str(cell.seed), "--name", cell.name]

    @classmethod
    def read(cls, folder: Path) -> Design | None:
        """The design of a comparison that was begun; None where there is none, UsageError where it cannot be read."""
        try:
            value: Mapping[str, Any] = json.loads(read_plain(folder, MANIFEST, most=MOST_BYTES))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:
            advice = "put it back from a copy, or compare in another folder"
            raise UsageError(f"{folder / MANIFEST} cannot be read: {error}; {advice}") from None
        try:
            return TypeAdapter(cls).validate_python(value["design"])
        except (LookupError, TypeError, ValueError):
            raise UsageError(f"{folder / MANIFEST} is not the design of a comparison") from None

    def write(self, folder: Path) -> None:
        """Put the design down, with the commands that it comes to, for people."""
        commands = {cell.name: ["sia", "run", *self.command(cell)] for cell in self.cells()}
        text = json.dumps({"design": asdict(self), "commands": commands}, indent=2, ensure_ascii=False)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            raise UsageError(f"{folder}: {error.strerror}") from None


def parse_arms(text: str) -> tuple[str, ...]:
    """``none,both`` as names."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def begun(folder: Path, request: Design | None) -> Design:
    """The design to go by: the one that was put down, which what is asked for now must not contradict."""
    design = Design.read(folder)
    if design is None:
        if request is None:
            raise UsageError(f"{folder} holds no comparison; name what to compare, such as --plugin lawbench --quick")
        request.write(folder)
        remember(asdict(request))
        return request
    if request is not None and request != design:
        different = [key for key, value in asdict(design).items() if asdict(request)[key] != value]
        raise UsageError(
            f"{folder} was begun with another {', '.join(different)}; `sia compare {folder}` goes on as it was begun, "
            "another folder begins anew"
        )
    return design
