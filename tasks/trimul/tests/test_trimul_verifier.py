"""Rewards of kernels: an honest one's speed-up; 0, and the reason, for one that is wrong or cheats."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

import sia_trimul
from sia_core.types import Called, Instance, Score, VerifierContext
from sia_trimul.judging import SEARCH_TOLERANCE, Refused, Times, check, summary
from sia_trimul.shapes import CPU_TIMING, DEVICES, Shape, staged_seconds
from sia_trimul.verifier import KernelJudge

Judge = Callable[..., Score]

SHAPE = Shape(2, 1, 3)
REFERENCE = (Path(sia_trimul.__file__).parent / "programs" / "reference.py").read_text()


# The numbers alone.


def test_an_output_within_the_tolerance_passes() -> None:
    reference = np.array([[[[1.0, -100.0, 0.0]]]], np.float32)
    check(reference + np.float32(0.019), reference, SHAPE)
    check(reference * np.float32(1.019), reference, SHAPE)


def test_a_search_tolerates_less_than_a_final_answer_may_be_off() -> None:
    reference = np.ones((1, 2, 2, 3), np.float32)
    check(reference * np.float32(1.038), reference, SHAPE)
    with pytest.raises(Refused, match=r"further off than 0\.018"):
        check(reference * np.float32(1.038), reference, SHAPE, SEARCH_TOLERANCE)


@pytest.mark.parametrize(
    ("y", "says"),
    [
        (None, "no array"),
        ([1.0], "no array"),
        (np.zeros((1, 2, 2, 3)), "float64"),
        (np.zeros((1, 2, 3, 2), np.float32), "[1, 2, 3, 2]"),
        (np.full((1, 2, 2, 3), np.nan, np.float32), "nan and should be 1"),
        (np.full((1, 2, 2, 3), np.inf, np.float32), "inf and should be 1"),
        (np.full((1, 2, 2, 3), 0x7FA00000, np.uint32).view(np.float32), "nan and should be 1"),
        (np.full((1, 2, 2, 3), -3e38, np.float32), "-3e+38 and should be 1"),
        (np.full((1, 2, 2, 3), 1.05, np.float32), "1.05 and should be 1; 100.00% of the elements"),
    ],
)
def test_any_other_output_is_refused_with_its_worst_element(y: object, says: str) -> None:
    with pytest.raises(Refused, match="2/1/3 normal") as refusal:
        check(y, np.ones((1, 2, 2, 3), np.float32), SHAPE)
    assert says in str(refusal.value)


def test_the_worst_element_is_named_by_its_index() -> None:
    y = np.ones((1, 2, 2, 3), np.float32)
    y[0, 1, 0, 2] = 3
    with pytest.raises(Refused, match=r"y\[0, 1, 0, 2\] is 3 and should be 1; 8.33%"):
        check(y, np.ones_like(y), SHAPE)


def test_a_reference_that_is_not_a_number_passes_nothing() -> None:
    nothing = np.full((1, 2, 2, 3), np.nan, np.float32)
    with pytest.raises(Refused):
        check(nothing, nothing, SHAPE)


def test_the_reward_is_the_geometric_mean_of_speed_ups_between_medians() -> None:
    times = [Times(SHAPE, [1.0, 2.0, 9.0], [8.0, 1.0, 9.0]), Times(SHAPE, [1.0], [1.0])]
    reward, metrics, feedback = summary(times, 1e9)
    assert reward == pytest.approx(2.0)
    assert metrics["microseconds"] == pytest.approx(1e6 * 2**0.5)
    assert metrics[f"{SHAPE}: ms of products alone"] == pytest.approx(SHAPE.flop / 1e9 * 1e3)
    assert "2.00 times the baseline's speed" in feedback
    beside = summary(times, 1e9, DEVICES[0])[1]
    floor = {f"{SHAPE}: ms of three stages at best": pytest.approx(staged_seconds(SHAPE, DEVICES[0]) * 1e3)}
    assert beside == {**metrics, **floor}


def test_a_time_that_no_kernel_can_reach_is_refused() -> None:
    times = Times(SHAPE, [1.0, 0.001, 1.0], [1.0])
    times.check_possible(0.0009)
    with pytest.raises(Refused, match="the work was done elsewhere"):
        times.check_possible(0.002)


class StandIn:
    """A program that is always right, each call of which takes some seconds, and some of a processor's."""

    def __init__(self, seconds: float, used: float) -> None:
        self._seconds, self._used = seconds, used

    def call(self, function: str, arguments: Any = (), *_: Any) -> Called:
        value = {"products": 1e-9}.get(function) if function != "kernel" else np.zeros_like(arguments[0])
        return Called("ok", value, seconds=self._seconds, processor_seconds=self._used)

    def __enter__(self) -> StandIn:
        return self

    def __exit__(self, *_: object) -> None: ...


@pytest.mark.parametrize(("baseline", "kernel", "reward"), [((2, 3), (5, 1), 3), ((2, 0), (5, 0), 0.4)])
def test_what_counts_is_processor_time_where_the_sandbox_tells_it(baseline: Any, kernel: Any, reward: float) -> None:
    programs = iter([StandIn(*baseline), StandIn(*kernel)])
    ctx = VerifierContext(cast("Any", None), 0, cast("Any", lambda *_, **__: next(programs)), False)
    score = KernelJudge().score(Instance("search-0", "search", {}), {"code": "", "plan": None}, ctx)
    assert score.reward == pytest.approx(reward), score.feedback


# Real kernels.


@pytest.mark.real
@pytest.mark.slow
def test_the_baseline_itself_earns_about_one(judge: Judge) -> None:
    score = judge(REFERENCE, final=True)
    assert score.valid, score.feedback
    assert score.metrics.keys() >= {"speedup", "microseconds", *(f"{shape}: ms" for shape in CPU_TIMING)}
    assert 0.2 < score.reward < 5


@pytest.mark.real
@pytest.mark.slow
def test_pytorch_knows_the_processor_there(judge: Judge) -> None:
    """Or it would compute without vector instructions, and fail in float16."""
    code = "def kernel(x, *_):\n    x.half()\n    raise RuntimeError(torch.backends.cpu.get_cpu_capability())"
    score = judge(f"import torch\n{code}")
    assert score.feedback.startswith(f"RuntimeError: {torch.backends.cpu.get_cpu_capability()}")


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("def kernel(", "SyntaxError"),
        ("import cupy", "ModuleNotFoundError: No module named 'cupy'"),
        ("x = 1", "has no attribute 'kernel'"),
        ("def kernel(x, mask, weights, config):\n    return x.no_such", "candidate.py:2 in kernel"),
        ("def kernel(*_):\n    return 1", "kernel returned a int, not a tensor"),
        ("import torch\ndef kernel(x, *_):\n    return x[:, 1:]", "should be float32"),
        ("def kernel(x, *_):\n    return x.double()", "y is float64"),
        ("def kernel(x, *_):\n    return x * float('nan')", "y[0, 0, 0, 0] is nan"),
        ("import time\ndef kernel(*_):\n    time.sleep(60)", "too slow: no answer within"),
        ("import os\ndef kernel(*_):\n    os.kill(os.getpid(), 11)", "killed by signal 11"),
        ("import os\nos._exit(0)", "ended before it answered"),
    ],
)
def test_a_kernel_that_fails_earns_nothing_and_is_told_why(judge: Judge, code: str, says: str) -> None:
    score = judge(code)
    assert (score.valid, score.reward) == (False, 0.0)
    assert says in score.feedback
    assert len(score.feedback) < 1000
