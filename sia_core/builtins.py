"""The core's own offers. They travel the same road as a stranger's."""

from __future__ import annotations

from sia_core.hookspecs import Offer, hookimpl

sia_api = 1


@hookimpl
def sia_levers() -> list[Offer]:
    return [Offer("harness", "edits of an agent's files", "sia_core.run.levers:HarnessLever")]
