"""The shapes of a run's rows, as :mod:`sia_core.run.record` reads them: types alone, which no run loads."""

from __future__ import annotations

from typing import Any, TypedDict


class RunRow(TypedDict):
    """The beginning of a run: its configuration and the task that it was started with."""

    config: dict[str, Any]
    task: str
    kind: str
    metric: dict[str, Any]
    verifier: str | None
    fingerprint: str
    version: str


class GatedRow(TypedDict):
    """A candidate's verdict, with the figures of the gate, which no improver is shown."""

    generation: int
    candidate: int
    lever: str
    name: str
    algorithm: str | None
    parent: str
    agent: str | None
    harness: str | None
    adapter: str | None
    reason: str
    predicted: float
    outcome: str
    accepted: bool
    verdict: str
    why: str
    gain: float | None
    table: str
    estimate: dict[str, float]
    took: dict[str, float]
    stopped: str
    gate: dict[str, Any] | None
    against: str | None
    against_parent: dict[str, Any] | None
