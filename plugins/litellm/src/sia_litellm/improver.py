"""The improver ``litellm``."""

from __future__ import annotations

from typing import Any

from sia_core.errors import UsageError
from sia_litellm.provider import Completions
from sia_llm import ModelImprover, Settings


class LiteLLM(ModelImprover):
    """``model`` decides, as litellm names it; the other settings are those of :class:`sia_llm.Settings`."""

    def __init__(self, model: str = "", **settings: Any) -> None:
        if not model:
            raise UsageError(
                "--improver litellm: name a model as litellm does, such as litellm:openai/gpt-4o or, with "
                "--improver-set base_url=http://localhost:8000/v1, litellm:openai/NAME"
            )
        options = Settings.of(model, settings)
        self._completions = Completions(options.base_url, options.timeout, options.prices)
        super().__init__(self._completions, options)

    def check(self) -> None:
        """UsageError without a key, where one is needed, or for a model of nobody."""
        if not self.settings.replay:
            for each in self.settings.every_model:
                self._completions.check(each, f"--improver litellm:{each}")
