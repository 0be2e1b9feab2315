"""The site's changes to pages that are written for the repository: links that lead out of ``docs``."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Any

_LINK = re.compile(r"\[([^\]]+)\]\(([^)#:]+)(#[^)]*)?\)")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links to files that are not part of the site, as their text alone. A test holds them to the tree."""
    depth = len(PurePosixPath(page.file.src_uri).parts) - 1

    def kept(match: re.Match[str]) -> str:
        up = PurePosixPath(match[2]).parts.count("..")
        return match[1] if up > depth else match[0]

    return _LINK.sub(kept, markdown)
