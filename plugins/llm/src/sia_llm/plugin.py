"""Hooks of sia-llm."""

from __future__ import annotations

from sia_core.hookspecs import Offer, hookimpl

sia_api = 1


@hookimpl
def sia_improvers() -> list[Offer]:
    about = "a program of yours, such as a coding agent, that works in a folder: command:PROGRAM"
    return [Offer("command", about, "sia_llm.command:Command")]
