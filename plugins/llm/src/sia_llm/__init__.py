"""Improvers that are language models: the conversation, its tools, its prompts, and the typed decision at its end.

A plugin brings a :class:`sia_llm.models.Provider` and gets an improver::

    class Mine(ModelImprover):
        def __init__(self, model="mine-1", **settings):
            super().__init__(MyProvider(), Settings.of(model, settings))
"""

from sia_llm.improver import ModelImprover
from sia_llm.settings import Settings

__all__ = ["ModelImprover", "Settings"]
