"""The judge of kernels on a device, with the CPU in the device's place, and on a CUDA device where there is one."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sia_core.errors import SiaError
from sia_core.types import Instance, Score, VerifierContext
from sia_trimul import device
from sia_trimul.device import DeviceJudge, Limited, Round, calls_of, check, check_clocks
from sia_trimul.device_memory import Shared
from sia_trimul.drawing import drawn_on
from sia_trimul.judging import Refused
from sia_trimul.shapes import CORRECTNESS, TIMING, Distribution, Shape, draw

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))

import measure

SMALL = Shape(8, 1, 16, masked=True)
REFERENCE = (device.PROGRAMS / "reference.py").read_text()
HONEST = REFERENCE.replace("def kernel", "def honest")

Judge = Callable[..., Score]


# What is drawn, laid out and compared.


@pytest.mark.parametrize("distribution", ["normal", "cauchy"])
def test_what_is_drawn_on_a_device_is_distributed_as_what_is_drawn_by_numpy(distribution: Distribution) -> None:
    shape = Shape(48, 2, 32, distribution, masked=True)
    x, mask, weights, config = draw(shape, 1)
    there = drawn_on("cpu", shape, 1)
    shares = torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9])
    for mine, other in zip((x, mask), there[:2], strict=True):
        mine = torch.from_numpy(mine)
        assert (mine.shape, mine.dtype) == (other.shape, other.dtype)
        assert torch.allclose(mine.ravel().quantile(shares), other.ravel().quantile(shares), rtol=0.05, atol=0.02)
    assert (there[2].keys(), there[3]) == (weights.keys(), config)
    assert all(there[2][name].shape == weight.shape for name, weight in weights.items())
    assert torch.equal(there[0], drawn_on("cpu", shape, 1)[0])


def test_shared_memory_is_one_through_two_descriptors() -> None:
    ours = Shared(4096, "cpu")
    theirs = Shared(ours.size, "cpu", os.dup(ours.descriptor))
    ours.floats(256, (2, 3)).fill_(7)
    assert theirs.floats(256, (2, 3)).tolist() == [[7] * 3] * 2
    assert theirs.bytes.sum() == ours.bytes.sum() != 0
    ours.close()
    theirs.close()


def test_the_worst_element_is_named_as_on_the_cpu() -> None:
    reference = torch.ones(1, 2, 2, 3)
    for value, says in ((3.0, "is 3 and should be 1; 8.33%"), (math.nan, "is nan and"), (math.inf, "is inf and")):
        y = reference.clone()
        y[0, 1, 0, 2] = value
        with pytest.raises(Refused, match=rf"y\[0, 1, 0, 2\] {says}"):
            check(y, reference, SMALL, 0.02)
    check(reference * 1.03, reference, SMALL, 0.02)


def test_the_worst_element_is_found_in_any_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_PART", 5)
    reference = torch.ones(1, 2, 2, 3)
    y = reference.clone()
    y[0, 0, 0, 1], y[0, 1, 0, 2], y[0, 1, 1, 2] = 2.0, 4.0, 3.0
    with pytest.raises(Refused, match=r"y\[0, 1, 0, 2\] is 4 and should be 1; 25.00%"):
        check(y, reference, SMALL, 0.02)


def test_a_kernel_has_so_many_seconds_for_all_its_calls_together() -> None:
    limits: list[float] = []

    class Slow:
        def call(self, function: str, arguments: Any, seconds: float, *_: Any) -> device.Called:
            limits.append(seconds)
            return device.Called("ok", seconds=4.0)

    program: Any = Slow()
    kernel = Limited(program, 10.0)
    ended = [kernel.call("calls", [], 5.0).ended for _ in range(4)]
    assert (ended, limits) == (["ok", "ok", "ok", "timeout"], [5.0, 5.0, 2.0])


def no_program(*_: Any, **__: Any) -> Any:
    raise AssertionError("no program is needed")


def test_memory_that_a_kernel_keeps_is_its_failure_and_a_device_that_is_too_small_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    judge, ctx = DeviceJudge(), VerifierContext(no_program, 0, no_program)
    judge.device = "cpu"

    def full(*_: Any, **__: Any) -> Any:
        raise MemoryError("full")

    monkeypatch.setattr(judge, "_baseline", lambda ctx: Here(outputs))
    monkeypatch.setattr(judge, "_times", full)
    judge._latest = SMALL, 2
    score = judge.score(Instance("search-0", "search", {}), {"code": "", "plan": None}, ctx)
    assert (score.valid, score.feedback) == (False, "beside it nothing else has room on the device: full")
    monkeypatch.setattr(device, "Shared", full)
    with pytest.raises(SiaError, match="no room to judge kernels at 8/1/16 normal masked: full"):
        judge.score(Instance("search-0", "search", {}), {"code": "", "plan": None}, ctx)


@pytest.mark.parametrize("claimed", [0.5, 2.0, math.nan, None, "1.0" * 1000, 1])
def test_a_clock_that_disagrees_is_refused(claimed: object) -> None:
    check_clocks(SMALL, 1.0, 1.2)
    with pytest.raises(Refused, match="its own clock says") as refusal:
        check_clocks(SMALL, 1.0, claimed)
    assert len(str(refusal.value)) < 200


def test_the_calls_of_a_round_fit_a_device() -> None:
    assert {calls_of(shape) for shape in TIMING} <= set(range(4, 33))
    assert calls_of(Shape(4096, 4, 768)) == 1
    assert max(calls_of(shape) * shape.io_bytes for shape in TIMING) <= 16e9
    assert max(shape.io_bytes for shape in CORRECTNESS) <= 16e9


class Here:
    """A process that a round's memory is handed to, played here; it stands still at once."""

    def __init__(self, fill: Callable[[Any], None], later: Callable[[Any], None] = lambda _: None) -> None:
        self._fill, self._later = fill, later

    def call(self, function: str, arguments: Any, seconds: float, handles: Any = (), at_reply: Any = None) -> Any:
        if function == "drop":
            return device.Called("ok")
        (order,), (handle,) = arguments, handles
        memory = Shared(order["size"], order["device"], os.dup(handle))
        for act in (self._fill, self._later):
            for each in order["calls"]:
                act({name: memory.floats(*place) for name, place in each.items()})
            if act is self._fill:
                at_reply()
        memory.close()
        return device.Called("ok", 0.0, 1.0)


