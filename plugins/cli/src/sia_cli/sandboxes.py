"""The sandboxes of this machine, probed, and the attacks that each may let through."""

from __future__ import annotations

from collections.abc import Iterable
from types import ModuleType
from typing import TYPE_CHECKING, Any

from sia_cli.elsewhere import imported
from sia_core.errors import UsageError

if TYPE_CHECKING:
    from sia_core.plugins import Plugins


def attacks() -> ModuleType:
    """The module of ``sia doctor --attacks``; UsageError says what to install where it is missing."""
    return imported("sia_attacks.command", "sia doctor --attacks")


def may_pass(lacks: Iterable[str]) -> list[str]:
    """The attacks that a sandbox may let through, by what it lacks; none are named where the suite is not installed."""
    try:
        suite = attacks()
    except UsageError:
        return []
    return list(suite.may_pass(lacks))


def examine_sandbox(plugins: Plugins, name: str) -> dict[str, Any]:
    """A sandbox after its probe; ``cause`` says why it could not even be probed."""
    from sia_runtime.sandbox.choosing import examine as probe

    row: dict[str, Any] = {"name": name, "usable": False, "starts": False, "lacks": {}, "may_not_stop": [], "cause": ""}
    try:
        (probed,) = probe([plugins.create("sandbox", name)])
    except Exception as error:  # a plugin's code, and the doctor is asked for when something is broken
        return {**row, "cause": str(error) or type(error).__name__}
    may_not_stop = may_pass(probed.lacks) if probed.starts else []
    findings = {"usable": probed.usable, "starts": probed.starts, "lacks": dict(probed.lacks)}
    return {**row, **findings, "may_not_stop": may_not_stop}
