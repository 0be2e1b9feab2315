"""The attacks: what their files say of themselves, read without running any of them."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HOSTILE = Path(__file__).parent / "hostile"

_SETTINGS: dict[str, Any] = {
    "AGAINST": (),
    "SECONDS": 30.0,
    "INSTANCES": 2,
    "HONEST": False,
    "STATELESS": False,
    "POLICY": False,
    "SUPERVISOR_DIES": False,
    "FILES": {},
}
"""Names that an attack may set at the top of its file, with their defaults."""


@dataclass(frozen=True)
class Attack:
    """One hostile harness. ``what`` says what it tries.

    ``against`` are the guarantees of a sandbox that it goes against; where it goes against
    none, the way that answers and scores take has to stop it. ``seconds`` is the time for one
    of its ``instances``. An ``honest`` one also answers as an honest harness does. Its
    sandbox's supervisor ``supervisor_dies`` if so, by the host's hand. ``files`` lie beside it.
    """

    name: str
    what: str
    source: bytes
    against: tuple[str, ...]
    seconds: float
    instances: int
    honest: bool
    stateless: bool
    policy: bool
    supervisor_dies: bool
    files: dict[str, str]


def attacks() -> list[Attack]:
    """All of them, by name."""
    return [read(path) for path in sorted(HOSTILE.glob("*.py"))]


def read(path: Path) -> Attack:
    """An attack from its file: the docstring's first line and the settings, which are literals."""
    source = path.read_bytes()
    tree = ast.parse(source)
    settings = dict(_SETTINGS)
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id in settings:
            settings[node.targets[0].id] = ast.literal_eval(node.value)
    what = (ast.get_docstring(tree) or "").partition("\n")[0]
    return Attack(path.stem, what, source, **{name.lower(): value for name, value in settings.items()})


def may_pass(lacks: Iterable[str]) -> list[str]:
    """The names of the attacks that a sandbox without these guarantees may not stop."""
    lacking = set(lacks)
    return [each.name for each in attacks() if lacking.intersection(each.against)] if lacking else []
