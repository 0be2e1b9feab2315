"""The fields of ``--json`` as docs/json.md has them."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "json.md"


def documented() -> dict[str, set[str]]:
    """The fields by command, such as ``sia runs``, or by command and list, such as ``sia report: sealed``."""
    fields: dict[str, set[str]] = {}
    for section in re.split(r"^##+ ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        heading, _, text = section.partition("\n")
        first_cells = re.findall(r"^\| (`[^|]+) \|", text, re.MULTILINE)
        for name in heading.replace("`", "").split(", "):
            fields[name] = {field for cell in first_cells for field in re.findall(r"`(\w+)`", cell)}
    return fields
