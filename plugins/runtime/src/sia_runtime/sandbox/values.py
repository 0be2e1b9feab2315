"""JSON values with arrays in them, as a tree of JSON and the arrays' bytes. Nothing is pickled.

An array stands in the tree as ``{"array": NUMBER}`` and an object as ``{"object":
{...}}``, so that neither is taken for the other. Bytes lie one array after the other,
each at a multiple of :data:`ALIGNMENT`. Used inside of sandboxes too: nothing but the
standard library is imported before it is needed.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

from sia_runtime.sandbox.frames import ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

ALIGNMENT = 64
_KINDS = frozenset(["|b1", "|i1", "|u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f2", "<f4", "<f8"])
_MOST_DIMENSIONS = 16
_MOST_ARRAYS = 1024
_MOST_ELEMENTS = 2**48


def pack(value: Any, arrays: list[Any]) -> Any:
    """The tree of a value; its arrays are appended to ``arrays``, each contiguous.

    TypeError for what is neither JSON nor an array of numbers.
    """
    if isinstance(value, float) and not math.isfinite(value):
        raise TypeError(f"{value}, which is not JSON: where numbers may be missing, use an array")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [pack(each, arrays) for each in value]
    if isinstance(value, dict):
        if not all(isinstance(name, str) for name in value):
            raise TypeError("a dict whose names are not text")
        return {"object": {name: pack(each, arrays) for name, each in value.items()}}
    import numpy as np

    # Shapes are kept, which ascontiguousarray does not do for an array without dimensions.
    array = np.asarray(value)
    if array.dtype.newbyteorder("<").str not in _KINDS or array.ndim > _MOST_DIMENSIONS:
        raise TypeError(f"a {type(value).__name__} of {array.dtype}, which is neither JSON nor an array of numbers")
    arrays.append(np.asarray(array, array.dtype.newbyteorder("<"), order="C"))
    return {"array": len(arrays) - 1}


def unpack(tree: Any, arrays: Sequence[Any]) -> Any:
    """The value of a tree. ProtocolError where it is none."""
    if isinstance(tree, list):
        return [unpack(each, arrays) for each in tree]
    if not isinstance(tree, dict):
        return tree
    if len(tree) == 1:
        number, content = tree.get("array"), tree.get("object")
        if isinstance(number, int) and not isinstance(number, bool) and 0 <= number < len(arrays):
            return arrays[number]
        if isinstance(content, dict):
            return {name: unpack(each, arrays) for name, each in content.items()}
    raise ProtocolError("a value of no known form")


def forms_of(arrays: Sequence[Any]) -> list[list[Any]]:
    return [[array.dtype.str, list(array.shape)] for array in arrays]


def places(forms: object, most: int) -> tuple[list[tuple[int, int]], int]:
    """Where each array's bytes lie, as start and length, and how many there are in all.

    ProtocolError unless the forms are such, and hold at most ``most`` bytes.
    """
    if not isinstance(forms, list) or len(forms) > _MOST_ARRAYS:
        raise ProtocolError("arrays without a list of their forms")
    spans, end = [], 0
    for form in forms:
        if not isinstance(form, list) or len(form) != 2 or str(form[0]) not in _KINDS or not _is_shape(form[1]):
            raise ProtocolError("an array of no known form")
        size = int(str(form[0])[2:]) * math.prod(form[1])
        start = -(-end // ALIGNMENT) * ALIGNMENT
        end = start + size
        if end > most:
            raise ProtocolError(f"arrays of more than {most} bytes")
        spans.append((start, size))
    return spans, end


def view(form: list[Any], data: Any) -> Any:
    """An array over its bytes. Where they are not the writer's word alone, a boolean is 0 or 1 nonetheless."""
    import numpy as np

    kind, shape = form
    if kind == "|b1":
        return np.ndarray(shape, np.uint8, data) != 0
    return np.ndarray(shape, kind, data)


def write(memory: int, array: Any, start: int) -> None:
    """Put an array's bytes at a place of a file."""
    data = memoryview(array.reshape(-1)).cast("B") if array.size else memoryview(b"")
    while data:
        written = os.pwrite(memory, data, start)
        start, data = start + written, data[written:]


def read(memory: int, start: int, length: int) -> memoryview:
    """A copy of bytes of a file. ProtocolError where it has fewer."""
    import numpy as np

    copied = remaining = np.empty(length, np.uint8).data
    while remaining:
        count = os.preadv(memory, [remaining], start)
        if not count:
            raise ProtocolError("arrays that end before they should")
        start, remaining = start + count, remaining[count:]
    return copied


def _is_shape(shape: object) -> bool:
    if not isinstance(shape, list) or len(shape) > _MOST_DIMENSIONS:
        return False
    if not all(isinstance(size, int) and not isinstance(size, bool) and size >= 0 for size in shape):
        return False
    elements: int = math.prod(max(1, size) for size in shape)
    return elements < _MOST_ELEMENTS
