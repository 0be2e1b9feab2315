"""The function itself, as its definition reads, in the precision of its inputs.

It is the baseline too: five linear maps and one einsum.
"""

import torch
from torch.nn import functional


def kernel(x, mask, weights, config):
    """y (B, N, N, C) of x (B, N, N, C) and mask (B, N, N)."""
    eps, mask = config["eps"], mask[..., None]
    x = functional.layer_norm(x, x.shape[-1:], weights["norm.weight"], weights["norm.bias"], eps)
    left = functional.linear(x, weights["left_proj.weight"]) * mask
    right = functional.linear(x, weights["right_proj.weight"]) * mask
    left = left * functional.linear(x, weights["left_gate.weight"]).sigmoid()
    right = right * functional.linear(x, weights["right_gate.weight"]).sigmoid()
    gate = functional.linear(x, weights["out_gate.weight"]).sigmoid()
    o = torch.einsum("bikd,bjkd->bijd", left, right)
    o = functional.layer_norm(o, o.shape[-1:], weights["to_out_norm.weight"], weights["to_out_norm.bias"], eps)
    return functional.linear(o * gate, weights["to_out.weight"])
