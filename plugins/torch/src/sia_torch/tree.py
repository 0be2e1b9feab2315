"""Micro-batches in which a prompt is computed once for all of its continuations.

A packed row is one prefix of L tokens followed by G branches of T tokens each; every
branch sees the prefix and itself. Where all prompts begin alike, as with worked examples or
a system's text, that root of O tokens is computed once for all rows, which see it too.

A branch starts with the token before its first sampled one and ends before its last sampled
one: the hidden states that training reads are all in branches. Continuations that agree so
far share a branch, so a group that chose among a few answers costs as many branches as the
answers have beginnings.

Shapes: B rows, S = L + G * T positions, N sampled tokens of the whole micro-batch. With a root
the rows lie one behind the other: (1, O + B * S) in place of (B, S).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
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
ROOT_BUCKET, LEAST_ROOT = 8, 32
"""A root is a multiple of the one, and of fewer tokens than the other it is not worth its own products."""


@dataclass(frozen=True)
class Shape:
    """How a packed row is divided: ``prefix`` L, ``branches`` G, ``width`` T; before all rows stands the ``root`` O."""

    prefix: int
    branches: int
    width: int
    root: int = 0

    @property
    def tokens(self) -> int:
        """Positions S of a row, without the root."""
        return self.prefix + self.branches * self.width

    @property
    def before(self) -> int:
        """Positions that a branch sees before itself."""
        return self.root + self.prefix


@dataclass(frozen=True)
class Tree:
    """The shape of a row for attention, and how many tokens (B,) of each row's prefix are real."""

    shape: Shape
    lengths_B: Tensor

    def rows(self, states: Tensor) -> Tensor:
        """(B, S, ...) out of (1, O + B * S, ...)."""
        if not self.shape.root:
            return states
        return states[0, self.shape.root :].reshape(len(self.lengths_B), -1, *states.shape[2:])

    def rows_of_heads(self, states: Tensor) -> Tensor:
        """(B, H, S, D) out of (1, H, O + B * S, D)."""
        return self.rows(states.transpose(1, 2)).transpose(1, 2)

    def seen(self, states: Tensor) -> Tensor:
        """Keys or values (B, K, O + S, D) that rows may see, out of (1, K, O + B * S, D)."""
        if not self.shape.root:
            return states
        root = states[:, :, : self.shape.root].expand(len(self.lengths_B), -1, -1, -1)
        return torch.cat([root, self.rows_of_heads(states)], dim=2)


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
    groups: dict[object, list[int]] = {}
    for index, datum in enumerate(data):
        groups.setdefault(("alone", index) if datum.pair is None else datum.pair, []).append(index)
    return list(groups.values())


def plan(traces: Sequence[Trace], together: Sequence[Sequence[int]], budget: int) -> list[list[list[int]]]:
    """Split into micro-batches of at most ``budget`` positions: each a list of rows, a row the traces of one prefix.

    A unit of ``together`` is never split, even where it alone is past the budget.
    """
    parts = [_parts(trace) for trace in traces]
    places = {prefix: number for number, (prefix, _) in reversed(list(enumerate(parts)))}

    def order(unit: Sequence[int]) -> tuple[int, int, int]:
        prefix = parts[unit[0]][0]
        return bucket(len(prefix), PREFIX_BUCKET), places[prefix], unit[0]

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
    leaves: list[tuple[int, ...]] = []
    place: dict[tuple[int, ...], int] = {}
    for branch in sorted(set(branches), key=lambda each: (-len(each), each)):
        if branch not in place:
            leaves.append(branch)
            for stop in range(1, len(branch) + 1):
                place.setdefault(branch[:stop], len(leaves) - 1)
    return leaves, [place[branch] for branch in branches]


