"""A plan as code: the module that an answer consists of."""

BUFFERS = "new"  # or "kept": large buffers are allocated once and used again, call by call
PROJECTED = "rows"  # or "columns": for a batched product, left and right come out of the projection by channel
GATES_IN = "two"  # or "one": where one product makes values and gates, they are multiplied in one pass
ROUNDED = False  # or True: the library takes matrix products of float32 numbers by rounding them to bfloat16
OUTPUT_PARTS = 1  # or 2: a bfloat16 output projection takes its operands as a sum of two bfloat16 numbers

STAGES = ("first", "project", "product", "second", "gate", "output")

MODULE = '''"""A kernel for the triangle multiplicative update, rendered from a plan:
{plan}
"""

import torch
from torch.nn import functional

FIRST, PROJECT, PRODUCT = torch.{first}, torch.{project}, torch.{product}
SECOND, GATE, OUTPUT = torch.{second}, torch.{gate}, torch.{output}
ROWS = {rows}
NAMES = ("left_proj", "right_proj", "left_gate", "right_gate", "out_gate")
{buffers}

def kernel(x, mask, weights, config):
    b, n, _, c = x.shape
    h, eps = config["hidden_dim"], config["eps"]
    w = torch.cat([weights[name + ".weight"] for name in NAMES])
{weights}
{output_weights}
    rows = min(ROWS or n, n)
    y = torch.empty(b, n, n, c, device=x.device)
    for batch in range(b):
        lr = {store}
        gate = buffer("gate", (n, n, h), GATE, x.device)
        for i in range(0, n, rows):
            part = x[batch, i : i + rows].reshape(-1, c)
{norm}
{project_code}
            m = mask[batch, i : i + rows].reshape({mask}).to(PROJECT)
{gates}
            gate[i : i + rows] = g.view(-1, n, h)
{keep}
{contract}
        for i in range(0, n, rows):
{take}
            t = functional.layer_norm(t, (h,), weights["to_out_norm.weight"], weights["to_out_norm.bias"], eps)
            t = {times}
            y[batch, i : i + rows] = {output_code}.view(-1, n, c)
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
    "affine": "            scale, shift = weights['norm.weight'], weights['norm.bias']\n"
    "            part = functional.layer_norm(part.to(FIRST), (c,), scale, shift, eps)",
    "folded": "            part = functional.layer_norm(part.to(FIRST), (c,), None, None, eps)",
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
BY_COLUMNS = {
    "one": "            part = part.to(PROJECT)\n"
    "            p = torch.mm(w[: 4 * h], part.t())\n"
    "            v, s, g = p[: 2 * h], p[2 * h :], functional.linear(part, w[4 * h :])",
    "pairs": "            part = part.to(PROJECT)\n"
    "            v, s = torch.mm(w[: 2 * h], part.t()), torch.mm(w[2 * h : 4 * h], part.t())\n"
    "            g = functional.linear(part, w[4 * h :])",
    "five": "            part = part.to(PROJECT)\n"
    "            four = [torch.mm(w[k * h : (k + 1) * h], part.t()) for k in range(4)]\n"
    "            v, s, g = torch.cat(four[:2]), torch.cat(four[2:]), functional.linear(part, w[4 * h :])",
}
BIAS_BY_COLUMNS = "\n            v, s, g = v + bias[: 2 * h, None], s + bias[2 * h : 4 * h, None], g + bias[4 * h :]"
GATES = {
    "inplace": "            v.mul_(s.sigmoid_()).mul_(m)\n            g.sigmoid_()",
    "new": "            v = v * s.sigmoid() * m\n            g = g.sigmoid()",
}
FUSED = "            v = functional.glu({both}).mul_(m)\n            g.sigmoid_()"
ROUNDED_CODE = """

_kernel = kernel


def kernel(x, mask, weights, config):
    matmul = torch.backends.mkldnn.matmul
    before, matmul.fp32_precision = matmul.fp32_precision, "bf16"
    try:
        return _kernel(x, mask, weights, config)
    finally:
        matmul.fp32_precision = before
"""
# Left and right lie by channel for a batched product, and by row for the others.
LAYOUT = {"bmm": "channels", "einsum": "rows", "sums": "rows"}
STORE = {
    "channels": 'buffer("lr", (2 * h, n, n), PRODUCT, x.device)',
    "rows": 'buffer("lr", (n, n, 2 * h), PRODUCT, x.device)',
}
KEEP = {
    "channels": "            lr[:, i : i + rows] = v.t().view(2 * h, -1, n)",
    "rows": "            lr[i : i + rows] = v.reshape(-1, n, 2 * h)",
}
CONTRACT = {
    "bmm": "        o = torch.bmm(lr[:h], lr[h:].transpose(1, 2))",
    "einsum": '        o = torch.einsum("ikd,jkd->ijd", lr[..., :h], lr[..., h:])',
    "sums": "        o = torch.stack([(lr[i, :, :h] * lr[..., h:]).sum(1) for i in range(n)])",
}
TAKE = {
    "channels": "            t = o[:, i : i + rows].reshape(h, -1).t().to(SECOND)",
    "rows": "            t = o[i : i + rows].reshape(-1, h).to(SECOND)",
}
KEEP_COLUMNS = "            lr[:, i : i + rows] = v.view(2 * h, -1, n)"
TIMES = {
    "inplace": "t.to(GATE).mul_(gate[i : i + rows].view(-1, h))",
    "new": "t.to(GATE) * gate[i : i + rows].view(-1, h)",
}


ONE_PART = ('    wo = weights["to_out.weight"].to(OUTPUT)', "functional.linear(t.to(OUTPUT), wo)")
TWO_PARTS = (
    '    wo = weights["to_out.weight"]\n    high = wo.to(OUTPUT)\n    low = (wo - high.float()).to(OUTPUT)',
    "product(t, high, low)",
)
TWO_PARTS_CODE = '''

