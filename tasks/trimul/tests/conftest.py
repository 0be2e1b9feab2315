"""A judge with a sandbox, and answers for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

import sia_trimul
from sia_core.plugins import Plugins
from sia_core.types import Instance, Score, VerifierContext
from sia_runtime.sandbox.program_host import open_program
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

    def requires(self) -> tuple[str, ...]:
        return ("torch", *(["triton"] if find_spec("triton") else []))

    def beside(self) -> Mapping[str, bytes]:
        return {"environment.json": b'{"TRITON_INTERPRET": "1"}'}


class Interpreted(StandIn):
    """On shapes that Triton's interpreter gets through in a second, or on a busy machine in several."""

    patience = 100.0
    checked = checked_at_first = (Shape(9, 1, 32, "cauchy", True),)
    timed = (Shape(12, 1, 32, "normal", True),)


def scores(scorer: KernelJudge | DeviceJudge, name: str = "namespaces") -> Iterator[Callable[..., Score]]:
    """Scores code, by one judge for all tests, as one verifier's process does."""
    sandbox = Plugins.discover().create("sandbox", name)
    if sandbox.probe():
        pytest.skip(f"the sandbox {name!r} does not hold here")

    def score(code: str, *, final: bool = False) -> Score:
        ctx = VerifierContext(no_run, 0, partial(open_program, sandbox), final)
        return scorer.score(SEALED if final else INSTANCE, {"code": code, "plan": None}, ctx)

    yield score
    scorer.close()


@pytest.fixture(scope="session")
def judge() -> Iterator[Callable[..., Score]]:
    """Of the CPU edition."""
    yield from scores(KernelJudge())


DEVICES = ["stand-in", "cuda"]


@pytest.fixture(scope="session", params=DEVICES)
def device_judge(request: pytest.FixtureRequest) -> Iterator[Callable[..., Score]]:
    """Of the CUDA edition."""
    yield from scores(of_device(request.param))


@pytest.fixture(scope="session", params=DEVICES)
def triton_judge(request: pytest.FixtureRequest) -> Iterator[Callable[..., Score]]:
    """The same for kernels in Triton, which the stand-in interprets, if nobody has imported Triton before."""
    pytest.importorskip("triton", reason="needs Triton, for Linux alone")
    yield from scores(of_device(request.param, Interpreted), "bwrap")


def of_device(name: str, stand_in: type[DeviceJudge] = StandIn) -> DeviceJudge:
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("takes a CUDA device")
    return stand_in() if name == "stand-in" else DeviceJudge()
