"""Task folders of the released SIA as tasks."""

from __future__ import annotations

from sia_core.hookspecs import Offer, hookimpl

sia_api = 1


@hookimpl
def sia_tasks() -> list[Offer]:
    return [
        Offer("folder", "a task folder of the released SIA: --task-dir DIR", "sia_released.task:Folder"),
    ]


@hookimpl
def sia_verifiers() -> list[Offer]:
    return [
        Offer("evaluate", "the evaluate.py of a task folder", "sia_released.verifier:Evaluate"),
    ]
