"""What is asked of sampling, and what comes back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sia_algorithms.contract import Trace


@dataclass(frozen=True)
class Request:
    """Continuations of one prompt, one for each of ``seeds``.

    What is sampled depends on the prompt, the seed, the weights and ``group``, and on
    nothing else that is asked for at the same time. ``group`` is how many samples of
    this prompt there will be in all, over several requests; they are decoded side by
    side, and by default are this request's own. Sampling ends with a token of
    ``tokens.stops``, one of ``stop`` in the text, or ``max_tokens``. ``choices`` and
    ``schema`` constrain it to one of these strings, or to JSON of that schema.
    ``temperature`` None is the engine's, which is what training computes with; 0 takes
    the likeliest token, with its log-probability at the engine's temperature.
    """

    prompt: Sequence[int]
    seeds: Sequence[int]
    max_tokens: int = 256
    group: int | None = None
    stop: Sequence[str] = ()
    choices: Sequence[str] = ()
    schema: Mapping[str, Any] | None = None
    temperature: float | None = None


@dataclass(frozen=True)
class Sampled:
    """One continuation of n tokens, among them the one that ended it.

    ``mask`` is 0 where a constraint left only one token: the policy chose nothing
    there. ``values`` are the value head's estimates of the state in which each token
    was chosen; ``allowed`` is as in a :class:`Trace`.
    """

    tokens: Sequence[int]
    mask: Sequence[int]
    logprobs: Sequence[float]
    values: Sequence[float]
    allowed: Sequence[Sequence[int] | None] | None
    text: str
    finish: Literal["stop", "length"]

    def trace(self, prompt: Sequence[int]) -> Trace:
        """The prompt and this continuation, to train on."""
        zeros = [0] * len(prompt)
        return Trace(
            tokens=[*prompt, *self.tokens],
            mask=[*zeros, *self.mask],
            logprobs=[*map(float, zeros), *self.logprobs],
            values=[*map(float, zeros), *self.values],
            allowed=None if self.allowed is None else [*[None] * len(prompt), *self.allowed],
        )
