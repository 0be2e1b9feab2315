"""The improver ``claude``."""

from __future__ import annotations

import os
from typing import Any

from sia_claude.provider import Messages
from sia_core.errors import UsageError
from sia_llm import ModelImprover, Settings

KEY = "ANTHROPIC_API_KEY"


class Claude(ModelImprover):
    """``model`` decides; the other settings are those of :class:`sia_llm.Settings`."""

    def __init__(self, model: str = "claude-sonnet-4-6", **settings: Any) -> None:
        options = Settings.of(model, settings)
        super().__init__(Messages(os.environ.get(KEY, ""), options), options)

    def check(self) -> None:
        """UsageError without a key, where one is needed."""
        if not os.environ.get(KEY) and not self.settings.replay:
            raise UsageError(
                f"--improver claude asks Anthropic's API and needs a key: set the environment variable {KEY}. "
                "Without a key there is `--improver playbook`, which asks no model."
            )
