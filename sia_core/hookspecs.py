"""The hooks that a plugin may implement: the whole contract, one hook for each kind of offer.

A plugin is an installed distribution with an entry point in the group ``sia``. The entry point names a module, and the
module holds a contract version and hook implementations that return offers::

    from sia_core.hookspecs import Offer, hookimpl

    sia_api = 1

    @hookimpl
    def sia_tasks():
        return [Offer("mytask", "one line for people", "my_package.task:MyTask")]

Hooks return offers and do nothing else. The factory behind an offer is imported only when its name is asked for, so
this module and a plugin's entry module stay light: no torch, no scikit-learn, no data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pluggy

SIA_API = 1
"""The contract version that this core speaks; a plugin declares ``sia_api = 1``."""

hookspec = pluggy.HookspecMarker("sia")
hookimpl = pluggy.HookimplMarker("sia")


@dataclass(frozen=True)
class Offer:
    """One thing that a plugin provides, by name.

    ``name`` is what users type, ``summary`` one line for listings, and ``factory``
    is ``"module:attribute"``: a callable that takes the offer's settings as
    keyword arguments and returns the object that ``sia_core.types`` describes.
    """

    name: str
    summary: str
    factory: str


@dataclass(frozen=True)
class Event:
    """Something that happened in a run, for observers.

    ``kind`` is a dotted name such as ``run.started``, ``rollouts.progress`` or
    ``candidate.gated``; ``data`` is JSON-like and holds no secrets and no labels.
    """

    kind: str
    data: Mapping[str, Any]


@hookspec
def sia_tasks() -> Sequence[Offer]:  # type: ignore[empty-body]
    """Offer tasks: factories of :class:`sia_core.types.Task`, run by ``sia run --plugin NAME``."""


@hookspec
def sia_verifiers() -> Sequence[Offer]:  # type: ignore[empty-body]
    """Offer verifiers: factories of :class:`sia_core.types.Verifier`.

    The factory is called in the verifier's own process, with the settings that the
    task (or ``--verifier``) names beside it.
    """


@hookspec
def sia_algorithms() -> Sequence[Offer]:  # type: ignore[empty-body]
    """Offer learners: factories of :class:`sia_core.learning.Learner`, an RL algorithm each."""


@hookspec
def sia_backends() -> Sequence[Offer]:  # type: ignore[empty-body]
    """Offer backends: factories of :class:`sia_core.types.Backend`, places where work runs."""


@hookspec
def sia_engines() -> Sequence[Offer]:  # type: ignore[empty-body]
    """Offer engines: factories of :class:`sia_core.learning.Engine`, which sample from a policy and train it."""


@hookspec
def sia_levers() -> Sequence[Offer]:  # type: ignore[empty-body]
    """Offer levers: factories of :class:`sia_core.run.levers.Lever`, ways to change an agent (``--levers NAME``)."""


@hookspec
def sia_improvers() -> Sequence[Offer]:  # type: ignore[empty-body]
    """Offer improvers: factories of :class:`sia_core.types.Improver`, which decide what to change next."""


@hookspec
def sia_sandboxes() -> Sequence[Offer]:  # type: ignore[empty-body]
    """Offer sandboxes: factories of :class:`sia_runtime.sandbox.contract.Sandbox`, which isolate candidate code."""


@hookspec
def sia_views() -> Sequence[Offer]:  # type: ignore[empty-body]
    """Offer views: factories of :class:`sia_core.view_protocol.View`, for ``sia view`` and the pictures of a report."""


@hookspec
def sia_trackers() -> Sequence[Offer]:  # type: ignore[empty-body]
    """Offer trackers: factories of :class:`sia_core.run.observe.Tracker`, observers that a run asks for by name."""


@hookspec
def sia_commands() -> Sequence[Offer]:  # type: ignore[empty-body]
    """Offer commands: factories of :class:`sia_core.command_protocol.Command`, run as ``sia NAME``.

    SIA's own names come first: a command that takes one of them is never run.
    """


@hookspec
def sia_observe(event: Event) -> None:
    """Observe a run: called once for every :class:`Event`, in order, outside of inner loops.

    Trackers, progress displays and the web page feed from it. It returns nothing
    and changes nothing; an observer that raises is reported once and then left out.
    """


HOOK_OF_KIND = {
    "task": "sia_tasks",
    "verifier": "sia_verifiers",
    "algorithm": "sia_algorithms",
    "backend": "sia_backends",
    "engine": "sia_engines",
    "lever": "sia_levers",
    "improver": "sia_improvers",
    "sandbox": "sia_sandboxes",
    "view": "sia_views",
    "tracker": "sia_trackers",
    "command": "sia_commands",
}
"""The hook that offers each kind of thing; ``sia_observe`` observes and offers nothing."""
