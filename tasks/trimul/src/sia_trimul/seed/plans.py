"""What a plan says: each of its fields, and what may stand there."""

DTYPES = ["float32", "bfloat16"]

FIELDS = {
    # The precision of the projections, of the product over k, and of the output projection.
    "project": DTYPES,
    "product": DTYPES,
    "output": DTYPES,
    # How many matrix products make the five projections.
    "pack": ["one", "pairs", "five"],
    # The product over k: batched over the channels, whose matrices are then stored as such, or as an einsum.
    "contract": ["bmm", "einsum"],
    # Rows of x that are taken through projections and gates at once, and through the output.
    "rows": ["8", "16", "32", "64", "all"],
    # The scale and shift of the first LayerNorm: by themselves, or within the projections' weights.
    "norm": ["affine", "folded"],
    # Whether gates are multiplied into what is there, or into a new tensor.
    "gates": ["inplace", "new"],
}

PINNED = {}
"""Fields that the policy is not asked for."""


def schema():
    """What the policy's reply has to look like."""
    free = {name: {"enum": values} for name, values in FIELDS.items() if name not in PINNED}
    return {"type": "object", "properties": free, "required": list(free), "additionalProperties": False}


def random_plan(rng):
    return {name: rng.choice(values) for name, values in FIELDS.items()} | PINNED


def mutated(plan, rng, changes=1):
    """The plan with a few fields changed to something else."""
    changed = dict(plan)
    for name in rng.sample([name for name in FIELDS if name not in PINNED], changes):
        changed[name] = rng.choice([value for value in FIELDS[name] if value != plan[name]])
    return changed
