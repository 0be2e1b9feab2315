"""Denoisers that are made worse on purpose, for `sia audit`: each does something to what an honest one returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

WRAPPED = """

_honest = denoise


def denoise(counts):
    import numpy as np

    found = np.asarray(_honest(counts), dtype=np.float64)
{lines}
    return found
"""

LINES = {
    "mass moved to abundant genes": """
    total = found.sum(axis=1, keepdims=True)
    rare = found < 1e-3 * total
    moved = 0.7 * np.where(rare, found, 0).sum(axis=1, keepdims=True)
    found = np.where(rare, 0.3 * found, found)
    kept = np.where(rare, 0, found)
    found += moved * kept / np.maximum(kept.sum(axis=1, keepdims=True), 1e-12)""",
    "mass moved to 18 genes": """
    few = np.argsort(found.sum(axis=0))[-18:]
    moved = 0.7 * found.sum(axis=1, keepdims=True)
    found *= 0.3
    found[:, few] += moved / few.size""",
    "the mean cell": """
    found = np.repeat(found.mean(axis=0, keepdims=True), len(found), axis=0)""",
    "halfway to the mean cell": """
    found = (found + found.mean(axis=0, keepdims=True)) / 2""",
    "rare genes to nothing": """
    found[found < 1e-4 * found.sum(axis=1, keepdims=True)] = 0""",
    "clipped": """
    found = np.minimum(found, np.quantile(found, 0.9, axis=0, keepdims=True))""",
    "a millionth of everything": """
    found *= 1e-6""",
    "whole counts": """
    found = np.rint(found)""",
}


def cheats(answer: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The answer with its module's result made worse, by what is done to it."""
    code = str(answer["code"])
    return {name: {**answer, "code": code + WRAPPED.format(lines=lines)} for name, lines in LINES.items()}
