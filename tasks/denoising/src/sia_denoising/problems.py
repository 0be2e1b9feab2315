"""The data of a run: counts from a file or made up, dealt out to the splits, and the two sides of each instance.

Splits differ in cells and in the seed of the binomial draw. Within a split, what is
evaluated during a search and what is scored in the end come from different cells again.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sia_core.types import Split
from sia_denoising.counts import read_counts
from sia_denoising.generator import Generator
from sia_denoising.metrics import Judge, deal

SHARES: dict[Split, int] = {"search": 1, "gate": 1, "sealed": 2}
"""How cells are dealt out, in quarters. Where sealed has its own file, search and gate get half each."""

SIZES: dict[Split, int] = {"public": 0, "search": 6, "gate": 14, "sealed": 8}
"""Instances of a split: that many draws of its cells, few on search, since one draw says much the same as another."""

CELLS = 120
"""Cells of an instance of search or gate, so that one evaluation takes well under a second."""

SEALED_CELLS = 1_000

TISSUE = Generator()
"""The embedded data: what is denoised where no file is named."""

SPECIMEN = 0
"""The seed of a tissue that anybody may draw: it shows what made-up tissues are like, and nothing is scored on it."""

KEPT_BYTES = 2**30


@dataclass(frozen=True)
class Cells:
    """Some cells: counts (cells x genes), and the true shares where they are known."""

    counts: Any
    rates: NDArray[np.float32] | None

    def take(self, rows: NDArray[np.intp]) -> Cells:
        """Some of them."""
        return Cells(self.counts[rows], None if self.rates is None else self.rates[rows])


class Problems:
    """The problems of the task's settings. Files are read when first asked for.

    ``data`` and ``sealed_data`` are files of counts; without ``data`` a tissue is made up, the
    one that ``tissue`` names. ``seed`` decides which cells go to which split.
    """

    def __init__(self, data: str | None, sealed_data: str | None, seed: int, tissue: int = SPECIMEN) -> None:
        self._data, self._sealed_data, self._seed, self.tissue = data, sealed_data, seed, tissue
        self._pools: dict[Split, Cells] = {}
        self._judges: OrderedDict[tuple[str, int, bool], Judge] = OrderedDict()

    @cached_property
    def name(self) -> str:
        """The data's display name."""
        return Path(self._data).name if self._data else "made-up tissue"

    @cached_property
    def digest(self) -> str:
        """Digest of data and settings; a file's content, not its place."""
        whole = hashlib.sha256(f"denoising 1 seed={self._seed} {TISSUE}\n".encode())
        for path in (self._data, self._sealed_data):
            whole.update(hashlib.sha256(Path(path).read_bytes() if path else b"none").digest())
        return whole.hexdigest()

    @cached_property
    def _open(self) -> Cells:
        """The cells that the search may see, and without ``sealed_data`` those that it may not."""
        if self._data:
            return Cells(read_counts(Path(self._data)), None)
        drawn = TISSUE.draw(self.tissue)
        return Cells(drawn.counts, drawn.rates)

    def pool(self, split: Split) -> Cells:
        """The cells of a split, in an order that says nothing."""
        if split not in self._pools:
            self._pools[split] = self._dealt(split)
        return self._pools[split]

    def _dealt(self, split: Split) -> Cells:
        if split == "sealed" and self._sealed_data:
            counts = read_counts(Path(self._sealed_data))
            return Cells(counts, None).take(self._order(counts.shape[0], "sealed data"))
        cells = self._open
        order = self._order(cells.counts.shape[0], "cells")
        shares = {split: share for split, share in SHARES.items() if split != "sealed" or not self._sealed_data}
        before = sum(share for name, share in list(shares.items())[: list(shares).index(split)])
        whole = sum(shares.values())
        start, end = (len(order) * place // whole for place in (before, before + shares[split]))
        return cells.take(order[start:end])

    def shape(self, split: Split) -> tuple[int, int, int]:
        """Cells and genes of an instance's side, and the median depth of its pool's cells."""
        pool = self.pool(split)
        cells = min(SEALED_CELLS, pool.counts.shape[0]) if split == "sealed" else min(CELLS, pool.counts.shape[0] // 2)
        return cells, int(pool.counts.shape[1]), int(np.median(pool.counts.sum(axis=1)))

    def judge(self, instance: str, split: Split, seed: int, *, final: bool) -> Judge:
        """The two sides of an instance, remembered: the same arguments give the same."""
        key = (instance, seed, final)
        if key not in self._judges:
            self._judges[key] = self._made(instance, split, seed, final=final)
            while len(self._judges) > 1 and sum(each.bytes for each in self._judges.values()) > KEPT_BYTES:
                self._judges.popitem(last=False)
        self._judges.move_to_end(key)
        return self._judges[key]

    def _made(self, instance: str, split: Split, seed: int, *, final: bool) -> Judge:
        pool = self.pool(split)
        cells, _, _ = self.shape(split)
        rng = np.random.default_rng(_number(f"{seed} {instance} {final}"))
        rows = np.arange(pool.counts.shape[0])
        if split != "sealed":
            # What is scored in the end is none of what evaluations showed.
            rows = rows[len(rows) // 2 :] if final else rows[: len(rows) // 2]
        some = pool.take(np.sort(rng.permutation(rows)[:cells]))
        train, test, genes = deal(some.counts, rng)
        rates = None if some.rates is None else some.rates[:, genes]
        return Judge(train, test, rates, seed=int(rng.integers(2**31)))

    def _order(self, cells: int, what: str) -> NDArray[np.intp]:
        return np.random.default_rng(_number(f"{self._seed} {what}")).permutation(cells)


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])
