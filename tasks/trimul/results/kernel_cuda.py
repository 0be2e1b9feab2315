"""A kernel for the triangle multiplicative update on a CUDA device, rendered from a plan:
finish_channels = 64
finish_depth = 64
finish_rows = 64
finish_stages = 3
finish_warps = 8
gate = again
half = float16
norm_elements = 2048
norm_warps = 4
project_channels = 64
project_depth = 64
project_rows = 128
project_stages = 3
project_warps = 8
"""

import torch
import triton
import triton.language as tl

HALF = torch.float16
NORM_ELEMENTS, NORM = 2048, {"num_warps": 4}
PROJECT = {
    "ROWS": 128,
    "CHANNELS": 64,
    "DEPTH": 64,
    "num_warps": 8,
    "num_stages": 3,
}
FINISH = {
    "ROWS": 64,
    "CHANNELS": 64,
    "DEPTH": 64,
    "STORED": False,
    "num_warps": 8,
    "num_stages": 3,
}
GATE = {name: FINISH[name] for name in ("ROWS", "DEPTH", "num_warps", "num_stages")}


@triton.jit
def normalise(x, weight, bias, out, m, c, eps, ROWS: tl.constexpr, C: tl.constexpr):
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, C)
    there = (rows < m)[:, None] & (columns < c)[None, :]
    places = rows[:, None] * c + columns[None, :]
    given = tl.load(x + places, mask=there, other=0.0)
    mean = tl.sum(given, 1) / c
    centred = tl.where(there, given - mean[:, None], 0.0)
    spread = tl.rsqrt(tl.sum(centred * centred, 1) / c + eps)
    scale = tl.load(weight + columns, mask=columns < c, other=0.0)
    shift = tl.load(bias + columns, mask=columns < c, other=0.0)
    result = centred * spread[:, None] * scale[None, :] + shift[None, :]
    tl.store(out + places, result.to(out.dtype.element_ty), mask=there)


