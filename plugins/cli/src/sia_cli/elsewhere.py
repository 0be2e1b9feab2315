"""Modules of SIA's other distributions, imported by name when they are needed."""

from __future__ import annotations

import importlib
from types import ModuleType


def imported(module: str, what: str) -> ModuleType:
    """A module that another distribution of SIA may have; UsageError says how to get it, and for what."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if not f"{module}.".startswith(f"{error.name}."):
            raise
    from sia_core.errors import UsageError

    distribution = module.partition(".")[0].replace("_", "-")
    raise UsageError(f"`{what}` is in {distribution}, which is not installed: pip install {distribution}")
