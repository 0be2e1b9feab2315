"""Micro-batches in which a prompt is computed once for all of its continuations.

A packed row is one prefix of L tokens followed by G branches of T tokens each; every
branch sees the prefix and itself. A branch starts with the token before its first
sampled one and ends before its last sampled one: the hidden states that training reads
are all in branches. Continuations that agree so far share a branch, so a group that
chose among a few answers costs as many branches as the answers have beginnings.

Shapes: B rows, S = L + G * T positions, N sampled tokens of the whole micro-batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from sia_core.errors import TrainingError
from sia_core.learning import Datum, Trace
from sia_torch.tiny import NOTHING

PREFIX_BUCKET = 32
BRANCH_BUCKET = 4


@dataclass(frozen=True)
class Shape:
    """How a packed row is divided: ``prefix`` L, ``branches`` G, ``width`` T."""

    prefix: int
    branches: int
    width: int

    @property
    def tokens(self) -> int:
        return self.prefix + self.branches * self.width


@dataclass(frozen=True)
class Tree:
    """The shape of a row for attention, and how many tokens (B,) of each row's prefix are real."""

    shape: Shape
    lengths_B: Tensor


@dataclass(frozen=True)
class Packed:
    """A micro-batch of traces, ready for the model.

    ``features`` (B, S, ...) are what the embedding takes; ``read_N`` are flat
    positions of B * G * T, in branches, whose hidden state predicts ``targets_N``, which is token
    ``column_N`` of trace ``row_N``; ``allowed`` and ``bias`` have an entry a sampled token.
    """

    tree: Tree
    features: Tensor
    positions_BS: Tensor
    read_N: Tensor
    targets_N: Tensor
    row_N: Tensor
    column_N: Tensor
    allowed: Sequence[Sequence[int] | None]
    bias: Sequence[Sequence[float] | None]


