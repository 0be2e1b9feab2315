"""What a task may offer beside its protocol: its instances in another guise, for the check of a closed run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

from sia_core.errors import PluginError
from sia_core.types import Instance, Task


@runtime_checkable
class Perturbs(Protocol):
    """A task that can show an instance in another guise, of the same answer for whoever understands it.

    ``perturbation`` says in a few words what is changed.
    """

    perturbation: str

    def perturbed(self, instance: Instance) -> Mapping[str, Any]:
        """The input of the instance in its other guise; the same one every time."""


def perturbation_of(task: Task) -> str | None:
    """What the task changes in a perturbed instance; None where it offers no other guise."""
    return task.perturbation if isinstance(task, Perturbs) else None


def perturb(task: Task, instance: Instance) -> Instance:
    """The instance in its other guise; its id stays, by which its verifier knows it."""
    if not isinstance(task, Perturbs):
        raise PluginError(f"the task {task.name!r} offers no perturbation")
    return replace(instance, input=task.perturbed(instance))
