"""The findings of an audit, and their verdicts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Verdict = Literal["ok", "look", "bad"]

_ORDER: tuple[Verdict, ...] = ("ok", "look", "bad")


@dataclass(frozen=True)
class Finding:
    """A verdict and its sentence. Before a run, ``ok`` needs nothing, ``look`` a look and ``bad`` a repair."""

    check: str
    about: str
    verdict: Verdict
    says: str


@dataclass(frozen=True)
class Audit:
    """All findings, and the figures behind them, by check."""

    task: str
    findings: Sequence[Finding]
    figures: Mapping[str, Any] = field(default_factory=dict)

    @property
    def verdict(self) -> Verdict:
        return worst(each.verdict for each in self.findings)

    def to_json(self) -> dict[str, Any]:
        findings = [asdict(each) for each in self.findings]
        return {"task": self.task, "verdict": self.verdict, "findings": findings, **self.figures}


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The worst of them; ``ok`` where there is none."""
    return max(verdicts, key=_ORDER.index, default="ok")
