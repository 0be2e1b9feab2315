"""The libraries for kernels on a device: PyTorch, and Triton and CuPy where they are installed."""

from __future__ import annotations

import json
import os
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from sia_core.errors import UsageError

_OPTIONAL = ("triton", "cupy-cuda13x", "cupy-cuda12x")
_VISIBLE = "CUDA_VISIBLE_DEVICES"


def check_device() -> str:
    """The name of the CUDA device. UsageError where there is none, or nothing to share its memory with."""
    import torch

    otherwise = "the CPU edition needs none: --set device=cpu"
    if not torch.cuda.is_available():
        raise UsageError(f"trimul: PyTorch {torch.__version__} finds no CUDA device here; {otherwise}")
    if not _installed("cuda-bindings"):
        raise UsageError(f"trimul: kernels on a CUDA device need pip install 'sia-trimul[cuda]'; {otherwise}")
    return str(torch.cuda.get_device_name())


@lru_cache(maxsize=1)
def requires() -> tuple[str, ...]:
    """The distributions that a kernel's process may import."""
    return ("torch", "cuda-bindings", *(name for name in _OPTIONAL if _installed(name)))


@lru_cache(maxsize=1)
def files() -> dict[str, bytes]:
    """Files beside the module of a kernel's process: its environment, and what Triton would have compiled there.

    Triton builds its own module with a C compiler, once; a sandbox has none, so it is built here.
    UsageError where it cannot be.
    """
    environment = {_VISIBLE: os.environ[_VISIBLE]} if _VISIBLE in os.environ else {}
    modules = {}
    if _installed("triton"):
        environment["TRITON_LIBCUDA_PATH"], module = _launcher()
        modules[module.name] = module.read_bytes()
    return {**modules, "environment.json": json.dumps(environment).encode()}


def _launcher() -> tuple[str, Path]:
    """Where the driver's library is, and Triton's module that launches kernels with it."""
    from triton.backends.nvidia import driver

    try:
        module = driver.compile_module_from_file(
            src_path=os.path.join(driver.dirname, "driver.c"),
            name="cuda_utils",
            library_dirs=driver.library_dirs(),
            include_dirs=driver.include_dirs,
            libraries=driver.libraries,
        )
        return str(driver.libcuda_dirs()[0]), Path(module.__file__)
    except Exception as error:
        raise UsageError(
            f"trimul: Triton cannot build what it launches kernels with: {error}; it takes a C compiler and "
            "Python's headers once (apt-get install gcc python3-dev)"
        ) from error


def _installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True
