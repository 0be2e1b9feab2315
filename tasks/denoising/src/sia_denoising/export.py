"""The export of the best answer: a module that is also a command, the reader of its input, and how to use it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

READER = Path(__file__).parent / "reader.py"

README = """\
# A denoiser for single-cell counts

    pip install numpy scipy scikit-learn
    python {module}.py COUNTS OUT.npz

`COUNTS` holds raw counts: a `.npz` as `scipy.sparse.save_npz` writes it or with one dense array (cells x
genes), an `.h5ad` (`pip install h5py`; its layer `counts`, else `X`), or what 10x writes: an `.h5`, a `.mtx`
with its list of genes or barcodes beside it, or the folder of these. What is no matrix of counts is refused
with the reason, and the exit code is 2. `OUT.npz` gets one array, `denoised`, with a row for each cell and a column
for each gene of the file. From Python:

    from pathlib import Path

    from {module} import denoise
    from read_counts import read

    expected = denoise(read(Path("counts.h5ad")))  # or a numpy array or scipy sparse matrix, cells x genes

The result is float32 and not negative; a cell keeps its depth.
"""

COMMAND = """

def _command():
    import argparse
    from pathlib import Path

    import numpy

    from read_counts import NotCounts, read

    parser = argparse.ArgumentParser(description="Denoise single-cell counts.")
    parser.add_argument("counts", type=Path, help="raw counts: .npz, .h5ad, .h5, .mtx, or a folder of 10x")
    parser.add_argument("out", type=Path, help=".npz to write, with the array denoised: cells x genes")
    options = parser.parse_args()
    if options.out.suffix != ".npz":  # numpy would write to another name
        parser.error(f"{options.out} is no name for an .npz file; write to {options.out.stem}.npz")
    try:
        numpy.savez_compressed(options.out, denoised=denoise(read(options.counts).toarray()))
    except (NotCounts, OSError) as error:
        parser.error(str(error))
    except MemoryError:
        parser.error(f"{options.counts} does not fit into memory; take fewer cells of it")


if __name__ == "__main__":
    _command()
"""


def files_of(code: str, module: str) -> Mapping[str, bytes]:
    """The files by name. The code is the answer's; the lines that make it a command are added where it has none."""
    command = "" if "__main__" in code else COMMAND
    return {
        f"{module}.py": (code.rstrip("\n") + "\n" + command).encode(),
        "read_counts.py": READER.read_bytes(),
        "HOW-TO-USE.md": README.format(module=module).encode(),
    }
