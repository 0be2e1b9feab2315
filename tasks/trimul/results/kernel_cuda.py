"""A Triton kernel for the triangle multiplicative update on a CUDA device, written by hand; never timed on one.

Four stages, with float16 between them and float32 sums within:

1. LayerNorm, once, to float16.
2. One product for left and right: each tile sums a projection and its gate side by side, multiplies them with the
   mask, and is stored by channel, (H, N * N), as the next stage reads it.
3. The library's batched product over k.
4. LayerNorm over H, the output gate (summed again here from stage 1's result, which moves less than storing it), and
   the output projection.
"""

import torch
import triton
import triton.language as tl

ROWS, CHANNELS, DEPTH = 128, 64, 64
"""The tile of stage 2: positions, channels of H, and channels of x that are taken at a time."""

OUT_ROWS, OUT_CHANNELS = 64, 64
"""The tile of stage 4: positions, and channels of y that are written at a time."""


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
    tl.store(out + places, result.to(tl.float16), mask=there)


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
    tl.store(out + places, result.to(tl.float16), mask=(channels < h)[:, None] & (rows < m)[None, :])


@triton.jit
def finish(
    o, x, gates, weight, bias, projection, y, m, nn, c, eps,
    H: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """``o`` (B, H, N * N), ``gates`` (H, C), ``projection`` (C, H)."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    channels = tl.arange(0, H)
    batch, position = rows // nn, rows % nn
    places = batch[:, None] * H * nn + channels.to(tl.int64)[None, :] * nn + position[:, None]
    given = tl.load(o + places, mask=(rows < m)[:, None], other=0.0).to(tl.float32)
    mean = tl.sum(given, 1) / H
    centred = given - mean[:, None]
    spread = tl.rsqrt(tl.sum(centred * centred, 1) / H + eps)
    normal = centred * spread[:, None] * tl.load(weight + channels)[None, :] + tl.load(bias + channels)[None, :]
    gate = tl.zeros((ROWS, H), dtype=tl.float32)
    for first in range(0, c, DEPTH):
        depth = first + tl.arange(0, DEPTH)
        part = tl.load(
            x + rows[:, None] * c + depth[None, :], mask=(rows < m)[:, None] & (depth < c)[None, :], other=0.0
        )
        factor = tl.load(gates + channels[None, :] * c + depth[:, None], mask=(depth < c)[:, None], other=0.0)
        gate = tl.dot(part, factor, gate)
    gated = (normal * tl.sigmoid(gate)).to(tl.float16)
    for first in range(0, c, CHANNELS):
        columns = first + tl.arange(0, CHANNELS)
        factor = tl.load(projection + columns[None, :] * H + channels[:, None], mask=(columns < c)[None, :], other=0.0)
        there = (rows < m)[:, None] & (columns < c)[None, :]
        tl.store(y + rows[:, None] * c + columns[None, :], tl.dot(gated, factor), mask=there)


def kernel(x, mask, weights, config):
    b, n, _, c = x.shape
    h, eps, m, half = config["hidden_dim"], config["eps"], b * n * n, torch.float16
    names = ("left_proj", "right_proj", "left_gate", "right_gate", "out_gate")
    packed = torch.cat([weights[f"{name}.weight"] for name in names]).to(half)
    projection = weights["to_out.weight"].to(half)
    normal = torch.empty(m, c, dtype=half, device=x.device)
    sides = torch.empty(2, b * h, n, n, dtype=half, device=x.device)
    y = torch.empty_like(x)
    width = triton.next_power_of_2(c)
    few = max(1, 2048 // width)
    normalise[(triton.cdiv(m, few),)](
        x, weights["norm.weight"], weights["norm.bias"], normal, m, c, eps, ROWS=few, C=width
    )
    tiles = triton.cdiv(m, ROWS) * 2 * triton.cdiv(h, CHANNELS)
    project[(tiles,)](
        normal, mask, packed, sides, m, n * n, c, h,
        ROWS=ROWS, CHANNELS=CHANNELS, DEPTH=DEPTH, num_warps=8, num_stages=3,
    )  # fmt: skip
    o = torch.bmm(sides[0], sides[1].transpose(1, 2))
    finish[(triton.cdiv(m, OUT_ROWS),)](
        o, normal, packed[4 * h :], weights["to_out_norm.weight"], weights["to_out_norm.bias"], projection, y,
        m, n * n, c, eps, H=h, ROWS=OUT_ROWS, CHANNELS=OUT_CHANNELS, DEPTH=DEPTH, num_warps=4, num_stages=3,
    )  # fmt: skip
    return y
