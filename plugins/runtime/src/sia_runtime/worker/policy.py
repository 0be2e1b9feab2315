"""The run's policy on one machine: an engine, the gateway in front of it, and which adapter it holds."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from sia_core.learning import Engine
from sia_core.run import beneath
from sia_core.run.ledger import sync_folder
from sia_runtime.worker.gateway import Gateway

BASE = "base"
_UNKNOWN = "unknown"


@runtime_checkable
class BringsPolicy(Protocol):
    """An engine that brings its own policy in place of :class:`Policy`, such as one that is hosted elsewhere."""

    def open_policy(self, run: Path) -> Any:
        """The policy of a run, whose folder this is; of the interface that :class:`Policy` has for rollouts."""


class Policy:
    """An engine that rollouts share while it holds their adapter, and that training has to itself.

    Adapters are snapshots in ``folder`` by their digest; None is the base. ``version``
    names the weights of the moment: every optimizer step changes it.
    """

    local = False
    """True for a policy that works only where the run's folder is."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.engine, self.gateway = engine, Gateway(engine)
        self._folder = folder
        for half in (*folder.glob(".*"), *folder.glob(f"{_UNKNOWN}-*")):  # of a run that was killed while it saved
            shutil.rmtree(half, ignore_errors=True)
        self._adapter: str | None = None
        self._steps = 0
        self._users = 0
        self._changed = threading.Condition()

    @property
    def version(self) -> str:
        """Of the weights that sample now."""
        return f"{self._adapter or BASE}+{self._steps}"

    @contextmanager
    def holding(self, adapter: str | None) -> Iterator[None]:
        """Share the engine with whoever wants the same adapter; wait while it holds another that is in use."""
        with self._changed:
            self._changed.wait_for(lambda: not self._users or (self._users > 0 and self._adapter == adapter))
            self._hold(adapter)
            self._users += 1
        try:
            yield
        finally:
            self._leave(1)

    @contextmanager
    def training(self, adapter: str | None) -> Iterator[None]:
        """Have the engine alone, holding an adapter. What it holds afterwards is what :meth:`keep` said last."""
        with self._changed:
            self._changed.wait_for(lambda: not self._users)
            self._hold(adapter)
            self._keep_base()
            self._users = -1
        try:
            yield
        finally:
            if self._steps:
                self._adapter = _UNKNOWN  # stopped in the middle: whoever comes next loads what it needs
            self._leave(-1)

    @property
    def stepped_since(self) -> int:
        """Optimizer steps since the last snapshot."""
        return self._steps

    def stepped(self) -> None:
        """The weights have changed."""
        self._steps += 1

    def keep(self) -> str:
        """Save what was trained so far; its digest, by which it can be held again."""
        with self.gateway.exclusive() as engine:
            fresh = self._folder / f"{_UNKNOWN}-{self._adapter or BASE}"
            digest = engine.save(fresh)
        target = self._folder / digest
        if target.exists():
            shutil.rmtree(fresh)  # trained before, by a run that was stopped before it could say so
        else:
            fresh.rename(target)
        for folder in (self._folder, self._folder.parent):  # its name is durable before a step tells it
            sync_folder(folder)
        self._adapter, self._steps = digest, 0
        return digest

    def close(self) -> None:
        self.gateway.close()
        if hasattr(self.engine, "close"):  # one that holds something elsewhere
            self.engine.close()

    def _hold(self, adapter: str | None) -> None:
        if self._adapter == adapter:
            return
        self._keep_base()
        with self.gateway.exclusive() as engine:
            engine.load(self._folder / (BASE if adapter is None else beneath.digest(adapter)))
        self._adapter, self._steps = adapter, 0

    def _keep_base(self) -> None:
        """Before the base is left for the first time."""
        if self._adapter is None and not (self._folder / BASE).exists():
            with self.gateway.exclusive() as engine:
                engine.save(self._folder / BASE)

    def _leave(self, users: int) -> None:
        with self._changed:
            self._users -= users
            self._changed.notify_all()