@triton.jit
def project(x, mask, weights, out, m, nn, c, h, ROWS: tl.constexpr, CHANNELS: tl.constexpr, DEPTH: tl.constexpr):
    """``weights`` (4 H, C): left, right, and the gate of each; ``out`` (2, B, H, N * N)."""
    tiles = tl.cdiv(h, CHANNELS)
    # Tiles that share their rows of x are next to each other, so that these are read once.
    side, tile = (tl.program_id(0) % (2 * tiles)) // tiles, tl.program_id(0) % tiles
    rows = (tl.program_id(0) // (2 * tiles)).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    channels = tile * CHANNELS + tl.arange(0, CHANNELS)
    value = tl.zeros((CHANNELS, ROWS), dtype=tl.float32)
    gate = tl.zeros((CHANNELS, ROWS), dtype=tl.float32)
    for first in range(0, c, DEPTH):
        depth = first + tl.arange(0, DEPTH)
        given = tl.load(
            x + rows[None, :] * c + depth[:, None], mask=(rows < m)[None, :] & (depth < c)[:, None], other=0.0
        )
        places = (side * h + channels)[:, None] * c + depth[None, :]
        inside = (channels < h)[:, None] & (depth < c)[None, :]
        value = tl.dot(tl.load(weights + places, mask=inside, other=0.0), given, value)
        gate = tl.dot(tl.load(weights + 2 * h * c + places, mask=inside, other=0.0), given, gate)
    kept = tl.load(mask + rows, mask=rows < m, other=0.0)
    result = value * tl.sigmoid(gate) * kept[None, :]
    batch, position = rows // nn, rows % nn
    sides = side.to(tl.int64) * m * h
    places = sides + batch[None, :] * h * nn + channels.to(tl.int64)[:, None] * nn + position[None, :]
    tl.store(out + places, result.to(out.dtype.element_ty), mask=(channels < h)[:, None] & (rows < m)[None, :])


@triton.jit
def sum_gate(x, gates, rows, m, c, H: tl.constexpr, ROWS: tl.constexpr, DEPTH: tl.constexpr):
    """The sums of the output gate of some positions, (ROWS, H)."""
    channels = tl.arange(0, H)
    gate = tl.zeros((ROWS, H), dtype=tl.float32)
    for first in range(0, c, DEPTH):
        depth = first + tl.arange(0, DEPTH)
        part = tl.load(
            x + rows[:, None] * c + depth[None, :], mask=(rows < m)[:, None] & (depth < c)[None, :], other=0.0
        )
        factor = tl.load(gates + channels[None, :] * c + depth[:, None], mask=(depth < c)[:, None], other=0.0)
        gate = tl.dot(part, factor, gate)
    return gate


@triton.jit
def store_gate(x, gates, out, m, c, H: tl.constexpr, ROWS: tl.constexpr, DEPTH: tl.constexpr):
    """``gates`` (H, C); ``out`` (M, H)."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    gate = tl.sigmoid(sum_gate(x, gates, rows, m, c, H, ROWS, DEPTH))
    places = rows[:, None] * H + tl.arange(0, H)[None, :]
    tl.store(out + places, gate.to(out.dtype.element_ty), mask=(rows < m)[:, None])


@triton.jit
def finish(
    o, x, gates, weight, bias, projection, y, m, nn, c, eps,
    H: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr, DEPTH: tl.constexpr, STORED: tl.constexpr,
):  # fmt: skip
    """``o`` (B, H, N * N), ``projection`` (C, H); ``gates`` (H, C), or what :func:`store_gate` stored, (M, H)."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    channels = tl.arange(0, H)
    batch, position = rows // nn, rows % nn
    places = batch[:, None] * H * nn + channels.to(tl.int64)[None, :] * nn + position[:, None]
    given = tl.load(o + places, mask=(rows < m)[:, None], other=0.0).to(tl.float32)
    mean = tl.sum(given, 1) / H
    centred = given - mean[:, None]
    spread = tl.rsqrt(tl.sum(centred * centred, 1) / H + eps)
    normal = centred * spread[:, None] * tl.load(weight + channels)[None, :] + tl.load(bias + channels)[None, :]
    if STORED:
        gate = tl.load(gates + rows[:, None] * H + channels[None, :], mask=(rows < m)[:, None], other=0.0)
    else:
        gate = tl.sigmoid(sum_gate(x, gates, rows, m, c, H, ROWS, DEPTH))
    gated = (normal * gate).to(projection.dtype.element_ty)
    for first in range(0, c, CHANNELS):
        columns = first + tl.arange(0, CHANNELS)
        factor = tl.load(projection + columns[None, :] * H + channels[:, None], mask=(columns < c)[None, :], other=0.0)
        there = (rows < m)[:, None] & (columns < c)[None, :]
        tl.store(y + rows[:, None] * c + columns[None, :], tl.dot(gated, factor), mask=there)


def kernel(x, mask, weights, config):
    b, n, _, c = x.shape
    h, eps, m = config["hidden_dim"], config["eps"], b * n * n
    names = ("left_proj", "right_proj", "left_gate", "right_gate", "out_gate")
    packed = torch.cat([weights[name + ".weight"] for name in names]).to(HALF)
    gates, projection = packed[4 * h :], weights["to_out.weight"].to(HALF)
    normal = torch.empty(m, c, dtype=HALF, device=x.device)
    sides = torch.empty(2, b * h, n, n, dtype=HALF, device=x.device)
    y = config["y"] if "y" in config else torch.empty_like(x)
    width = triton.next_power_of_2(c)
    few = max(1, NORM_ELEMENTS // width)
    scale, shift = weights["norm.weight"], weights["norm.bias"]
    normalise[(triton.cdiv(m, few),)](x, scale, shift, normal, m, c, eps, ROWS=few, C=width, **NORM)
    tiles = triton.cdiv(m, PROJECT["ROWS"]) * 2 * triton.cdiv(h, PROJECT["CHANNELS"])
    project[(tiles,)](normal, mask, packed, sides, m, n * n, c, h, **PROJECT)
    o = torch.bmm(sides[0], sides[1].transpose(1, 2))
    tiles = triton.cdiv(m, FINISH["ROWS"])
    if FINISH["STORED"]:
        stored = torch.empty(m, h, dtype=HALF, device=x.device)
        store_gate[(tiles,)](normal, gates, stored, m, c, H=h, **GATE)
        gates = stored
    scale, shift = weights["to_out_norm.weight"], weights["to_out_norm.bias"]
    finish[(tiles,)](o, normal, gates, scale, shift, projection, y, m, n * n, c, eps, H=h, **FINISH)
    return y
