"""Recorded replies as a provider: a run that was recorded once goes the same way again, and nothing is asked.

A recording is a file of JSON lines, ``{"digest": ..., "reply": ...}``, in the order of the
calls; a request is answered by its digest, the same one several times in their order.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sia_core.errors import UsageError
from sia_core.run.ledger import Ledger, canonical
from sia_core.run.record import RunRecord
from sia_llm.models import Ask, CallFailed, Prices, Provider, Reply


class Recorded:
    """Answers what was recorded; anything else fails and says so. Prices are those of ``of``."""

    def __init__(self, rows: Iterator[Mapping[str, Any]], of: Provider) -> None:
        self.name = f"{of.name}, recorded"
        self._of = of
        self._replies: dict[str, deque[Mapping[str, Any]]] = {}
        for row in rows:
            self._replies.setdefault(row["digest"], deque()).append(row["reply"])

    @classmethod
    def read(cls, path: str, of: Provider) -> Recorded:
        """From a file; UsageError where it is not one of these."""
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
            return cls((json.loads(line) for line in lines), of)
        except OSError as error:
            raise UsageError(f"replay {path}: {error.strerror}") from None
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(f"replay {path}: not a recording: {error}") from None

    def complete(self, request: Ask) -> Reply:
        replies = self._replies.get(request.digest)
        if not replies:
            raise CallFailed("the recording holds no reply to this request", retry=False)
        return Reply.from_json(replies.popleft())

    def prices(self, model: str) -> Prices | None:
        return self._of.prices(model)


def recording(ledger: Ledger) -> str:
    """The calls of a run as such a file: one conversation after the other, also those that went on side by side."""
    rows = RunRecord(ledger).replies()
    return "".join(canonical({"digest": row["digest"], "reply": row["reply"]}) + "\n" for row in rows)
