"""Environments in the style of ``verifiers``: a dataset, and a rubric of weighted reward functions.

Of one turn: a harness is free to ask the model as often as it likes, and only its last word is judged. Nothing here
imports that library; what it needs of an environment are the attributes below.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

from sia_adapters.rows import Rows
from sia_core.errors import UsageError


class SingleTurn(Rows):
    """A subclass says ``environment()``, which returns what ``load_environment`` of that library would.

    Rows come from ``get_dataset()`` or ``dataset``, rewards from the functions of ``rubric``:
    each is called with those of ``prompt``, ``completion``, ``answer``, ``info``, ``task``,
    ``state``, ``parser`` and the row's columns that it takes. ``hidden`` are the columns that no harness sees.
    """

    hidden: ClassVar[tuple[str, ...]] = ("answer", "info")

    def environment(self) -> Any:
        """The environment."""
        raise NotImplementedError

    @cached_property
    def _environment(self) -> Any:
        return self.environment()

    def rows(self) -> Iterable[Mapping[str, Any]]:
        environment = self._environment
        data = environment.get_dataset() if hasattr(environment, "get_dataset") else environment.dataset
        rows: Iterable[Mapping[str, Any]] = data
        return rows

    def reward(self, row: Mapping[str, Any], answer: Any) -> float:
        """The weighted sum of the rubric's functions for this answer as the model's only turn."""
        completion = [{"role": "assistant", "content": answer if isinstance(answer, str) else str(answer)}]
        values = {
            **row,
            "prompt": row.get("prompt", row.get("question")),
            "completion": completion,
            "answer": row.get("answer", ""),
            "info": row.get("info", {}),
            "task": row.get("task", self.name),
            "state": {"completion": completion, "turn": 1},
            "parser": getattr(self._environment, "parser", None),
        }
        return sum(weight * _called(function, values) for function, weight in self._weighed())

    def _weighed(self) -> list[tuple[Callable[..., Any], float]]:
        rubric = self._environment.rubric
        functions: Sequence[Callable[..., Any]] = _first(rubric, "funcs", "reward_funcs", name=self.name)
        weights: Sequence[float] = _first(rubric, "weights", "reward_weights", name=self.name)
        return list(zip(functions, weights, strict=True))


def _first(rubric: Any, *names: str, name: str) -> Any:
    for each in names:
        if hasattr(rubric, each):
            return getattr(rubric, each)
    raise UsageError(f"task {name!r}: its environment's rubric has none of {', '.join(names)}")


def _called(function: Callable[..., Any], values: Mapping[str, Any]) -> float:
    """The function with what it takes of what is known; an asynchronous one is waited for."""
    parameters = inspect.signature(function).parameters.values()
    every = any(each.kind is each.VAR_KEYWORD for each in parameters)
    arguments = values if every else {each.name: values[each.name] for each in parameters if each.name in values}
    value = function(**arguments)
    return float(asyncio.run(value) if inspect.iscoroutine(value) else value)
