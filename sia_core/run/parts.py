"""The parts that a run works with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sia_core.errors import SiaError, Unfinished, excerpt
from sia_core.plugins import Plugins
from sia_core.run.budget import Budget
from sia_core.run.ledger import Ledger
from sia_core.run.levers import HarnessLever, Lever
from sia_core.run.observe import Emitter
from sia_core.run.rollouts import Rollouts
from sia_core.run.trees import Trees
from sia_core.types import Improver, Task

if TYPE_CHECKING:
    from sia_core.run.approval import Approval


@dataclass(frozen=True)
class Parts:
    """The parts of one run, made by :mod:`sia_core.run.start` from its configuration.

    ``levers`` are those that the run pulls, by name; ``can`` are the abilities of its engine, where a
    lever needs one. ``approval`` is None where nobody is asked.
    """

    task: Task
    improver: Improver
    rollouts: Rollouts
    ledger: Ledger
    trees: Trees
    budget: Budget
    emit: Emitter
    approval: Approval | None = None
    levers: Mapping[str, Lever] = field(default_factory=lambda: {"harness": HarnessLever()})
    plugins: Plugins = field(default_factory=Plugins)
    can: frozenset[str] = frozenset()


@contextmanager
def faults_of(plugin: str) -> Iterator[None]:
    """Raise the faults of a plugin under its name."""
    try:
        yield
    except (SiaError, Unfinished):
        raise
    except Exception as error:
        raise SiaError(f"{plugin} failed: {type(error).__name__}: {excerpt(str(error))}") from error