def pack(
    rows: Sequence[Sequence[Trace]],
    context: int,
    features: Callable[[Tensor, Tensor], Tensor],
    device: torch.device,
    *,
    rooted: bool,
) -> Packed:
    """Lay out rows of traces that share a prefix; the result's ``row_N`` numbers the traces in their order here.

    ``features`` turns (..., context + T) tokens and (..., T) positions into what the embedding takes.
    ``rooted`` says whether rows may have a root in common.
    """
    parts = [[_parts(trace) for trace in row] for row in rows]
    merged = [_merged([branch for _, branch in row]) for row in parts]
    root = _root([row[0][0] for row in parts]) if rooted else 0
    shape = Shape(
        root=root,
        prefix=bucket(max(len(row[0][0]) for row in parts) - root, PREFIX_BUCKET),
        branches=max(len(leaves) for leaves, _ in merged),
        width=bucket(max(len(branch) for leaves, _ in merged for branch in leaves), BRANCH_BUCKET),
    )
    prefix_tokens, branch_tokens, lengths = [], [], []
    reads, targets, owner, column = [], [], [], []
    allowed: list[Sequence[int] | None] = []
    bias: list[Sequence[float] | None] = []
    number = 0
    for b, (row, (leaves, places)) in enumerate(zip(rows, merged, strict=True)):
        prefix = parts[b][0][0]
        start = len(prefix)
        lengths.append(start - root)
        prefix_tokens.append(_window(prefix, root, shape.prefix, context))
        for trace, g in zip(row, places, strict=True):
            base = (b * shape.branches + g) * shape.width
            sampled = [t for t, entry in enumerate(trace.mask) if entry]
            reads += [base + t - 1 - start for t in sampled]
            targets += [trace.tokens[t] for t in sampled]
            owner += [number] * len(sampled)
            column += sampled
            allowed += [trace.allowed[t] if trace.allowed else None for t in sampled]
            bias += [trace.bias[t] if trace.bias else None for t in sampled]
            number += 1
        branch_tokens += [_window([*prefix, *branch], start, shape.width, context) for branch in leaves]
        branch_tokens += [_window([], 0, shape.width, context)] * (shape.branches - len(leaves))

    def ints(values: Sequence[Any]) -> Tensor:
        return torch.tensor(values, dtype=torch.long, device=device)

    tree = Tree(shape, ints(lengths))
    shared = ints(_window(parts[0][0][0], 0, root, context))
    packed, positions = _laid_out(tree, shared, ints(prefix_tokens), ints(branch_tokens), features)
    return Packed(
        tree=tree,
        features=packed,
        positions_BS=positions,
        read_N=ints(reads),
        targets_N=ints(targets),
        row_N=ints(owner),
        column_N=ints(column),
        allowed=allowed,
        bias=bias,
    )


