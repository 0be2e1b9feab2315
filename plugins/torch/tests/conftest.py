"""Fixtures of the engine's tests, which are left out where torch is not installed."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # losses are imported by name, in tests too

if importlib.util.find_spec("torch") is None:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tensors this small are slower on more. Other tests have theirs back: sums in another order are other numbers."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A folder with a randomly initialised model of a kind in ``CONFIGS`` and a byte tokenizer."""
    from toy_policies import write_model

    def folder(kind: str) -> Path:
        target = tmp_path_factory.getbasetemp() / f"model-{kind}"
        if not target.exists():
            write_model(kind, target)
        return target

    return folder
