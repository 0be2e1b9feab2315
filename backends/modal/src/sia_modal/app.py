"""The app: an image with the versions that are installed here, volumes, and the container's class."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution, distributions
from pathlib import Path
from typing import Any

import modal
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from sia_core.errors import UsageError
from sia_core.plugins import GROUP
from sia_modal.container import BLOBS, BLOBS_VOLUME, Container
from sia_modal.settings import Settings

CACHE = "/sia/cache"
WHEELS = "/sia/wheels"
DEBIAN = ("bubblewrap",)


def build(settings: Settings) -> tuple[modal.App, Any]:
    """The app and its class. Nothing is sent anywhere."""
    app = modal.App(settings.app)
    decorated: Any = app.cls(
        image=image(settings),
        gpu=settings.gpu or None,
        cpu=settings.cpus,
        memory=settings.memory,
        timeout=settings.timeout,
        retries=settings.retries,
        max_containers=settings.containers,
        secrets=[modal.Secret.from_name(settings.secret)] if settings.secret else [],
        volumes={
            str(BLOBS): modal.Volume.from_name(BLOBS_VOLUME, create_if_missing=True),
            CACHE: modal.Volume.from_name(settings.cache, create_if_missing=True),
        },
    )(modal.concurrent(max_inputs=settings.at_once)(Container))
    return app, decorated


def image(settings: Settings) -> modal.Image:
    """Everything that SIA's distributions here need, at the versions that are here."""
    released, others = pinned()
    result = modal.Image.debian_slim(python_version=settings.python).apt_install(*DEBIAN).pip_install(*others)
    if settings.wheels:
        folder = Path(settings.wheels)
        if not sorted(folder.glob("sia_core-*.whl")):
            raise UsageError(f"--backend-set wheels={folder}: no wheel of sia-core there; `make wheels` builds them")
        result = result.add_local_dir(str(folder), WHEELS, copy=True).run_commands(
            f"pip install --no-deps {WHEELS}/*.whl"
        )
    else:
        result = result.pip_install(*released)
    return result.env({"XDG_CACHE_HOME": CACHE, "HF_HOME": f"{CACHE}/huggingface"})


def pinned() -> tuple[list[str], list[str]]:
    """SIA's distributions of this environment, and all others that they need, each with its version."""
    ours = sorted({each.name for each in distributions() if each.entry_points.select(group=GROUP)})
    versions: dict[str, str] = {}
    todo = list(ours)
    while todo:
        name = canonicalize_name(todo.pop())
        if name not in versions:
            try:
                versions[name] = distribution(name).version.partition("+")[
                    0
                ]  # a local build such as +cpu is not released
            except PackageNotFoundError:
                continue
            todo += _needs(name)
    rows = {name: f"{name}=={version}" for name, version in sorted(versions.items())}
    mine = {canonicalize_name(name) for name in ours}
    return [rows[name] for name in sorted(mine)], [row for name, row in rows.items() if name not in mine]


def _needs(name: str) -> Iterator[str]:
    for text in distribution(name).requires or ():
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield requirement.name