def bucket(length: int, size: int) -> int:
    """The least multiple of ``size`` that holds ``length``."""
    return -(-length // size) * size


def first_sampled(trace: Trace) -> int:
    """Where a trace's first sampled token is; TrainingError if there is none, or nothing before it."""
    index = list(trace.mask).index(1) if any(trace.mask) else 0
    if not index:
        raise TrainingError("a trace has no sampled token, or its first token is one; nothing precedes that")
    return index


def units(data: Sequence[Datum]) -> list[list[int]]:
    """Indices of data that must meet in one micro-batch: the sides of a pair, or a datum alone."""
    found: dict[object, list[int]] = {}
    for index, datum in enumerate(data):
        found.setdefault(("alone", index) if datum.pair is None else datum.pair, []).append(index)
    return list(found.values())


def plan(traces: Sequence[Trace], together: Sequence[Sequence[int]], budget: int) -> list[list[list[int]]]:
    """Split into micro-batches of at most ``budget`` positions: each a list of rows, a row the traces of one prefix.

    A unit of ``together`` is never split, even where it alone is past the budget.
    """
    parts = [_parts(trace) for trace in traces]
    seen = {prefix: number for number, (prefix, _) in reversed(list(enumerate(parts)))}

    def order(unit: Sequence[int]) -> tuple[int, int, int]:
        prefix = parts[unit[0]][0]
        return bucket(len(prefix), PREFIX_BUCKET), seen[prefix], unit[0]

    batches: list[_Filling] = []
    for unit in sorted(together, key=order):
        if not batches or not batches[-1].takes(unit, parts, budget):
            batches.append(_Filling())
            batches[-1].takes(unit, parts, None)
    return [list(batch.rows.values()) for batch in batches]


_Parts = tuple[tuple[int, ...], tuple[int, ...]]


def _parts(trace: Trace) -> _Parts:
    """A trace's tokens before its branch, and those of its branch."""
    start = first_sampled(trace) - 1
    last = max(t for t, entry in enumerate(trace.mask) if entry)
    return tuple(trace.tokens[:start]), tuple(trace.tokens[start:last])


@dataclass
class _Filling:
    """A micro-batch that grows: its traces' indices and distinct branches, by prefix."""

    rows: dict[tuple[int, ...], list[int]] = field(default_factory=dict)
    branches: dict[tuple[int, ...], set[tuple[int, ...]]] = field(default_factory=dict)
    shape: Shape = Shape(0, 0, 0)

    def takes(self, unit: Sequence[int], parts: Sequence[_Parts], budget: int | None) -> bool:
        """Add a unit if it fits a budget."""
        touched = {parts[index][0]: set(self.branches.get(parts[index][0], ())) for index in unit}
        for index in unit:
            touched[parts[index][0]].add(parts[index][1])
        grown = Shape(
            prefix=max(self.shape.prefix, *(bucket(len(prefix), PREFIX_BUCKET) for prefix in touched)),
            branches=max(self.shape.branches, *map(len, touched.values())),
            width=max(self.shape.width, *(bucket(len(parts[index][1]), BRANCH_BUCKET) for index in unit)),
        )
        if budget is not None and len(self.branches | touched) * grown.tokens > budget:
            return False
        self.shape = grown
        self.branches.update(touched)
        for index in unit:
            self.rows.setdefault(parts[index][0], []).append(index)
        return True


def _merged(branches: Sequence[tuple[int, ...]]) -> tuple[list[tuple[int, ...]], list[int]]:
    """The branches that begin no other one, and for each branch the index of one of them that it begins."""
    kept: list[tuple[int, ...]] = []
    place: dict[tuple[int, ...], int] = {}
    for branch in sorted(set(branches), key=lambda each: (-len(each), each)):
        if branch not in place:
            kept.append(branch)
            for stop in range(1, len(branch) + 1):
                place.setdefault(branch[:stop], len(kept) - 1)
    return kept, [place[branch] for branch in branches]


def pack(
    rows: Sequence[Sequence[Trace]],
    context: int,
    features: Callable[[Tensor, Tensor], Tensor],
    device: torch.device,
) -> Packed:
    """Lay out rows of traces that share a prefix; the result's ``row_N`` numbers the traces in their order here.

    ``features`` turns (..., context + T) tokens and (..., T) positions into what the embedding takes.
    """
    parts = [[_parts(trace) for trace in row] for row in rows]
    merged = [_merged([branch for _, branch in row]) for row in parts]
    shape = Shape(
        prefix=bucket(max(len(row[0][0]) for row in parts), PREFIX_BUCKET),
        branches=max(len(kept) for kept, _ in merged),
        width=bucket(max(len(branch) for kept, _ in merged for branch in kept), BRANCH_BUCKET),
    )
    prefix_tokens, branch_tokens, lengths = [], [], []
    read, targets, owner, column = [], [], [], []
    allowed: list[Sequence[int] | None] = []
    bias: list[Sequence[float] | None] = []
    number = 0
    for b, (row, (kept, places)) in enumerate(zip(rows, merged, strict=True)):
        prefix = parts[b][0][0]
        start = len(prefix)
        lengths.append(start)
        prefix_tokens.append(_window(prefix, 0, shape.prefix, context))
        for trace, g in zip(row, places, strict=True):
            base = (b * shape.branches + g) * shape.width
            sampled = [t for t, entry in enumerate(trace.mask) if entry]
            read += [base + t - 1 - start for t in sampled]
            targets += [trace.tokens[t] for t in sampled]
            owner += [number] * len(sampled)
            column += sampled
            allowed += [trace.allowed[t] if trace.allowed else None for t in sampled]
            bias += [trace.bias[t] if trace.bias else None for t in sampled]
            number += 1
        branch_tokens += [_window([*prefix, *branch], start, shape.width, context) for branch in kept]
        branch_tokens += [_window([], 0, shape.width, context)] * (shape.branches - len(kept))

    def ints(values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.long, device=device)

    lengths_B = ints(lengths)
    steps = lengths_B[:, None, None] + torch.arange(shape.width, device=device)
    after_BGT = steps.expand(-1, shape.branches, -1)
    before_BL = torch.arange(shape.prefix, device=device).expand(len(rows), -1)
    prefixes = torch.tensor(prefix_tokens, dtype=torch.long, device=device).view(len(rows), -1)
    branches = torch.tensor(branch_tokens, dtype=torch.long, device=device).view(len(rows), shape.branches, -1)
    return Packed(
        tree=Tree(shape, lengths_B),
        features=torch.cat([features(prefixes, before_BL), features(branches, after_BGT).flatten(1, 2)], dim=1),
        positions_BS=torch.cat([before_BL, after_BGT.flatten(1)], dim=1),
        read_N=ints(read),
        targets_N=ints(targets),
        row_N=ints(owner),
        column_N=ints(column),
        allowed=allowed,
        bias=bias,
    )


def _window(tokens: Sequence[int], start: int, width: int, context: int) -> list[int]:
    """``width`` tokens from ``start`` on with the ``context`` before them; what does not exist is filled up."""
    before = list(tokens[max(0, start - context) : start])
    here = list(tokens[start : start + width])
    return [*[NOTHING] * (context - len(before)), *before, *here, *[0] * (width - len(here))]


def tree_mask(tree: Tree, positions_BS: Tensor, window: int | None) -> Tensor:
    """The mask (B, 1, S, S), bool, for models with attention of their own. ``window`` is a sliding one's size."""
    shape, device = tree.shape, positions_BS.device
    index = torch.arange(shape.tokens, device=device)
    branch = torch.where(index < shape.prefix, -1, (index - shape.prefix) // shape.width)
    own = (branch[:, None] == branch[None, :]) & (index[:, None] >= index[None, :])
    real_BS = (index < tree.lengths_B[:, None]) | (branch >= 0)
    up = (branch[:, None] >= 0) & (branch[None, :] < 0)
    seen = (
        (own[None] | (up[None] & real_BS[:, None, :])) if shape.prefix else own[None].expand(len(positions_BS), -1, -1)
    )
    if window is not None:
        seen = seen & (positions_BS[:, :, None] - positions_BS[:, None, :] < window)
    # A padded query sees itself: a softmax over nothing would be NaN and spread.
    return (seen | torch.eye(shape.tokens, dtype=torch.bool, device=device))[:, None]


def tree_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    tree: Tree | None = None,
    **rest: Any,
) -> tuple[Tensor, None]:
    """Attention over packed rows without a mask of S x S, in the shape that transformers asks for.

    ``query`` is (B, H, S, D), ``key`` and ``value`` (B, K, S, D); the result is (B, S, H, D).
    """
    if tree is None:  # someone else's forward, or that of another decoder
        whole: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **rest
        )
        return whole
    start = tree.shape.prefix
    branches = branch_attention(query[:, :, start:], key, value, tree, scaling)
    if not start:
        return branches.transpose(1, 2).contiguous(), None
    key, value = _for_heads(key[:, :, :start], query), _for_heads(value[:, :, :start], query)
    prefix = functional.scaled_dot_product_attention(query[:, :, :start], key, value, is_causal=True, scale=scaling)
    return torch.cat([prefix, branches], dim=2).transpose(1, 2).contiguous(), None