def outputs(call: Any) -> None:
    names = [name for name in call if "." in name]
    reference = device.module_of(device.PROGRAMS / "reference.py").kernel
    config = draw(SMALL, 0)[3]
    call["y"].copy_(reference(call["x"], call["mask"], {name: call[name] for name in names}, config))


def played(fill: Callable[[Any], None], later: Callable[[Any], None] = lambda _: None) -> None:
    around = Round(SMALL, 3, "cpu")
    try:
        program: Any = Here(fill, later)
        around.call(program, "calls", 1.0)
        around.check(device.module_of(device.PROGRAMS / "reference.py").kernel, 0.02)
    finally:
        around.close()


def test_right_outputs_pass() -> None:
    played(outputs)


def test_outputs_that_are_written_after_the_reply_are_refused() -> None:
    with pytest.raises(Refused, match="an output was not there yet when the call had returned"):
        played(lambda _: None, outputs)


def test_outputs_that_a_device_is_done_with_only_while_they_are_checked_are_refused() -> None:
    around, handed = Round(SMALL, 1, "cpu"), []
    program: Any = Here(handed.append)
    around.call(program, "calls", 1.0)

    def reference(*arguments: Any) -> Any:
        outputs(handed[0])
        return device.module_of(device.PROGRAMS / "reference.py").kernel(*arguments)

    with pytest.raises(Refused, match="an output was not there yet when the call had returned"):
        around.check(reference, 0.02)
    around.close()


def test_outputs_that_are_not_written_are_refused() -> None:
    with pytest.raises(Refused, match="is nan and should be"):
        played(lambda _: None)


def test_inputs_that_are_written_change_nothing_of_what_is_right() -> None:
    def easy(call: Any) -> None:
        call["x"].zero_()
        call["mask"].zero_()
        outputs(call)

    with pytest.raises(Refused, match="wrong at"):
        played(easy)


def test_no_call_has_the_inputs_of_another() -> None:
    values: list[float] = []

    def look(call: Any) -> None:
        values.append(float(call["x"].ravel()[0]))
        outputs(call)

    played(look)
    played(look)
    assert len(set(values)) == 6


# Real processes.


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("final", [False, True])
def test_the_baseline_itself_is_about_as_fast_as_itself(device_judge: Judge, *, final: bool) -> None:
    score = device_judge(REFERENCE, final=final)
    assert score.valid, score.feedback
    assert score.reward == pytest.approx(1500 / score.metrics["microseconds"])
    assert 0.2 < score.metrics["speedup"] < 5


@pytest.mark.real
@pytest.mark.slow
def test_a_kernel_may_write_to_the_output_that_it_is_given(device_judge: Judge) -> None:
    score = device_judge(
        f"{HONEST}\ndef kernel(x, mask, w, config):\n    return config['y'].copy_(honest(x, mask, w, config))"
    )
    assert score.valid, score.feedback


@pytest.mark.real
@pytest.mark.slow
def test_a_kernel_may_be_written_in_triton(triton_judge: Judge, tmp_path: Path) -> None:
    score = triton_judge(measure.cuda_kernel(tmp_path).read_text())
    assert score.valid, score.feedback


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("def kernel(", "SyntaxError"),
        ("x = 1", "has no attribute 'kernel'"),
        ("def kernel(*_):\n    return 1", "kernel returned a int, not a tensor"),
        ("def kernel(x, *_):\n    return x[:, 1:]", "and should be torch.float32"),
        ("def kernel(x, *_):\n    return x.double()", "y is torch.float64"),
        ("def kernel(x, *_):\n    return x * float('nan')", "y[0, 0, 0, 0] is nan"),
        ("import os\ndef kernel(*_):\n    os.kill(os.getpid(), 11)", "killed by signal 11"),
    ],
)
def test_a_kernel_that_fails_earns_nothing_and_is_told_why(device_judge: Judge, code: str, says: str) -> None:
    score = device_judge(code)
    assert (score.valid, score.reward) == (False, 0.0)
    assert says in score.feedback
    assert len(score.feedback) < 1000
