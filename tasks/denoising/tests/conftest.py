"""A small file of counts, and the seed harness as a module that runs in this process."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import sparse

from sia_core.harness import HarnessTree
from sia_denoising.generator import Generator
from sia_denoising.task import HERE

TISSUE = Generator(cells=240, genes=500, programs=4, depth=800)


@pytest.fixture(autouse=True)
def _cache_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def data(tmp_path: Path) -> str:
    """A file of counts."""
    path = tmp_path / "counts.npz"
    sparse.save_npz(path, TISSUE.draw(0).counts)
    return str(path)


@pytest.fixture
def other_data(tmp_path: Path) -> str:
    """Another one, of another size."""
    path = tmp_path / "other.npz"
    sparse.save_npz(path, Generator(cells=150, genes=300, depth=500).draw(1).counts)
    return str(path)


@pytest.fixture
def sample() -> Path:
    """The public sample of blood cells, where it lies beside the checkout."""
    places = [folder / "shared" / "data" / "pbmc_1k_v3.npz" for folder in Path(__file__).parents]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        pytest.skip("../shared/data/pbmc_1k_v3.npz is not there")
    return path


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Callable[[HarnessTree], ModuleType]]:
    """Loads a harness as a module; what it brought along is forgotten afterwards."""
    brought = ("harness", "plans")

    def harness(tree: HarnessTree) -> ModuleType:
        for name in brought:
            sys.modules.pop(name, None)
        folder = tmp_path / f"harness-{tree.digest[:8]}"
        tree.write_to(folder)
        sys.path.insert(0, str(folder))
        importlib.invalidate_caches()
        try:
            return importlib.import_module("harness")
        finally:
            sys.path.remove(str(folder))

    yield harness
    for name in brought:
        sys.modules.pop(name, None)


@pytest.fixture
def seed(load: Callable[[HarnessTree], ModuleType]) -> ModuleType:
    """The seed harness."""
    return load(HarnessTree.from_folder(HERE / "seed"))


def denoiser(answer: Mapping[str, Any]) -> Callable[[Any], np.ndarray]:
    """An answer's function. Only for answers of this project's own harness."""
    names: dict[str, Any] = {"__name__": "denoiser"}
    exec(compile(answer["code"], "denoiser.py", "exec"), names)
    function: Callable[[Any], np.ndarray] = names["denoise"]
    return function


@pytest.fixture(name="denoiser")
def _denoiser() -> Callable[[Mapping[str, Any]], Callable[[Any], np.ndarray]]:
    return denoiser


def context(**attributes: Any) -> SimpleNamespace:
    """A harness's context; it has a model if ``model`` is given."""
    return SimpleNamespace(**{"seed": 0, "evaluations": 0, "has_model": "model" in attributes, **attributes})
