"""What the best answer is handed over as: a module that is also a command, and how to use it."""

from __future__ import annotations

from collections.abc import Mapping

README = """\
# A denoiser for single-cell counts

    pip install numpy scipy scikit-learn
    python {module}.py counts.npz out.npz

`counts.npz` is what `scipy.sparse.save_npz` writes, or holds one dense array: cells x genes, raw
counts. `out.npz` gets one array, `denoised`, of the same shape. From Python:

    from {module} import denoise

    expected = denoise(counts)  # numpy array or scipy sparse matrix, cells x genes

The result is float32 and not negative; a cell keeps its depth.
"""

COMMAND = """

def _command():
    import sys

    import numpy
    import scipy.sparse

    if len(sys.argv) != 3:
        sys.exit("usage: python {module}.py counts.npz out.npz")
    with numpy.load(sys.argv[1], allow_pickle=False) as held:
        if "indptr" in held.files:
            parts = held["data"], held["indices"], held["indptr"]
            counts = scipy.sparse.csr_array(parts, shape=tuple(held["shape"])).toarray()
        else:
            counts = held[held.files[0]]
    numpy.savez_compressed(sys.argv[2], denoised=denoise(counts))


if __name__ == "__main__":
    _command()
"""


def files_of(code: str, module: str) -> Mapping[str, bytes]:
    """The files by name. The code is the answer's own; what makes it a command is added where it has none."""
    command = "" if "__main__" in code else COMMAND.format(module=module)
    return {
        f"{module}.py": (code.rstrip("\n") + "\n" + command).encode(),
        "HOW-TO-USE.md": README.format(module=module).encode(),
    }
