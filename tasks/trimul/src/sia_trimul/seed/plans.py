"""What a plan says: each of its fields, and what may stand there."""

DTYPES = ["float32", "bfloat16", "float16"]

FIELDS = {
    # The precision of each stage: the first LayerNorm, the projections, the product over k, the
    # second LayerNorm, its gate, and the output projection.
    "first": DTYPES,
    "project": DTYPES,
    "product": DTYPES,
    "second": DTYPES,
    "gate": DTYPES,
    "output": DTYPES,
    # How many matrix products make the five projections.
    "pack": ["one", "pairs", "five"],
    # The product over k: batched over the channels, whose matrices are then stored as such; as an
    # einsum; or as products of elements and their sums, a row at a time.
    "contract": ["bmm", "einsum", "sums"],
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
