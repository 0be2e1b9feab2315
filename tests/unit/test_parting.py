"""The report warns where the reward rises and a metric beside it gets worse."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from sia_cli.report_text import apart
from sia_core.run.ledger import Ledger
from sia_core.run.record import RunRecord
from sia_core.types import Metric
from sia_reading.parting import parted

STARTED = {"metric": {"name": "score", "beside": {"error": "minimize", "likelihood": "maximize"}}}
FIRST, NEXT = "a" * 12, "b" * 12


def rolled(rewards: Sequence[float], errors: Sequence[float]) -> dict[str, Any]:
    return {
        "rollouts": [
            {"instance": str(place), "outcome": "ok", "reward": reward, "metrics": {"error": error, "seconds": 1.0}}
            for place, (reward, error) in enumerate(zip(rewards, errors, strict=True))
        ]
    }


def answered(rewards: Sequence[float], errors: Sequence[float]) -> list[Any]:
    return [[reward, True, "", {"error": error}] for reward, error in zip(rewards, errors, strict=True)]


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    result = Ledger.create(tmp_path / "run")
    result.step("draft", lambda: FIRST * 5)
    return result


def row(*, accepted: bool) -> dict[str, Any]:
    return {"gate": {"delta": 0.1}, "agent": NEXT, "accepted": accepted, "name": "dump"}


def test_an_answer_that_earns_more_and_is_farther_from_the_truth_is_warned_of(ledger: Ledger) -> None:
    ledger.step("answers/initial/sealed", lambda: answered([0.29, 0.28, 0.30], [0.024, 0.025, 0.023]))
    ledger.step("answers/final/sealed", lambda: answered([0.42, 0.41, 0.43], [0.173, 0.174, 0.172]))
    (warning,) = parted(RunRecord(ledger), STARTED, [])
    assert (warning["split"], warning["metric"]) == ("sealed", "error")
    assert "the score got better and error worse, beyond noise: 0.024 to 0.173" in apart(warning)
    assert "may be gamed" in apart(warning)


def test_a_candidate_is_warned_of_on_the_gate_and_the_final_agent_on_sealed(ledger: Ledger) -> None:
    for split in ("gate", "sealed"):
        ledger.step(f"rollouts/{split}/{FIRST}/0000", lambda: rolled([0.1, 0.2, 0.3], [1.0, 1.1, 1.2]))
        ledger.step(f"rollouts/{split}/{NEXT}/0000", lambda: rolled([0.5, 0.6, 0.7], [2.0, 2.1, 2.2]))
    warnings = parted(RunRecord(ledger), STARTED, [row(accepted=True)])
    assert [(each["split"], each["candidate"]) for each in warnings] == [("gate", "dump"), ("sealed", None)]
    assert apart(warnings[0]).startswith("On gate, with dump, the score got better")
    # One that was rejected is not what is reported on.
    assert [each["split"] for each in parted(RunRecord(ledger), STARTED, [row(accepted=False)])] == ["gate"]


@pytest.mark.parametrize(
    ("rewards", "errors"),
    [
        ([0.5, 0.6, 0.7], [0.9, 1.0, 1.1]),  # the error fell, too
        ([0.5, 0.6, 0.7], [1.4, 0.9, 1.1]),  # no more than noise
        ([0.1, 0.2, 0.3], [2.0, 2.1, 2.2]),  # the reward did not rise
    ],
)
def test_no_warning_where_both_agree_or_neither_is_beyond_noise(
    ledger: Ledger, rewards: list[float], errors: list[float]
) -> None:
    ledger.step("answers/initial/sealed", lambda: answered([0.1, 0.2, 0.3], [1.0, 1.1, 1.2]))
    ledger.step("answers/final/sealed", lambda: answered(rewards, errors))
    assert parted(RunRecord(ledger), STARTED, []) == []


def test_a_metric_without_a_direction_is_no_reason_to_warn(ledger: Ledger) -> None:
    ledger.step("answers/initial/sealed", lambda: answered([0.1, 0.2], [1.0, 1.1]))
    ledger.step("answers/final/sealed", lambda: answered([0.3, 0.4], [2.0, 2.1]))
    assert parted(RunRecord(ledger), {"metric": {"name": "score"}}, []) == []
    assert Metric("score").beside == {}
