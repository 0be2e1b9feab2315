"""The shapes cost what is published of them, and their inputs are what the brief says."""

from __future__ import annotations

import numpy as np
import pytest

from sia_trimul.shapes import CORRECTNESS, TIMING, Shape, device_of, draw, geometric_mean, least_seconds, staged_seconds


def test_the_work_of_the_seven_shapes() -> None:
    assert [round(shape.flop / 1e9, 1) for shape in TIMING] == [34.4, 231.9, 85.9, 85.9, 481.0, 463.9, 893.4]
    assert [round(shape.io_bytes / 1e6) for shape in TIMING] == [134, 604, 403, 268, 1074, 1812, 3221]


@pytest.mark.parametrize(("name", "staged", "least"), [("NVIDIA H200", 427, 200), ("NVIDIA H100 80GB HBM3", 534, 220)])
def test_the_floors_of_known_devices(name: str, staged: float, least: float) -> None:
    device = device_of(name)
    assert device is not None
    assert geometric_mean([staged_seconds(shape, device) for shape in TIMING]) * 1e6 == pytest.approx(staged, abs=1)
    assert geometric_mean([least_seconds(shape, device) for shape in TIMING]) * 1e6 == pytest.approx(least, abs=1)


def test_a_device_that_is_not_known_has_no_floor() -> None:
    assert device_of("NVIDIA GeForce 256") is None


def test_every_size_is_checked_with_both_distributions_and_masks() -> None:
    sizes = {(shape.n, shape.b, shape.c) for shape in CORRECTNESS}
    assert len(sizes) == 7
    assert len(CORRECTNESS) == len(set(CORRECTNESS)) == 4 * len(sizes)


def test_inputs_have_their_shapes_and_masks_have_zeros() -> None:
    x, mask, weights, config = draw(Shape(16, 2, 24, "normal", True), 0)
    assert (x.shape, mask.shape, x.dtype, mask.dtype) == ((2, 16, 16, 24), (2, 16, 16), np.float32, np.float32)
    assert set(np.unique(mask)) == {0.0, 1.0}
    assert 0.1 < (mask == 0).mean() < 0.3
    assert weights["left_proj.weight"].shape == (128, 24)
    assert weights["to_out.weight"].shape == (24, 128)
    assert config == {"dim": 24, "hidden_dim": 128, "eps": 1e-5}
    assert all(each.dtype == np.float32 for each in weights.values())


def test_cauchy_inputs_have_heavy_tails_and_are_finite() -> None:
    x = draw(Shape(64, 1, 64, "cauchy"), 1)[0]
    assert np.isfinite(x).all()
    assert np.abs(x).max() > 1000
    assert np.median(np.abs(x)) == pytest.approx(2.0, rel=0.05)  # of |Cauchy(0, s)| the median is s


def test_each_seed_has_inputs_of_its_own() -> None:
    one, same, other = (draw(Shape(4, 1, 8), seed)[0] for seed in (1, 1, 2))
    assert (one == same).all()
    assert (one != other).any()
