"""A judge with a sandbox, and answers for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import sia_trimul
from sia_core.plugins import Plugins
from sia_core.sandbox.calling import open_program
from sia_core.types import Instance, Score, VerifierContext
from sia_trimul.device import DeviceJudge
from sia_trimul.shapes import Shape
from sia_trimul.verifier import KernelJudge

SOURCE = Path(sia_trimul.__file__).parent
INSTANCE = Instance("search-0", "search", {"device": "cpu"})
SEALED = Instance("sealed-0", "sealed", {"device": "cpu"})


def no_run(*_: Any, **__: Any) -> Any:
    raise AssertionError("this verifier opens programs and runs none")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads that wait for one another make small tensors slow on a machine that does other work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class StandIn(DeviceJudge):
    """The judge of kernels on a device, on the CPU, whose memory and clock stand in for a device's."""

    device = "cpu"
    checked = checked_at_first = (Shape(17, 2, 128, "cauchy", True),)
    timed = (Shape(64, 1, 128, "normal", True), Shape(80, 1, 128, "cauchy"))
    measured_on = 512, 2**22


def scores(made: KernelJudge | DeviceJudge) -> Iterator[Callable[..., Score]]:
    """Scores code, by one judge for all tests, as one verifier's process does."""
    sandbox = Plugins.discover().create("sandbox", "namespaces")
    if sandbox.probe():
        pytest.skip("the sandbox 'namespaces' does not hold here")

    def score(code: str, *, final: bool = False) -> Score:
        ctx = VerifierContext(no_run, 0, partial(open_program, sandbox), final)
        return made.score(SEALED if final else INSTANCE, {"code": code, "plan": None}, ctx)

    yield score
    made.close()


@pytest.fixture(scope="session")
def judge() -> Iterator[Callable[..., Score]]:
    """Of the CPU edition."""
    yield from scores(KernelJudge())


@pytest.fixture(scope="session", params=["stand-in", "cuda"])
def device_judge(request: pytest.FixtureRequest) -> Iterator[Callable[..., Score]]:
    """Of the CUDA edition."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("takes a CUDA device")
    yield from scores(StandIn() if request.param == "stand-in" else DeviceJudge())
