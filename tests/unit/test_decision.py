"""Decisions are typed: what an improver returns is checked, and comes back the same from the ledger."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from sia_core.decision import DECISIONS, Prediction, RewriteHarness, Stop, UpdateWeights
from sia_core.harness import Delete, Replace, Write

REWRITE = RewriteHarness(
    name="svc",
    edits=(Write(path="a", text="条"), Replace(path="b", old="x", new=""), Delete(path="c")),
    reason="it is better",
    prediction=Prediction(gain=0.1, where="in the rare charges"),
    parent="0123456789ab",
)
TRAIN = UpdateWeights(
    algorithm="grpo", config={"steps": 3, "deep": [1, None]}, reason="r", prediction=Prediction(gain=-1)
)
DECISIONS_OF_ALL_KINDS = [REWRITE, TRAIN, Stop(reason="enough")]


def test_decisions_come_back_from_json_as_they_were() -> None:
    text = json.dumps(DECISIONS.dump_python(DECISIONS_OF_ALL_KINDS, mode="json"))
    assert DECISIONS.validate_python(json.loads(text)) == DECISIONS_OF_ALL_KINDS
    assert DECISIONS.validate_json(text) == DECISIONS_OF_ALL_KINDS


def test_a_decision_without_parent_is_about_the_incumbent() -> None:
    assert TRAIN.parent is None


def test_decisions_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        REWRITE.name = "other"  # type: ignore[misc]


def rewrite(**changes: Any) -> dict[str, Any]:
    return {**REWRITE.model_dump(mode="json"), **changes}


@pytest.mark.parametrize(
    ("value", "where"),
    [
        (rewrite(edits=[]), "edits"),
        (rewrite(name=""), "name"),
        (rewrite(name="x" * 81), "name"),
        (rewrite(reason=""), "reason"),
        (rewrite(prediction={"gain": float("nan")}), "gain"),
        (rewrite(prediction={"gain": float("inf")}), "gain"),
        (rewrite(prediction={}), "gain"),
        (rewrite(prediction=None), "prediction"),
        (rewrite(edits=[{"op": "run", "path": "a"}]), "edits"),
        (rewrite(edits=[{"op": "write", "path": "a", "text": 3}]), "edits"),
        (rewrite(extra=1), "extra"),
        (rewrite(lever="both"), "lever"),
        ({"reason": "no lever"}, "lever"),
        ({"lever": "stop"}, "reason"),
        ({"lever": "weights", "reason": "r", "prediction": {"gain": 0}}, "algorithm"),
        ("stop", ""),
        (None, ""),
    ],
    ids=lambda value: ascii(value)[-30:],
)
def test_what_is_no_decision_is_refused_with_its_place(value: Any, where: str) -> None:
    with pytest.raises(ValidationError) as raised:
        DECISIONS.validate_python([value])
    assert where in str(raised.value)
