"""The backend ``ray``: jobs on the workers of a cluster, each of which keeps its own host."""

from __future__ import annotations

import os
from concurrent.futures import Future
from typing import Any

from sia_core.errors import UsageError
from sia_core.plugins import Plugins
from sia_core.types import Job, OnProgress
from sia_ray.settings import HEALTH, Settings

PATIENCE = 300.0
"""Seconds that a cluster has to start the first worker."""


class RayBackend:
    """Runs jobs on a Ray cluster; its factory takes :class:`sia_ray.settings.Settings`' fields.

    ``slots`` counts the jobs of all workers together.
    """

    def __init__(self, plugins: Plugins, **settings: Any) -> None:
        self._settings = Settings.of(settings)
        self._plugins = plugins
        self._ray = _library()
        self._started = _join(self._ray, self._settings.address)
        try:
            workers = self._room()
            from sia_ray.pool import Pool

            self.slots = workers * self._settings.at_once
            self._pool = Pool(self._hire, workers, self._settings.at_once)
        except BaseException:
            self._leave()
            raise

    def submit(self, job: Job) -> Future[Any]:
        return self._pool.submit(job)

    def submit_watched(self, job: Job, on_progress: OnProgress) -> Future[Any]:
        return self._pool.submit(job, on_progress)

    def close(self) -> None:
        self._pool.close()
        self._leave()

    def _room(self) -> int:
        """How many workers to start; UsageError where the cluster could never hold one."""
        settings = self._settings
        there = self._ray.cluster_resources()
        resources = {"CPU": settings.cpus, "GPU": float(settings.gpus)}
        if settings.accelerator:
            resources[f"accelerator_type:{settings.accelerator}"] = 0.001
        for kind, amount in resources.items():
            if there.get(kind, 0.0) < amount:
                has = f"{there.get(kind, 0.0):g} of {kind}"
                raise UsageError(f"a worker takes {amount:g} of {kind}, and the cluster has {has}; see --backend-set")
        if settings.workers:
            return settings.workers
        rooms = [int(there[kind] // resources[kind]) for kind in ("CPU", "GPU") if resources[kind]]
        return max(1, min(rooms, default=1))

    def _hire(self) -> Any:
        from sia_ray.worker import THREADS, Worker

        threads = os.environ.get(THREADS) or str(os.cpu_count() or 1)
        # One thread more than jobs: it says how far they are, and stops them.
        return self._actor(Worker, self._settings.at_once + 1).remote(self._plugins.allow, threads)

    def _actor(self, kind: type, at_once: int) -> Any:
        """An actor that Ray itself neither starts nor asks again: the pool knows what was lost."""
        settings = self._settings
        return self._ray.remote(kind).options(
            num_cpus=settings.cpus,
            num_gpus=settings.gpus,
            accelerator_type=settings.accelerator or None,
            max_concurrency=at_once,
            max_restarts=0,
            max_task_retries=0,
        )

    def _leave(self) -> None:
        if self._started:
            self._started = False
            self._ray.shutdown()


def _library() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise UsageError(f"the backend ray needs its library ({error}): pip install sia-ray") from None
    return ray


def _join(library: Any, address: str) -> bool:
    """Be part of a cluster; whether this process was not before. UsageError where there is none."""
    if library.is_initialized():
        return False
    quiet = {"logging_level": "warning", "log_to_driver": False}  # standard output is the report's
    try:
        if address:
            library.init(address=address, **quiet)
        else:
            library.init(address="local", include_dashboard=False, _system_config=HEALTH, **quiet)
    except Exception as error:  # Ray's own have no common type: a node that starts too slowly is a bare Exception
        raise UsageError(f"--backend ray: no cluster at {address or 'this machine'}: {error}") from None
    return True
