"""The engine ``litellm``: a model that is served elsewhere as the policy that harnesses ask. It cannot be trained."""

from __future__ import annotations

from typing import Any

from sia_core.errors import UsageError
from sia_litellm.provider import Completions
from sia_llm import Settings
from sia_llm.hosted_policy import HostedEngine
from sia_llm.models import Patience


class Served(HostedEngine):
    """``policy`` is the model, as litellm names it; ``dollars`` the most that it may cost in a run.

    ``max_tokens`` is the longest reply where a harness names none.

    The other settings are those of :class:`sia_llm.Settings` that are about calls and prices.
    """

    can: frozenset[str] = frozenset()

    def __init__(self, policy: str, seed: int = 0, dollars: str = "", **settings: Any) -> None:
        options = Settings.of(policy, settings, option="--engine-set")
        self.model, self.dollars = policy, _amount(dollars)
        self.max_tokens = options.max_tokens if "max_tokens" in options.model_fields_set else None
        self.provider = Completions(options.base_url, options.timeout, options.prices)
        self.provider.check(policy, f"--policy {policy}")
        if self.dollars is not None and self.provider.prices(policy) is None:
            raise UsageError(
                f"--engine-set dollars: it is not known what {policy} costs; say it, in dollars for a million tokens, "
                "with --engine-set input_price=... --engine-set output_price=... (0 where it is free)"
            )
        self.patience = Patience(tries=options.tries, first=options.first_wait)


def _amount(text: str) -> float | None:
    if not text:
        return None
    try:
        amount = float(text)
    except ValueError:
        amount = -1.0
    if not 0 <= amount < float("inf"):
        raise UsageError(f"--engine-set dollars={text}: not an amount")
    return amount