def _laid_out(
    tree: Tree, root: Tensor, prefixes: Tensor, branches: Tensor, features: Callable[[Tensor, Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Features and positions of a micro-batch: the root's tokens, those of B prefixes, and those of B * G branches."""
    shape, rows, device = tree.shape, len(tree.lengths_B), prefixes.device
    steps = shape.root + tree.lengths_B[:, None, None] + torch.arange(shape.width, device=device)
    after_BGT = steps.expand(-1, shape.branches, -1)
    before_BL = shape.root + torch.arange(shape.prefix, device=device).expand(rows, -1)
    branches = branches.view(rows, shape.branches, -1)
    packed = torch.cat(
        [features(prefixes.view(rows, -1), before_BL), features(branches, after_BGT).flatten(1, 2)], dim=1
    )
    positions = torch.cat([before_BL, after_BGT.flatten(1)], dim=1)
    if not shape.root:
        return packed, positions
    first = torch.arange(shape.root, device=device)
    packed = torch.cat([features(root, first), packed.flatten(0, 1)])[None]
    return packed, torch.cat([first, positions.flatten()])[None]


def _root(prefixes: Sequence[Sequence[int]]) -> int:
    """How many tokens with which several prefixes all begin are to be computed once."""
    if len(prefixes) < 2:
        return 0
    alike = sum(1 for _ in takewhile(lambda tokens: len(set(tokens)) == 1, zip(*prefixes, strict=False)))
    return alike // ROOT_BUCKET * ROOT_BUCKET if alike >= LEAST_ROOT else 0


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
    mask = (
        (own[None] | (up[None] & real_BS[:, None, :])) if shape.prefix else own[None].expand(len(positions_BS), -1, -1)
    )
    if window is not None:
        mask = mask & (positions_BS[:, :, None] - positions_BS[:, None, :] < window)
    # A padded query sees itself: a softmax over nothing would be NaN and spread.
    return (mask | torch.eye(shape.tokens, dtype=torch.bool, device=device))[:, None]


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

    ``query`` is (B, H, S, D), ``key`` and ``value`` (B, K, S, D); the result is (B, S, H, D). With a
    root there is 1 in place of B, and O + B * S in place of S.
    """
    if tree is None:  # someone else's forward, or that of another decoder
        whole: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **rest
        )
        return whole
    shape, own = tree.shape, tree.rows_of_heads(query)
    keys, values = tree.seen(key), tree.seen(value)
    mixed = branch_attention(own[:, :, shape.prefix :], keys, values, tree, scaling)
    if shape.prefix:
        above = _causal(own[:, :, : shape.prefix], keys[:, :, : shape.before], values[:, :, : shape.before], scaling)
        mixed = torch.cat([above, mixed], dim=2)
    if shape.root:
        root = _causal(query[:, :, : shape.root], key[:, :, : shape.root], value[:, :, : shape.root], scaling)
        mixed = torch.cat([root, mixed.transpose(0, 1).flatten(1, 2)[None]], dim=2)
    return mixed.transpose(1, 2).contiguous(), None


def _causal(query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
    """Attention (B, H, T, D) of the last T positions of ``key`` and ``value`` to those up to themselves."""
    key, value = _for_heads(key, query), _for_heads(value, query)
    count, total = query.shape[2], key.shape[2]
    if count == total:
        return functional.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling)
    mask = torch.ones(count, total, dtype=torch.bool, device=query.device).tril(total - count)
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling)


def branch_attention(query: Tensor, key: Tensor, value: Tensor, tree: Tree, scaling: float) -> Tensor:
    """Attention of branches (B, H, G * T, D) to ``key`` and ``value`` (B, K, O + S, D)."""
    shape, start = tree.shape, tree.shape.before
    key, value = _for_heads(key, query), _for_heads(value, query)
    batch, heads, _, width = query.shape

    def apart(states: Tensor) -> Tensor:
        return states.reshape(batch, heads, shape.branches, shape.width, width)

    query_T = apart(query * scaling)
    key_L, key_T = key[:, :, :start], apart(key[:, :, start:])
    value_L, value_T = value[:, :, :start], apart(value[:, :, start:])
    ahead = torch.ones(shape.width, shape.width, dtype=torch.bool, device=query.device).triu(1)
    own = (query_T @ key_T.transpose(-1, -2)).masked_fill(ahead, float("-inf"))
    if not start:
        return (own.softmax(-1) @ value_T).flatten(2, 3)
    # Added, not filled in: a masked_fill of this size would be read and written once more in each direction.
    padded_BL = torch.arange(start, device=query.device) >= shape.root + tree.lengths_B[:, None]
    bias = torch.zeros_like(padded_BL, dtype=query.dtype).masked_fill(padded_BL, float("-inf"))
    up = query_T.flatten(2, 3) @ key_L.transpose(-1, -2) + bias[:, None, None]
    scores = torch.cat([up.view(batch, heads, shape.branches, shape.width, start), own], dim=-1)
    weights = scores.softmax(-1)
    below = (weights[..., :start].flatten(2, 3) @ value_L).view_as(query_T)
    return (below + weights[..., start:] @ value_T).flatten(2, 3)


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

    Of root and prefix only keys and values are computed; ``cos`` and ``sin`` are (B, S, E).
    """
    attention, start = layer.self_attn, tree.shape.prefix
    normal = layer.input_layernorm(states)
    branches, cos_T, sin_T = (tree.rows(each.expand(len(states), -1, -1))[:, start:] for each in (normal, cos, sin))

    def heads(projected: Tensor, norm: str | None = None) -> Tensor:
        split = projected.view(*projected.shape[:-1], -1, attention.head_dim)
        return (getattr(attention, norm)(split) if norm and hasattr(attention, norm) else split).transpose(1, 2)

    query = turn(heads(attention.q_proj(branches), "q_norm"), cos_T[:, None], sin_T[:, None])
    key = turn(heads(attention.k_proj(normal), "k_norm"), cos[:, None], sin[:, None])
    value = heads(attention.v_proj(normal))
    mixed = branch_attention(query, tree.seen(key), tree.seen(value), tree, attention.scaling)
    states = tree.rows(states)[:, start:] + attention.o_proj(mixed.transpose(1, 2).flatten(2))
    out: Tensor = states + layer.mlp(layer.post_attention_layernorm(states))
    return out
