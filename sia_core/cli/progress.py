"""Who observes a run that the command line starts."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

from sia_core.cli import shown
from sia_core.hookspecs import Event
from sia_core.observe import Observer


@contextmanager
def watching() -> Iterator[list[Observer]]:
    """The observers to hand to a run: one that tells of broken ones, and a display where there is a terminal.

    What libraries print meanwhile goes to standard error: standard output is the report's.
    """
    with redirect_stdout(sys.stderr):
        if not sys.stderr.isatty():
            yield [tell_of_faults]
            return
        from sia_core.cli.display import Display

        display = Display()
        try:
            yield [tell_of_faults, display]
        finally:
            display.close()


def tell_of_faults(event: Event) -> None:
    """Say on standard error which observer is left out, and what happens to calls of language models."""
    if event.kind == "model.notice":
        print(shown(f"sia: {event.data['text']}"), file=sys.stderr)
    if event.kind == "observer.failed":
        told = f"sia: the observer of {event.data['observer']} is left out from here on: {event.data['error']}"
        print(shown(told), file=sys.stderr)
