"""The fields of a plan, and the values that each may have."""

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
