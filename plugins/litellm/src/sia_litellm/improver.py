"""The improver ``litellm``."""

from __future__ import annotations

from typing import Any

from sia_core.agentic import ModelImprover, Settings
from sia_core.errors import UsageError
from sia_litellm.provider import Completions


class LiteLLM(ModelImprover):
    """``model`` decides, as litellm names it; the other settings are those of :class:`sia_core.agentic.Settings`."""

    def __init__(self, model: str = "", **settings: Any) -> None:
        if not model:
            raise UsageError(
                "--improver litellm: name a model as litellm does, such as litellm:openai/gpt-4o or, with "
                "--improver-set base_url=http://localhost:8000/v1, litellm:openai/NAME"
            )
        read = Settings.of(model, settings)
        provider = Completions(read.base_url, read.timeout, read.prices)
        if not read.replay:
            for each in filter(None, (model, read.draft_model)):
                provider.check(each, f"--improver litellm:{each}")
        super().__init__(provider, read)
