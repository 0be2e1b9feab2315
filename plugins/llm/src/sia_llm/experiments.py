"""The tool with which a model runs code on public data: in one sandbox a conversation, which ends with it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, TypeVar

from pydantic import Field

from sia_core.run import record
from sia_core.run.run_view import RunView
from sia_llm.check_report import seconds
from sia_llm.quoting import fenced
from sia_llm.toolbox import SHOWN, Arguments, Offered, ToolError, offer
from sia_llm.workshop import Workshop

EXPERIMENT_SECONDS = 120.0
"""The time that the code of one may run."""

RUNS = 30
"""Experiments that one conversation may run."""

MOST_BYTES = 2_000_000
"""Of a working copy that code can be run beside: it is sent into the sandbox with the code."""

_ENDED = {
    "ok": "It ended",
    "raised": "It raised an exception",
    "timeout": f"It was stopped after {EXPERIMENT_SECONDS:g} s",
}
_Result = TypeVar("_Result")


class Code(Arguments):
    code: str = Field(min_length=1, max_length=100_000, description="Python; what it prints comes back")


class Experiments:
    """The experiments of one conversation, beside the files of its working copy."""

    def __init__(self, run: RunView, place: str, workshop: Workshop) -> None:
        self._run, self._place, self._workshop = run, place, workshop
        self._runs, self._began = 0, False

    def __enter__(self) -> Experiments:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._began:
            self._began = False
            self._run.job("sia_runtime.worker.experiment:end", {"place": self._place})

    def around(self, talk: Callable[[], _Result]) -> Callable[[], _Result]:
        """The conversation, after which its sandbox ends, however it comes out."""

        def run() -> _Result:
            with self:
                return talk()

        return run

    @property
    def offered(self) -> list[Offered]:
        about = f"""Run Python code in a sandbox like a harness's. Its variable `ctx` has `ctx.public`. The files of
            your working copy lie in `ctx.scratch / "copy"` and can be imported, as can the distributions that its
            `harness.toml` requires. There is no instance and no policy. The code is stopped after
            {EXPERIMENT_SECONDS:g} s by the clock, on a machine that others use as well, so print how long its steps
            take. You see the first {SHOWN:,} characters that it prints, also where it is stopped. Nothing is left of
            it for the next experiment. It costs 1 rollout of the run's budget. You have {RUNS} experiments."""
        return [offer("run", about, Code, self._try)]

    def _try(self, request: Code) -> str:
        if self._runs >= RUNS:
            raise ToolError(f"{RUNS} experiments were run; decide with what they showed")
        size = sum(map(len, self._workshop.tree.files.values()))
        if size > MOST_BYTES:
            raise ToolError(f"your working copy has {size:,} bytes, and code is run beside {MOST_BYTES:,} at most")
        self._runs += 1
        result = self._result(request.code)
        why = f": {result['message']}" if result["message"] else ""
        ended = _ENDED.get(result["ended"], f"It ended as {result['ended']}")
        took = "" if result["ended"] == "timeout" else f" in {seconds(result['seconds'])}"
        head = f"{ended}{took}; {RUNS - self._runs} experiments left."
        return f"{head}\n{fenced(result['printed'] + why, 'what it printed', SHOWN, by='from the code that you ran')}"

    def _result(self, code: str) -> Mapping[str, Any]:
        """How code ended, which counts as a rollout. It is recorded, and not run again beside the same files.

        Another conversation's record is another one: both may run the same code at the same time.
        """
        name = self._run.trees.put(self._workshop.tree)
        digest = hashlib.sha256(f"{self._place} {name} {code}".encode()).hexdigest()[:24]
        payload = {"place": self._place, "code": code, "copy": {"harness": name}, "seconds": EXPERIMENT_SECONDS}

        def work() -> Any:
            self._began = True
            return self._run.job("sia_runtime.worker.experiment:run_code", payload)

        once = {"rollouts": 1.0}
        self._run.budget.reserve(**once)
        try:
            result: Mapping[str, Any] = self._run.ledger.step(record.experiment(digest), work)
        finally:
            self._run.budget.settle(once, once)
        return result
