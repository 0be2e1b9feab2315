"""From the name of a module to the distributions that have it, which may be called otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import packages_distributions

KNOWN: Mapping[str, str] = {
    "PIL": "pillow",
    "bs4": "beautifulsoup4",
    "cv2": "opencv-python-headless",
    "dateutil": "python-dateutil",
    "dotenv": "python-dotenv",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}
"""The distributions of modules that many import, for where none is installed."""


def distributions_of(module: str) -> tuple[str, ...]:
    """The installed distributions that have a top-level module, by name."""
    return tuple(dict.fromkeys(_installed().get(module, ())))


@cache
def _installed() -> Mapping[str, list[str]]:
    return packages_distributions()
