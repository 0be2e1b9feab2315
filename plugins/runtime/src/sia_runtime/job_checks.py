"""Results of the core's own jobs, looked at before they are recorded: a worker may be false.

A result of another form, once recorded, would end the run at each resume.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sia_core.errors import LedgerError, SiaError, excerpt
from sia_core.run import record
from sia_core.run.discover import Verified
from sia_runtime.sandbox.frames import ProtocolError, strict_json

BATCH = "sia_runtime.worker.batch:run_batch"
VERIFY = "sia_runtime.worker.verify_job:verify"


def check_result(function: str, payload: Mapping[str, Any], result: Any) -> None:
    """SiaError where the result of a job is none. Those of other jobs than the core's are for their levers to check."""
    if check := _CHECKS.get(function):
        check(payload, result)


def _batch(payload: Mapping[str, Any], batch: Any) -> None:
    """SiaError where a batch of rollouts is none: it would be recorded, and end the run at each resume."""
    sweep = payload["sweep"]
    try:
        rollouts = record.Batch.of(record.batch("", "", 0), batch).rollouts()
        if [each.instance for each in rollouts] != [each for each in sweep["instances"] for _ in range(sweep["group"])]:
            raise ValueError("its rollouts are not those of the instances that were asked for")
        if not isinstance(batch["given_up"], str):
            raise ValueError("it does not say whether it was given up")
        for each in rollouts:
            if each.outcome == "ok" and each.answer is not None:
                strict_json(each.answer.encode())  # as every answer that a sandbox sends
    except (LedgerError, ProtocolError, LookupError, TypeError, AttributeError, ValueError) as error:
        why = f"{type(error).__name__}: {error}"
        raise SiaError(f"a worker's reply is no batch of rollouts: {excerpt(why)}; nothing was recorded") from None


def _scores(payload: Mapping[str, Any], rows: Any) -> None:
    """SiaError where a verifier's words on an answer are not one an instance, or no scores."""
    try:
        Verified.of(rows, len(payload["instances"]))
    except LedgerError as error:
        raise SiaError(f"a worker's reply is false: {error}; nothing was recorded") from None


_CHECKS: Mapping[str, Callable[[Mapping[str, Any], Any], None]] = {BATCH: _batch, VERIFY: _scores}
