"""One arena a sandbox, for as long as its attacks last; and one without any sandbox."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache

import pytest

from sia_attacks.arena import Arena, Result
from sia_attacks.catalogue import Attack, attacks
from sia_core.hookspecs import Offer
from sia_core.plugins import Plugins, Source
from sia_runtime.sandbox.choosing import Examined, examine

NAKED = "naked"
SUITE = {each.name: each for each in attacks()}

QUICK = (  # of each kind one; the others take minutes together
    *("key-in-environment", "memory-of-a-process", "kill-the-verifier", "labels", "planted-module", "scratch-traps"),
    *("unix-socket", "io-uring", "memory-in-one-process", "many-files", "daemon", "orphan", "forged-result"),
    *("deferred-thread", "key-twice", "odd-outcome", "order-of-instances", "socket-buffers", "words-to-the-improver"),
)


@cache
def examined(name: str) -> Examined:
    (row,) = examine([Plugins.discover().create("sandbox", name)])
    return row


def sandboxes() -> list[str]:
    """Those that plugins offer here; the strongest first."""
    return [offer.name for offer in Plugins.discover().of_kind("sandbox")]


@pytest.fixture(scope="session")
def meet() -> Iterator[Callable[[str, Attack], Result]]:
    """``meet(sandbox, attack)`` gives the result; an arena is kept until another sandbox is asked for."""
    arenas: dict[str, Arena] = {}

    def meeting(name: str, attack: Attack) -> Result:
        if name not in arenas:
            close()
            arena = Arena(without_sandbox(), "process") if name == NAKED else Arena(Plugins.discover(), name)
            arenas[name] = arena.__enter__()
        return arenas[name].meet(attack)

    def close() -> None:
        while arenas:
            arenas.popitem()[1].__exit__()

    yield meeting
    close()


def without_sandbox() -> Plugins:
    """The plugins here, but what goes by the name of a sandbox isolates nothing."""
    plugins = Plugins.discover()
    offer = Offer("process", "isolates nothing", "sia_testing.naked:Naked")
    others = [each for each in plugins.offers if (each[0], each[1].name) != ("sandbox", "process")]
    return replace(plugins, offers=[*others, ("sandbox", offer, Source("tests", "tests", "0"))])
