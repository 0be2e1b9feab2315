"""Observers of a run that the command line starts."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout

from sia_cli.display import Display
from sia_cli.output import shown
from sia_core.hookspecs import Event
from sia_core.plugins import Plugins
from sia_core.run.observe import Observer, Tracker
from sia_runtime.sandbox.solving import describe


@contextmanager
def watching(plugins: Plugins, track: Sequence[str]) -> Iterator[list[Observer]]:
    """The observers to hand to a run: one that tells of broken ones, a display, trackers.

    What libraries print meanwhile goes to standard error: standard output is the report's.
    """
    with redirect_stdout(sys.stderr), ExitStack() as stack:
        observers: list[Observer] = [tell_of_faults]
        for each in track:
            name, _, where = each.partition(":")
            tracker: Tracker = plugins.create("tracker", name, **({"where": where} if where else {}))
            stack.callback(_close, name, tracker)
            observers.append(tracker)
        display = Display()
        stack.callback(display.close)
        observers.append(display)
        yield observers


def _close(name: str, tracker: Tracker) -> None:
    """A run that is done is not to fail by its tracker."""
    try:
        tracker.close()
    except Exception as error:
        print(shown(f"sia: the tracker {name} could not be closed: {describe(error)}"), file=sys.stderr)


def tell_of_faults(event: Event) -> None:
    """Say on standard error which observer is left out, and what happens to calls of language models."""
    if event.kind == "model.notice":
        print(shown(f"sia: {event.data['text']}"), file=sys.stderr)
    if event.kind == "observer.failed":
        line = f"sia: the observer of {event.data['observer']} is left out from here on: {event.data['error']}"
        print(shown(line), file=sys.stderr)
