"""Log-probabilities from hidden states, in chunks over the vocabulary.

The logits of a batch are its largest tensor (a thousand tokens of a vocabulary of
200,000 are 800 MB); here only one chunk of them exists at a time, forward and backward.
Where the vocabulary's weights learn nothing, as under an adapter, the forward also adds up
the gradient by the hidden state, as an online softmax does (arXiv 1805.02867): the backward
then computes no logits again.

Shapes: N tokens, D the width of the hidden state, V the vocabulary, C a chunk of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx


class Allowed:
    """The ids among which each of N tokens was chosen, and what was added to their logits, a chunk of ids at a time."""

    def __init__(
        self, sets: Sequence[Sequence[int] | None], biases: Sequence[Sequence[float] | None], device: torch.device
    ) -> None:
        rows = [row for row, ids in enumerate(sets) if ids is not None]
        choices = [torch.as_tensor(ids, dtype=torch.long) for ids in sets if ids is not None]
        added = [
            torch.zeros(len(ids)) if bias is None else torch.tensor(bias, dtype=torch.double)
            for ids, bias in zip(sets, biases, strict=True)
            if ids is not None
        ]
        self.constrained_N = torch.zeros(len(sets), dtype=torch.bool, device=device)
        self.constrained_N[rows] = True
        self.ids = torch.cat(choices).to(device)
        self.bias = torch.cat(added).to(device)
        self.rows = torch.repeat_interleave(torch.tensor(rows), torch.tensor([len(ids) for ids in choices])).to(device)

    @classmethod
    def of(
        cls, sets: Sequence[Sequence[int] | None], biases: Sequence[Sequence[float] | None], device: torch.device
    ) -> Allowed | None:
        """None where no token was constrained."""
        return cls(sets, biases, device) if any(ids is not None for ids in sets) else None

    def added(self, start: int, stop: int, dtype: torch.dtype) -> Tensor:
        """(N, C): what the logits of ids from ``start`` to ``stop`` get, minus infinity where one was not allowed."""
        added_NC = torch.zeros(len(self.constrained_N), stop - start, dtype=dtype, device=self.ids.device)
        added_NC.masked_fill_(self.constrained_N[:, None], float("-inf"))
        here = (self.ids >= start) & (self.ids < stop)
        added_NC[self.rows[here], self.ids[here] - start] = self.bias[here].to(dtype)
        return added_NC


def token_logprobs(
    hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, temperature: float, allowed: Allowed | None, chunk: int
) -> Tensor:
    """log p(target) of each token, (N,) float32 or better: log softmax(h W^T / temperature + bias) over allowed ids."""
    apply: Any = _TokenLogprobs.apply
    result: Tensor = apply(hidden_ND, weight_VD, targets_N, temperature, allowed, chunk)
    return result


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        targets_N: Tensor,
        temperature: float,
        allowed: Allowed | None,
        chunk: int,
    ) -> Tensor:
        state: Any = ctx
        by_hidden, by_weight, *_ = state.needs_input_grad
        at_least = torch.promote_types(hidden_ND.dtype, torch.float32)
        total_N = torch.full(targets_N.shape, float("-inf"), dtype=at_least, device=hidden_ND.device)
        chosen_N = torch.empty_like(total_N)
        mean_ND = torch.zeros_like(hidden_ND, dtype=at_least) if by_hidden and not by_weight else None
        for start, stop, logits_NC in _logits(hidden_ND, weight_VD, temperature, allowed, chunk):
            here_N = (targets_N >= start) & (targets_N < stop)
            chosen_N[here_N] = logits_NC[here_N, targets_N[here_N] - start]
            part_N, before_N = logits_NC.logsumexp(-1), total_N
            total_N = torch.logaddexp(before_N, part_N)
            if mean_ND is not None:
                part_ND = _softmax(logits_NC, part_N).to(hidden_ND.dtype) @ weight_VD[start:stop]
                mean_ND.mul_(_softmax(before_N[:, None], total_N))
                mean_ND.addcmul_(part_ND.to(at_least), _softmax(part_N[:, None], total_N))
        if mean_ND is None:
            state.settings = (temperature, allowed, chunk)
            state.save_for_backward(hidden_ND, weight_VD, targets_N, total_N)
        else:
            # d logp / d hidden is the target's row of W less the mean row under the softmax.
            state.settings = None
            state.save_for_backward((weight_VD[targets_N] - mean_ND).div_(temperature).to(hidden_ND.dtype))
        return chosen_N - total_N

    @staticmethod
    def backward(ctx: FunctionCtx, *outer: Tensor) -> tuple[Tensor | None, ...]:
        state: Any = ctx
        if state.settings is None:
            (slope_ND,) = state.saved_tensors
            return outer[0].to(slope_ND.dtype)[:, None] * slope_ND, None, None, None, None, None
        hidden_ND, weight_VD, targets_N, total_N = state.saved_tensors
        temperature, allowed, chunk = state.settings
        grad_N = outer[0] / temperature  # of the logits before they are divided by it
        grad_ND = torch.zeros_like(hidden_ND)
        grad_VD = torch.zeros_like(weight_VD) if state.needs_input_grad[1] else None
        for start, stop, logits_NC in _logits(hidden_ND, weight_VD, temperature, allowed, chunk):
            # d logp / d logits is onehot(target) - softmax.
            delta_NC = _softmax(logits_NC, total_N).mul_(-grad_N[:, None])
            here_N = ((targets_N >= start) & (targets_N < stop)).nonzero().squeeze(-1)
            delta_NC[here_N, targets_N[here_N] - start] += grad_N[here_N]
            delta_NC = delta_NC.to(hidden_ND.dtype)
            grad_ND += delta_NC @ weight_VD[start:stop]
            if grad_VD is not None:
                grad_VD[start:stop] = delta_NC.T @ hidden_ND
        return grad_ND, grad_VD, None, None, None, None


def _softmax(logits_NC: Tensor, total_N: Tensor) -> Tensor:
    """exp(logits - total), in place; 0 where both are minus infinity."""
    return logits_NC.sub_(total_N.clamp(min=torch.finfo(total_N.dtype).min)[:, None]).exp_()


def _logits(
    hidden_ND: Tensor, weight_VD: Tensor, temperature: float, allowed: Allowed | None, chunk: int
) -> Iterator[tuple[int, int, Tensor]]:
    """The logits of a chunk of the vocabulary after the other: its bounds, and (N, C)."""
    for start in range(0, len(weight_VD), chunk):
        stop = min(start + chunk, len(weight_VD))
        logits_NC = hidden_ND @ weight_VD[start:stop].T
        logits_NC = logits_NC.to(torch.promote_types(logits_NC.dtype, torch.float32)).div_(temperature)
        if allowed is not None:
            logits_NC = logits_NC + allowed.added(start, stop, logits_NC.dtype)
        yield start, stop, logits_NC
