"""Modal behind three verbs: upload, run, close; its errors sorted."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import modal
from modal.config import config

from sia_core.errors import SiaError, UsageError
from sia_modal.app import build
from sia_modal.container import BLOBS_VOLUME, place
from sia_modal.settings import Settings

VARIABLES = ("MODAL_TOKEN_ID", "MODAL_TOKEN_SECRET")

ANSWER = 20.0
"""Seconds that the service has to say whether it knows the token; without a network the SDK alone waits a minute."""


class Cloud(Protocol):
    """The backend's interface to Modal, or to its stand-in."""

    def upload(self, contents: Mapping[str, bytes]) -> None:
        """Upload contents by digest, for every container to read."""

    def run(self, parcel: str) -> tuple[str, dict[str, bytes]]:
        """:meth:`sia_modal.work.Work.run` in some container; waits for it."""

    def close(self) -> None:
        """End every container."""


class ModalCloud:
    """The service. UsageError where there is no token, or Modal does not take it within ``settings.connect``."""

    def __init__(self, settings: Settings, allow: str | None) -> None:
        if not (config.get("token_id") and config.get("token_secret")):
            raise UsageError(
                f"the backend modal needs a token: set {' and '.join(VARIABLES)}, or run `modal token new`"
            )
        _within(ANSWER, _greet)
        self._settings, self._allow = settings, "*" if allow is None else allow
        app, container = build(settings)
        self._running: Any = app.run()
        self._blobs = modal.Volume.from_name(BLOBS_VOLUME, create_if_missing=True)
        _within(settings.connect, self._running.__enter__)
        self._jobs = container(allow=self._allow)

    def upload(self, contents: Mapping[str, bytes]) -> None:
        with _sorted(), self._blobs.batch_upload(force=True) as batch:
            for digest, content in contents.items():
                batch.put_file(io.BytesIO(content), place(digest))

    def run(self, parcel: str) -> tuple[str, dict[str, bytes]]:
        with _sorted():
            reply: tuple[str, dict[str, bytes]] = self._jobs.run.spawn(parcel).get(timeout=self._settings.timeout)
        return reply

    def close(self) -> None:
        self._running.__exit__(None, None, None)


def _greet() -> None:
    modal.Client.from_env().hello()


def _within(seconds: float, work: Any) -> None:
    """Do what may wait for a network that is not there; UsageError past a time limit or where Modal refuses."""
    raised: list[BaseException] = []

    def tried() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=tried, name="sia-modal-connect", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise UsageError(f"Modal did not answer within {seconds:g} s; see the network, {' and '.join(VARIABLES)}")
    if raised:
        reason = f"{type(raised[0]).__name__}: {raised[0]}"
        raise UsageError(f"Modal refuses ({reason}); see {' and '.join(VARIABLES)}") from raised[0]


@contextmanager
def _sorted() -> Iterator[None]:
    """Errors of Modal as errors of the run."""
    try:
        yield
    except (modal.exception.Error, TimeoutError) as error:
        why = f"{type(error).__name__}: {error}"
        raise SiaError(f"Modal: {why}. What was finished is kept; go on with `sia resume`") from error
