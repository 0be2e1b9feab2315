"""The view ``dashboard``."""

from __future__ import annotations

import secrets
import threading
from contextlib import closing
from pathlib import Path

from sia_cli.output import shown
from sia_core.errors import SiaError, UsageError
from sia_core.plugins import Plugins
from sia_core.run.ledger import Ledger
from sia_core.view_protocol import Address
from sia_dashboard.guard import is_loopback
from sia_dashboard.library import Library
from sia_dashboard.pages import Served, report_page
from sia_dashboard.records import Record
from sia_reading.artefact import artefact

CONNECTIONS = 200
"""At once; a page that is watched holds one."""


class Dashboard:
    """Pages in a browser, live; or as one file, or as pictures."""

    def serve(self, runs: Path, at: Address, run: str | None) -> None:
        """Serve until interrupted."""
        from sia_cli.bounded_http import Server, bound
        from sia_dashboard.server import application

        token = None if is_loopback(at.host) else secrets.token_urlsafe(24)
        with closing(bound(at.host, at.port)) as listener, closing(Library(runs)) as library:
            host, port = listener.getsockname()[:2]
            where = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
            page = Served(run).run() if run else "/"
            print(shown(f"{runs}: {where}{page}{f'?token={token}' if token else ''}"), flush=True)
            if token:
                print("Others can reach this; who has the token in the address can read, and nothing is encrypted.")
            print("Ctrl-C ends it.", flush=True)
            ending = threading.Event()  # or pages that are watched would hold it open
            server = Server(application(library, token, ending), CONNECTIONS, ending, log_level="warning")
            server.serve_until_interrupted(listener)

    def page(self, run: Path) -> str:
        """A run as one page."""
        with closing(Record(run)) as record:
            if "task" not in record.report():
                raise UsageError(f"{run.name} was stopped before its first step; there is nothing to show")
            return report_page(record, *_pictures(run))

    def plots(self, run: Path, folder: Path) -> list[Path]:
        """The pictures of a run as PNG files."""
        from sia_dashboard.plots import draw

        with closing(Record(run)) as record:
            written = draw(record, folder)
        for name, content in _pictures(run)[0].items():
            written.append(folder / f"answer-{Path(name).name}")
            written[-1].write_bytes(content)
        return written


def _pictures(run: Path) -> tuple[dict[str, bytes], str]:
    """The pictures that the task makes of a run's best answer, by their names; or why they cannot be made."""
    try:
        with Ledger.read(run) as ledger:
            files = artefact(ledger, Plugins.discover())
    except SiaError as error:
        return {}, str(error)
    return {name: content for name, content in files.items() if name.endswith(".png")}, ""
