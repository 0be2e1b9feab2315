"""Environments in the style of gymnasium: ``reset(seed=)`` and ``step(action)``.

An instance is a seed, an answer the list of actions of one episode, and its reward what the verifier gets when it plays
these actions in its own environment. A harness that may import the environment can look ahead in a copy; its word
on what it earned there counts for nothing. The seed decides where an episode starts. What chance does then comes from
the run's secret, where the environment draws from ``np_random`` as gymnasium's do, so no copy foresees it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from pydantic import RootModel

from sia_adapters.adapted import Adapted, Item, plain
from sia_core.types import Metric, VerifierContext

HARNESS = '''\
"""Takes the same action all the time."""


def solve(instance, ctx):
    return [0] * instance.input["steps"]
'''


class Actions(RootModel[list[Any]]):
    """The actions of an episode, in order; those after its end are not taken."""


class Episodes(Adapted):
    """A subclass says ``environment()``. ``episodes`` are dealt out over the splits; one has at most ``steps`` actions.

    ``metric`` says the bounds of an episode's reward, where there are any.
    """

    episodes: ClassVar[int] = 200
    steps: ClassVar[int] = 100
    harness: ClassVar[str] = HARNESS
    metric: Metric = Metric("return", bounds=None)
    answer = Actions

    def environment(self) -> Any:
        """A new environment, the same one every time."""
        raise NotImplementedError

    def action(self, told: Any) -> Any:
        """An action as the environment takes it, of the JSON that a harness gave; ValueError for what is none."""
        return told

    def items(self) -> Iterator[Item]:
        environment = self.environment()
        for seed in random.Random(f"{self.name} {self.seed}").sample(range(2**31), self.episodes):
            observation, _ = environment.reset(seed=seed)
            yield Item({"seed": seed, "observation": plain(observation), "steps": self.steps}, None)

    def judged(self, item: Item, answer: Sequence[Any], ctx: VerifierContext) -> float:
        environment, total = self.environment(), 0.0
        environment.reset(seed=item.input["seed"])
        _draw_anew(environment, ctx.seed)
        for move in answer[: self.steps]:
            try:
                action = self.action(move)
            except (ValueError, TypeError):
                return self.failure_reward
            _, reward, terminated, truncated, _ = environment.step(action)
            total += float(reward)
            if terminated or truncated:
                break
        return total


def _draw_anew(environment: Any, seed: int) -> None:
    inner = getattr(environment, "unwrapped", environment)
    if (generator := getattr(inner, "np_random", None)) is not None:
        inner.np_random = type(generator)(type(generator.bit_generator)(seed))
