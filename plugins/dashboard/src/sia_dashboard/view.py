"""The view ``dashboard``."""

from __future__ import annotations

import secrets
import socket
import threading
from contextlib import closing, suppress
from pathlib import Path
from types import FrameType

from sia_core.cli import shown
from sia_core.errors import SiaError, UsageError
from sia_core.export import artefact
from sia_core.ledger import Ledger
from sia_core.plugins import Plugins
from sia_core.views import Address
from sia_dashboard.guard import is_loopback
from sia_dashboard.pages import Served, report_page
from sia_dashboard.records import Library, Record


class Dashboard:
    """Pages in a browser, live; or as one file, or as pictures."""

    def serve(self, runs: Path, at: Address, run: str | None) -> None:
        """Serve until interrupted."""
        import uvicorn

        from sia_dashboard.server import application

        token = None if is_loopback(at.host) else secrets.token_urlsafe(24)
        with closing(_bound(at)) as listener, closing(Library(runs)) as library:
            host, port = listener.getsockname()[:2]
            where = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
            page = Served(run).run() if run else "/"
            print(shown(f"{runs}: {where}{page}{f'?token={token}' if token else ''}"), flush=True)
            if token:
                print("Others can reach this; who has the token in the address can read, and nothing is encrypted.")
            print("Ctrl-C ends it.", flush=True)
            ending = threading.Event()

            class Server(uvicorn.Server):
                def handle_exit(self, sig: int, frame: FrameType | None) -> None:
                    ending.set()  # or pages that are watched would hold it open
                    super().handle_exit(sig, frame)

            config = uvicorn.Config(
                application(library, token, ending),
                log_level="warning",
                server_header=False,
                access_log=False,
                timeout_graceful_shutdown=2,
            )
            with suppress(KeyboardInterrupt):
                Server(config).run(sockets=[listener])

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


def _bound(at: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in at.host else socket.AF_INET
    try:
        return socket.create_server((at.host, at.port), family=family)
    except OSError as error:
        raise UsageError(
            f"--host {at.host} --port {at.port}: {error.strerror or error}; --port 0 takes any that is free"
        ) from None
