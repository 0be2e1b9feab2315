"""The user's own settings of updates, over what learners advise and improvers decide."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from sia_core.decision import Training
from sia_core.errors import UsageError, faults

CUT = frozenset({"steps", "prompts", "seconds"})
"""Settings that an improver may lower, to fit a budget."""


@dataclass(frozen=True)
class UserSettings:
    """Some fields of :class:`Training`, by name."""

    fields: Mapping[str, Any]

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> UserSettings:
        """Checked settings, from texts or values; UsageError names the first that is wrong."""
        try:
            checked = Training.model_validate(dict(settings))
        except ValidationError as error:
            names = sorted({*Training.model_fields, "temperature"})
            raise UsageError(f"--train {faults(error, names)}. The settings are {', '.join(names)}") from None
        return cls({name: getattr(checked, name) for name in checked.model_fields_set})

    def over(self, advised: Training) -> Training:
        """A learner's advice with the user's settings in place of the learner's."""
        return advised.model_copy(update=dict(self.fields))

    def within(self, decided: Training) -> Training:
        """An improver's decision with the user's settings: exactly, or at most where a budget may cut them."""
        fields = {
            name: value
            for name, value in self.fields.items()
            if name not in CUT or (choice := getattr(decided, name)) is None or choice > value
        }
        return decided.model_copy(update=fields)
