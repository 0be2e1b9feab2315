"""A plan as code: the module that an answer consists of."""

BUFFERS = "new"  # or "kept": large buffers are allocated once and used again, call by call

MODULE = '''"""A kernel for the triangle multiplicative update, rendered from a plan:
{plan}
"""

import torch
from torch.nn import functional

PROJECT, PRODUCT, OUTPUT = torch.{project}, torch.{product}, torch.{output}
ROWS = {rows}
NAMES = ("left_proj", "right_proj", "left_gate", "right_gate", "out_gate")
{buffers}

def kernel(x, mask, weights, config):
    b, n, _, c = x.shape
    h, eps = config["hidden_dim"], config["eps"]
    w = torch.cat([weights[name + ".weight"] for name in NAMES])
{weights}
    wo = weights["to_out.weight"].to(OUTPUT)
    rows = min(ROWS or n, n)
    y = torch.empty(b, n, n, c, device=x.device)
    for batch in range(b):
        lr = {store}
        gate = buffer("gate", (n, n, h), OUTPUT, x.device)
        for i in range(0, n, rows):
            part = x[batch, i : i + rows].reshape(-1, c)
{norm}
{project_code}
            m = mask[batch, i : i + rows].reshape(-1, 1).to(PROJECT)
{gates}
            gate[i : i + rows] = g.view(-1, n, h)
{keep}
{contract}
        for i in range(0, n, rows):
{take}
            t = functional.layer_norm(t, (h,), weights["to_out_norm.weight"], weights["to_out_norm.bias"], eps)
            t = {times}
            y[batch, i : i + rows] = functional.linear(t, wo).view(-1, n, c)
    return y
'''

NEW = """

def buffer(name, shape, dtype, device):
    return torch.empty(shape, dtype=dtype, device=device)

"""
KEPT = '''_kept = {}


def buffer(name, shape, dtype, device):
    """Memory that the last call used for the same; every element is written before it is read."""
    if (key := (name, shape, dtype)) not in _kept:
        _kept[key] = torch.empty(shape, dtype=dtype, device=device)
    return _kept[key]

'''

WEIGHTS = {
    "affine": "    w, bias = w.to(PROJECT), None",
    "folded": ('    bias = (w @ weights["norm.bias"]).to(PROJECT)\n    w = (w * weights["norm.weight"]).to(PROJECT)'),
}
NORM = {
    "affine": '            part = functional.layer_norm(part, (c,), weights["norm.weight"], weights["norm.bias"], eps)',
    "folded": "            part = functional.layer_norm(part, (c,), None, None, eps)",
}
PROJECT = {
    "one": "            p = functional.linear(part.to(PROJECT), w, bias)\n"
    "            v, s, g = p[:, : 2 * h], p[:, 2 * h : 4 * h], p[:, 4 * h :]",
    "pairs": "            part = part.to(PROJECT)\n"
    "            v = functional.linear(part, w[: 2 * h], bias if bias is None else bias[: 2 * h])\n"
    "            s = functional.linear(part, w[2 * h : 4 * h], bias if bias is None else bias[2 * h : 4 * h])\n"
    "            g = functional.linear(part, w[4 * h :], bias if bias is None else bias[4 * h :])",
    "five": "            part, five = part.to(PROJECT), []\n"
    "            for k in range(5):\n"
    "                at = slice(k * h, (k + 1) * h)\n"
    "                five.append(functional.linear(part, w[at], bias if bias is None else bias[at]))\n"
    "            v, s, g = torch.cat(five[:2], 1), torch.cat(five[2:4], 1), five[4]",
}
GATES = {
    "inplace": "            v.mul_(s.sigmoid_()).mul_(m)\n            g.sigmoid_()",
    "new": "            v = v * s.sigmoid() * m\n            g = g.sigmoid()",
}
STORE = {
    "bmm": 'buffer("lr", (2 * h, n, n), PRODUCT, x.device)',
    "einsum": 'buffer("lr", (n, n, 2 * h), PRODUCT, x.device)',
}
KEEP = {
    "bmm": "            lr[:, i : i + rows] = v.t().view(2 * h, -1, n)",
    "einsum": "            lr[i : i + rows] = v.reshape(-1, n, 2 * h)",
}
CONTRACT = {
    "bmm": "        o = torch.bmm(lr[:h], lr[h:].transpose(1, 2))",
    "einsum": '        o = torch.einsum("ikd,jkd->ijd", lr[..., :h], lr[..., h:])',
}
TAKE = {
    "bmm": "            t = o[:, i : i + rows].reshape(h, -1).t().float()",
    "einsum": "            t = o[i : i + rows].reshape(-1, h).float()",
}
TIMES = {
    "inplace": "t.to(OUTPUT).mul_(gate[i : i + rows].view(-1, h))",
    "new": "t.to(OUTPUT) * gate[i : i + rows].view(-1, h)",
}


def render(plan):
    """The code of a plan."""
    return MODULE.format(
        plan="\n".join(f"    {name} = {value}" for name, value in sorted(plan.items())),
        project=plan["project"],
        product=plan["product"],
        output=plan["output"],
        rows=None if plan["rows"] == "all" else plan["rows"],
        buffers=KEPT if BUFFERS == "kept" else NEW,
        weights=WEIGHTS[plan["norm"]],
        store=STORE[plan["contract"]],
        norm=NORM[plan["norm"]],
        project_code=PROJECT[plan["pack"]],
        gates=GATES[plan["gates"]],
        keep=KEEP[plan["contract"]],
        contract=CONTRACT[plan["contract"]],
        take=TAKE[plan["contract"]],
        times=TIMES[plan["gates"]],
    )