def branch_attention(query: Tensor, key: Tensor, value: Tensor, tree: Tree, scaling: float) -> Tensor:
    """Attention of branches (B, H, G * T, D) for a ``query`` of that shape; ``key`` and ``value`` are (B, K, S, D)."""
    shape = tree.shape
    key, value = _for_heads(key, query), _for_heads(value, query)
    batch, heads, _, width = query.shape

    def apart(states: Tensor) -> Tensor:
        return states.reshape(batch, heads, shape.branches, shape.width, width)

    query_T = apart(query * scaling)
    key_L, key_T = key[:, :, : shape.prefix], apart(key[:, :, shape.prefix :])
    value_L, value_T = value[:, :, : shape.prefix], apart(value[:, :, shape.prefix :])
    ahead = torch.ones(shape.width, shape.width, dtype=torch.bool, device=query.device).triu(1)
    own = (query_T @ key_T.transpose(-1, -2)).masked_fill(ahead, float("-inf"))
    if not shape.prefix:
        return (own.softmax(-1) @ value_T).flatten(2, 3)
    # Added, not filled in: a masked_fill of this size would be read and written once more in each direction.
    padded_BL = torch.arange(shape.prefix, device=query.device) >= tree.lengths_B[:, None]
    bias = torch.zeros_like(padded_BL, dtype=query.dtype).masked_fill(padded_BL, float("-inf"))
    up = query_T.flatten(2, 3) @ key_L.transpose(-1, -2) + bias[:, None, None]
    scores = torch.cat([up.view(batch, heads, shape.branches, shape.width, shape.prefix), own], dim=-1)
    weights = scores.softmax(-1)
    below = (weights[..., : shape.prefix].flatten(2, 3) @ value_L).view_as(query_T)
    return (below + weights[..., shape.prefix :] @ value_T).flatten(2, 3)


def _for_heads(states: Tensor, query: Tensor) -> Tensor:
    """Keys or values (B, K, S, D) repeated for the query's H heads."""
    groups = query.shape[1] // states.shape[1]
    return states.repeat_interleave(groups, dim=1) if groups > 1 else states


def turn(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions: pairs (i, i + D / 2) of (..., D) turned by their angle."""
    first, second = states.chunk(2, dim=-1)
    return states * cos + torch.cat([-second, first], dim=-1) * sin


def last_layer(layer: Any, states: Tensor, cos: Tensor, sin: Tensor, tree: Tree) -> Tensor:
    """A last decoder layer's output (B, G * T, D) for the branches, which alone are read, from states (B, S, D).

    Of the prefix only keys and values are computed; ``cos`` and ``sin`` are (B, S, E).
    """
    attention, start = layer.self_attn, tree.shape.prefix
    normal = layer.input_layernorm(states)

    def heads(projected: Tensor, norm: str | None = None) -> Tensor:
        split = projected.view(*projected.shape[:-1], -1, attention.head_dim)
        return (getattr(attention, norm)(split) if norm and hasattr(attention, norm) else split).transpose(1, 2)

    query = heads(attention.q_proj(normal[:, start:]), "q_norm")
    key, value = heads(attention.k_proj(normal), "k_norm"), heads(attention.v_proj(normal))
    cos, sin = cos[:, None], sin[:, None]
    mixed = branch_attention(
        turn(query, cos[:, :, start:], sin[:, :, start:]), turn(key, cos, sin), value, tree, attention.scaling
    )
    states = states[:, start:] + attention.o_proj(mixed.transpose(1, 2).flatten(2))
    out: Tensor = states + layer.mlp(layer.post_attention_layernorm(states))
    return out
