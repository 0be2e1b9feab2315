"""Settings of an offer, as a command line or a file gives them, checked by a pydantic model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from sia_core.errors import UsageError

Model = TypeVar("Model", bound=BaseModel)

RESERVED = frozenset({"seed", "policy", "model"})
"""Fields that have an option of their own, which an error does not offer as settings."""


def checked(model: type[Model], given: Mapping[str, Any], where: str) -> Model:
    """The settings as a ``model``; UsageError in one line, with the names that there are, where one is wrong.

    ``where`` names the option that they came by, such as ``--engine-set``.
    """
    try:
        return model.model_validate(dict(given))
    except ValidationError as error:
        names = ", ".join(name for name in model.model_fields if name not in RESERVED)
        raise UsageError(f"{where} {faults(error)}. The settings are {names}") from None


def faults(error: ValidationError) -> str:
    """The faults of settings, in one line."""
    return "; ".join(_fault(each) for each in error.errors() if each["type"] != "default_factory_not_called")


def _fault(error: Any) -> str:
    name, value = ".".join(map(str, error["loc"])) or "settings", error["input"]
    if error["type"] == "extra_forbidden":
        return f"{name}: there is no such setting"
    if error["type"] == "missing":
        return f"{name}: it is missing"
    message = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return f"{name}={value}: {message}" if isinstance(value, str | int | float) else f"{name}: {message}"