def product(t, high, low):
    """t W^T, both about as exact as in float32: what rounding leaves of each is another bfloat16 number."""
    first = t.to(OUTPUT)
    rest = (t.float() - first.float()).to(OUTPUT)
    y = functional.linear(first, high).float()
    return y.add_(functional.linear(rest, high)).add_(functional.linear(first, low))

'''


def render(plan):
    """The code of a plan."""
    layout = LAYOUT[plan["contract"]]
    columns = PROJECTED == "columns" and layout == "channels"
    folded = plan["norm"] == "folded"
    gates = GATES[plan["gates"]]
    if GATES_IN == "one" and plan["pack"] == "one" and not (columns and folded):
        gates = FUSED.format(both="p, 0" if columns else "p[:, : 4 * h], 1")
    parts = OUTPUT_PARTS == 2 and plan["output"] == "bfloat16"
    project = PROJECT[plan["pack"]]
    if columns:
        project = BY_COLUMNS[plan["pack"]] + (BIAS_BY_COLUMNS if folded else "")
    output_weights, output_code = TWO_PARTS if parts else ONE_PART
    weights = "    w = w.to(PROJECT)" if columns and not folded else WEIGHTS[plan["norm"]]
    code = MODULE.format(
        plan="\n".join(f"    {name} = {value}" for name, value in sorted(plan.items())),
        **{stage: plan[stage] for stage in STAGES},
        rows=None if plan["rows"] == "all" else plan["rows"],
        buffers=(KEPT if BUFFERS == "kept" else NEW) + (TWO_PARTS_CODE if parts else ""),
        weights=weights,
        output_weights=output_weights,
        store=STORE[layout],
        norm=NORM[plan["norm"]],
        project_code=project,
        mask="1, -1" if columns else "-1, 1",
        gates=gates,
        keep=KEEP_COLUMNS if columns else KEEP[layout],
        contract=CONTRACT[plan["contract"]],
        take=TAKE[layout],
        times=TIMES[plan["gates"]],
        output_code=output_code,
    )
    return code + ROUNDED_CODE if ROUNDED else code
