"""The fields of a plan of a kernel on a device, and the values that each may have."""

FIELDS = {
    # What lies between the stages, and is multiplied there.
    "half": ["float16", "bfloat16"],
    # The first stage, LayerNorm: about how many elements a program takes, and its warps.
    "norm_elements": ["1024", "2048", "4096"],
    "norm_warps": ["2", "4", "8"],
    # Left and right: a tile's positions, its channels of H, the channels of x taken at a time, warps and stages.
    "project_rows": ["64", "128", "256"],
    "project_channels": ["32", "64", "128"],
    "project_depth": ["32", "64", "128"],
    "project_warps": ["4", "8"],
    "project_stages": ["2", "3", "4"],
    # The output gate: summed again in the last stage, or stored by a stage of its own.
    "gate": ["again", "stored"],
    # The last stage: LayerNorm over H, gate and output projection.
    "finish_rows": ["32", "64", "128"],
    "finish_channels": ["32", "64", "128"],
    "finish_depth": ["32", "64", "128"],
    "finish_warps": ["4", "8"],
    "finish_stages": ["2", "3", "4"],
}
