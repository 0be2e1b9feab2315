"""A kernel for the triangle multiplicative update, rendered from a plan:
contract = bmm
gates = inplace
norm = affine
output = float32
pack = one
product = float16
project = float16
rows = all
"""

import torch
from torch.nn import functional

PROJECT, PRODUCT, OUTPUT = torch.float16, torch.float16, torch.float32
ROWS = None
NAMES = ("left_proj", "right_proj", "left_gate", "right_gate", "out_gate")


def buffer(name, shape, dtype, device):
    return torch.empty(shape, dtype=dtype, device=device)


def kernel(x, mask, weights, config):
    b, n, _, c = x.shape
    h, eps = config["hidden_dim"], config["eps"]
    w = torch.cat([weights[name + ".weight"] for name in NAMES])
    w = w.to(PROJECT)
    wo = weights["to_out.weight"].to(OUTPUT)
    rows = min(ROWS or n, n)
    y = torch.empty(b, n, n, c, device=x.device)
    for batch in range(b):
        lr = buffer("lr", (2 * h, n, n), PRODUCT, x.device)
        gate = buffer("gate", (n, n, h), OUTPUT, x.device)
        for i in range(0, n, rows):
            part = x[batch, i : i + rows].reshape(-1, c)
            part = functional.layer_norm(part, (c,), weights["norm.weight"], weights["norm.bias"], eps)
            part = part.to(PROJECT)
            p = torch.mm(w[: 4 * h], part.t())
            v, s, g = p[: 2 * h], p[2 * h :], functional.linear(part, w[4 * h :])
            m = mask[batch, i : i + rows].reshape(1, -1).to(PROJECT)
            v.mul_(s.sigmoid_()).mul_(m)
            g.sigmoid_()
            gate[i : i + rows] = g.view(-1, n, h)
            lr[:, i : i + rows] = v.view(2 * h, -1, n)
        o = torch.bmm(lr[:h], lr[h:].transpose(1, 2))
        for i in range(0, n, rows):
            t = o[:, i : i + rows].reshape(h, -1).t().float()
            t = functional.layer_norm(t, (h,), weights["to_out_norm.weight"], weights["to_out_norm.bias"], eps)
            t = t.to(OUTPUT).mul_(gate[i : i + rows].view(-1, h))
            y[batch, i : i + rows] = functional.linear(t, wo).view(-1, n, c)
    return y
