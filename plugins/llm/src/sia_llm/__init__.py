"""Improvers that are language models: the conversation, its tools, its prompts, and the typed decision at its end.

A plugin brings a :class:`sia_llm.models.Provider` and gets an improver::

    class Mine(ModelImprover):
        def __init__(self, model="mine-1", **settings):
            super().__init__(MyProvider(), Settings.of(model, settings))
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sia_llm.improver import ModelImprover
    from sia_llm.settings import Settings

__all__ = ["ModelImprover", "Settings"]

_WHERE = {"ModelImprover": "sia_llm.improver", "Settings": "sia_llm.settings"}


def __getattr__(name: str) -> object:
    """An improver's base and settings are imported when asked for, so that listing plugins imports nothing heavy."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)
