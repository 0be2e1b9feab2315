"""Settings of an offer, as a command line or a file gives them, checked by a pydantic model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from sia_core.errors import UsageError, faults

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
        names = [name for name in model.model_fields if name not in RESERVED]
        raise UsageError(f"{where} {faults(error, names)}. The settings are {', '.join(names)}") from None
