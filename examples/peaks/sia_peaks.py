"""The plugin: what it offers, and nothing heavy."""

from collections.abc import Iterable

from sia_core.hookspecs import Offer, hookimpl

sia_api = 1


@hookimpl
def sia_tasks() -> Iterable[Offer]:
    return [Offer("peaks", "find the highest square of a board that cannot be seen", "sia_peaks_task:Peaks")]


@hookimpl
def sia_verifiers() -> Iterable[Offer]:
    return [Offer("peaks", "the height of a square, as a noisy altimeter reads it", "sia_peaks_task:Altimeter")]
