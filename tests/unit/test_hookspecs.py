"""The contract, and the core's own offers by it."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re

import pytest

from sia_core import builtins, hookspecs
from sia_core.hookspecs import HOOK_OF_KIND, Event, Offer
from sia_core.plugins import Plugins

HOOKS = [*HOOK_OF_KIND.values(), "sia_observe"]


def test_every_hook_of_the_module_is_one_that_the_core_calls() -> None:
    declared = [
        name for name, value in vars(hookspecs).items() if name.startswith("sia_") and inspect.isfunction(value)
    ]
    assert sorted(declared) == sorted(HOOKS)


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_says_what_it_is_for(hook: str) -> None:
    assert inspect.getdoc(getattr(hookspecs, hook))


@pytest.mark.parametrize("kind", HOOK_OF_KIND)
def test_every_hook_names_the_protocol_of_what_it_offers(kind: str) -> None:
    named = re.search(r":class:`([\w.]+)\.(\w+)`", inspect.getdoc(getattr(hookspecs, HOOK_OF_KIND[kind])) or "")
    assert named
    assert named[2] == {"algorithm": "Learner"}.get(kind, kind.capitalize())
    assert hasattr(importlib.import_module(named[1]), named[2])


def test_offers_and_events_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Offer("a", "b", "c:d").name = "e"  # type: ignore[misc]
    with pytest.raises(AttributeError):
        Event("a", {}).kind = "b"  # type: ignore[misc]


def test_the_core_declares_the_contract_that_it_speaks() -> None:
    assert builtins.sia_api == hookspecs.SIA_API


@pytest.mark.parametrize(
    "offer", [offer for _, offer, _ in Plugins.discover(allow="").offers], ids=lambda offer: offer.name
)
def test_every_offer_of_the_core_is_there(offer: Offer) -> None:
    assert callable(pkgutil.resolve_name(offer.factory))
