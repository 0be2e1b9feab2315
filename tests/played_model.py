"""A model that plays replies instead of being asked, and a run of the fake task that it improves."""

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path
from typing import Any

from sia_core.run.budget import Budget, Limit
from sia_core.run.ledger import Ledger
from sia_core.run.loop import Loop, Plan
from sia_core.run.observe import Emitter
from sia_core.run.run_view import RunView
from sia_core.types import Job
from sia_llm import ModelImprover, Settings
from sia_llm.models import Ask, Prices, Reply, ToolCall, Usage
from sia_reading.report import build
from sia_testing.fakes import SKILL, FakeTask, InstantBackend, fake_parts

CONFIG = {"plan": {"levers": ["harness"], "seed": 0}, "budget": {}, "improver": "model"}


def use(name: str, /, **arguments: Any) -> tuple[str, Any]:
    return name, arguments


def skill(new: float, old: float = 0.2) -> tuple[str, Any]:
    return use("replace_text", path=SKILL, old=f"{old}\n", new=f"{new}\n")


def rewrite(name: str, gain: float = 0.1) -> tuple[str, Any]:
    prediction = {"gain": gain, "where": "everywhere"}
    return use("decide", changes=[{"lever": "harness", "name": name, "reason": "why not", "prediction": prediction}])


STOP = use("decide", changes=[{"lever": "stop", "reason": "enough"}])


class Killed(BaseException):
    """Stands for the end of the process."""


class Played:
    """A provider that plays replies: each is calls, or a whole Reply, or what is raised."""

    name = "played"

    def __init__(self, *script: Any) -> None:
        self.script = list(script)
        self.asked: list[Ask] = []

    def complete(self, request: Ask) -> Reply:
        self.asked.append(request)
        part = self.script.pop(0)
        if isinstance(part, BaseException):
            raise part
        return part if isinstance(part, Reply) else said(*part)

    def prices(self, model: str) -> Prices | None:
        return Prices(3.0, 15.0, 0.3, 3.75)


def said(*calls: tuple[str, Any], ended: Any = None, text: str = "") -> Reply:
    uses = tuple(ToolCall(f"id{at}", name, arguments) for at, (name, arguments) in enumerate(calls))
    return Reply(text, uses, ended or ("tools" if calls else "end"), Usage(100, 10))


class Laboratory(InstantBackend):
    """Runs code as an experiment, too: says what it was given, and remembers which sandboxes were ended."""

    def __init__(self) -> None:
        super().__init__()
        self.ran: list[str] = []
        self.ended: list[str] = []

    def submit(self, job: Job) -> Future[Any]:
        if job.function.startswith("sia_runtime.worker.batch:"):
            return super().submit(job)
        future: Future[Any] = Future()
        if job.function.endswith(":end"):
            self.ended.append(job.payload["place"])
            future.set_result(None)
        else:
            self.ran.append(job.payload["code"])
            printed = f"ran {job.payload['code']}\n"
            future.set_result({"ended": "ok", "message": "", "printed": printed, "seconds": 0.2})
        return future


class World:
    """A run of the fake task whose improver is a model that plays a script."""

    def __init__(
        self,
        folder: Path,
        *script: Any,
        budget: str = "",
        task: FakeTask | None = None,
        plan: Plan | None = None,
        **more: Any,
    ) -> None:
        self.folder, self.backend, self.task = folder, Laboratory(), task or FakeTask()
        self.provider = Played(*script)
        self.limit, self.settings = Limit.parse(budget), Settings.of("a-model", more)
        self.plan = plan or Plan()
        self.notices: list[str] = []

    def run(self) -> dict[str, Any]:
        with Ledger(self.folder) if (self.folder / "ledger.db").exists() else Ledger.create(self.folder) as ledger:
            ledger.step("run", lambda: {"config": CONFIG, "task": "fake", "metric": {"name": "right"}})
            self.loop(ledger).improve()
            return build(ledger)

    def loop(self, ledger: Ledger) -> Loop:
        emit = Emitter([(None, self._notice)])  # type: ignore[list-item]
        improver, budget = self.improver(), Budget(self.limit)
        parts = fake_parts(ledger, improver, task=self.task, backend=self.backend, budget=budget, emit=emit)
        loop = Loop(self.plan, parts)
        improver.equip(RunView(loop.parts, loop.samples))
        return loop

    def improver(self) -> Any:
        """The run's improver."""
        return ModelImprover(self.provider, self.settings)

    def _notice(self, event: Any) -> None:
        if event.kind == "model.notice":
            self.notices.append(event.data["text"])

    def told(self, call: int) -> str:
        """The last message of a request: what tools gave, or what the user says."""
        message = self.provider.asked[call].messages[-1]
        return message["text"] if message["role"] == "user" else "\n".join(row["text"] for row in message["results"])
