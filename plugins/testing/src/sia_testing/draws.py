"""Which generators of random numbers are drawn from, by their seeds: for contracts on what can be predicted."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

ORDERS = frozenset({"shuffle", "sample", "permutation", "permuted"})
"""Methods that put things in an order, as tasks do that deal out cases: no number comes of them."""

_QUIET = ORDERS | {"seed", "getstate", "setstate", "get_state", "set_state", "getrandbits", "bit_generator", "spawn"}


@contextmanager
def watched() -> Iterator[set[str]]:
    """The seeds of the generators that numbers are drawn from meanwhile.

    Seen are ``random.Random``, numpy's ``default_rng`` and ``RandomState``, and the seeding of either
    module; not torch's, nor what was imported by its bare name. The system's randomness has no seed.
    """
    drawn: set[str] = set()

    def note(what: str, seed: object) -> None:
        if seed is not None:
            drawn.add(f"{what}({seed!r})")

    with ExitStack() as stack:
        stack.enter_context(patch.object(random, "Random", _noting(random.Random, "random.Random", note)))
        stack.enter_context(patch.object(random, "seed", _seeding(random.seed, "random.seed", note)))
        try:
            import numpy
        except ImportError:
            pass
        else:
            generators: Any = numpy.random
            state = _noting(generators.RandomState, "numpy.random.RandomState", note)
            stack.enter_context(patch.object(generators, "RandomState", state))
            stack.enter_context(patch.object(generators, "seed", _seeding(generators.seed, "numpy.random.seed", note)))
            stack.enter_context(patch.object(generators, "default_rng", _default_rng(generators, note)))
        yield drawn


def _noting(kind: Any, name: str, note: Callable[[str, object], None]) -> Any:
    """A subclass that notes its seed where it is asked for a number."""

    class Noting(kind):  # type: ignore[misc]
        def __init__(self, seed: Any = None) -> None:
            super().__init__(seed)
            self._mark = seed

        def seed(self, seed: Any = None, *rest: Any) -> None:
            super().seed(seed, *rest)
            self._mark = seed

        def __getattribute__(self, attribute: str) -> Any:
            if not attribute.startswith("_") and attribute not in _QUIET:
                note(name, self._mark)
            return super().__getattribute__(attribute)

    return Noting


def _seeding(seed_all: Callable[..., None], name: str, note: Callable[[str, object], None]) -> Callable[..., None]:
    def seeding(seed: Any = None, *rest: Any) -> None:
        note(name, seed)
        seed_all(seed, *rest)

    return seeding


def _default_rng(generators: Any, note: Callable[[str, object], None]) -> Callable[..., Any]:
    class Noting(generators.Generator):  # type: ignore[misc]
        _mark: object = None

        def __getattribute__(self, attribute: str) -> Any:
            if not attribute.startswith("_") and attribute not in _QUIET:
                note("numpy.random.default_rng", self._mark)
            return super().__getattribute__(attribute)

    original = generators.default_rng

    def default_rng(seed: Any = None) -> Any:
        generator = Noting(original(seed).bit_generator)
        generator._mark = getattr(seed, "entropy", seed)
        return generator

    return default_rng
