"""Making JSON that can be recorded, shown and sent of whatever a server or a program wrote."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

_DEEPEST = 100
"""Levels of what a server sent that are kept: neither the record nor Python's JSON takes any number of them."""


def cleaned(value: Any) -> Any:
    """Turn what a server or a program wrote into JSON that can be recorded, shown and sent.

    Two halves of a surrogate pair are joined; a half alone and NUL become U+FFFD. A number
    that JSON has not, and what is nested too deep, becomes None.
    """
    return _cleaned(value, _DEEPEST)


def _cleaned(value: Any, levels: int) -> Any:
    if isinstance(value, str):
        whole = value if value.isascii() else value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        return whole.replace("\0", "\ufffd")
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, int):
        return value if value.bit_length() < 1000 else None
    if isinstance(value, Mapping | list | tuple) and not levels:
        return None
    if isinstance(value, Mapping):
        return {_cleaned(name, levels): _cleaned(each, levels - 1) for name, each in value.items()}
    if isinstance(value, list):
        return [_cleaned(each, levels - 1) for each in value]
    if isinstance(value, tuple):
        return tuple(_cleaned(each, levels - 1) for each in value)
    return value
