"""Fakes of what surrounds the loop: a task of numbers, a backend that answers at once, a scripted improver."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from pydantic import RootModel

from sia_core.decision import Decision, Prediction, RewriteHarness, Stop
from sia_core.evidence import Evidence, Rollout, TaskView
from sia_core.harness import HarnessTree, Replace
from sia_core.playbook import Playbook
from sia_core.run.budget import Budget, Limit
from sia_core.run.ledger import Ledger
from sia_core.run.observe import Emitter
from sia_core.run.parts import Parts
from sia_core.run.rollouts import Rollouts, Setting, Sweep
from sia_core.run.trees import Trees
from sia_core.types import Instance, Job, Kind, Limits, Metric, OfferRef, Split

SKILL = "skill.txt"


class Number(RootModel[float]):
    """An answer of the fake task."""


class FakeTask:
    """Instances are numbers; a harness is right on the share of them that its ``skill.txt`` says."""

    name = "fake"
    kind: Kind = "solve"
    brief = "Be right."
    metric = Metric("right")
    answer = Number
    verifier = OfferRef("exact")
    failure_reward = 0.0
    limits = Limits()

    def __init__(self, size: int = 200, playbook: Playbook | None = None, seed: int = 0) -> None:
        self._size, self._playbook = size, playbook
        self.fingerprint = f"fake {size} {seed}"

    def instances(self, split: Split) -> Sequence[Instance]:
        return [Instance(f"{split}-{number}", split, {"number": number}) for number in range(self._size)]

    def public_dir(self, splits: Sequence[Split]) -> Path:
        return Path("/nowhere")  # the fake backend runs no harness

    def seed_harness(self) -> HarnessTree:
        return harness(0.2)

    def playbook(self) -> Playbook | None:
        return self._playbook


def harness(skill: float) -> HarnessTree:
    """A harness of the fake task."""
    return HarnessTree({"harness.py": b"", SKILL: f"{skill}\n".encode()})


def edit(name: str, new: float, old: float = 0.2, parent: str | None = None) -> RewriteHarness:
    """A decision that changes the skill."""
    change = Replace(path=SKILL, old=f"{old}\n", new=f"{new}\n")
    return RewriteHarness(
        name=name, edits=(change,), reason="scripted", prediction=Prediction(gain=new - old), parent=parent
    )


class InstantBackend:
    """Answers every rollout by its harness's skill and the instance's digest, in this process; counts the jobs."""

    slots = 2

    def __init__(self) -> None:
        self.sweeps: list[Sweep] = []

    def submit(self, job: Job) -> Future[Any]:
        sweep = Sweep(**job.payload["sweep"])
        self.sweeps.append(sweep)
        tree = Trees(Path(job.payload["setting"]["run"])).get(sweep.harness)
        skill = tree.text(SKILL).strip()
        future: Future[Any] = Future()
        rollouts = [_rollout(each, skill).to_json() for each in sweep.instances for _ in range(sweep.group)]
        hung = "too many instances timed out" if skill == "hangs" and sweep.hasty else ""
        future.set_result({"sandbox": "none", "given_up": hung, "rollouts": rollouts})
        return future

    def close(self) -> None:
        pass


def _rollout(instance: str, skill: str) -> Rollout:
    if skill == "hangs":
        return Rollout(instance, "ok" if instance.startswith("search") else "timeout", 0.0)
    if skill == "broken":
        return Rollout(instance, "setup-crash", 0.0, message="SyntaxError: broken")
    place = int.from_bytes(hashlib.sha256(instance.encode()).digest()[:4]) / 2**32
    return Rollout(instance, "ok", float(place < float(skill)), answer="1.0")


def fake_parts(
    ledger: Ledger,
    improver: Any,
    *,
    task: Any = None,
    backend: Any = None,
    budget: Budget | None = None,
    emit: Emitter | None = None,
    engine: OfferRef | None = None,
    seed: int = 0,
    **more: Any,
) -> Parts:
    """The parts of a run in a ledger's folder: of the fake task on the fake backend, where no others are given."""
    of: Any = task or FakeTask()
    emit = emit or Emitter()
    setting = Setting(str(ledger.folder), OfferRef("fake"), OfferRef("exact"), "none", seed, engine)
    rollouts, trees = Rollouts(setting, ledger, backend or InstantBackend(), emit), Trees(ledger.folder)
    return Parts(of, improver, rollouts, ledger, trees, budget or Budget(Limit({})), emit, **more)


class ScriptedImprover:
    """Returns the decisions of its script, one list a generation, then stops."""

    def __init__(self, *script: Sequence[Decision] | Callable[[Evidence], Any]) -> None:
        self._script = script
        self.seen: list[Evidence] = []

    def draft(self, task: TaskView, seed: int) -> HarnessTree:
        self.drafted_from = task
        return task.seed

    def decide(self, evidence: Evidence) -> Sequence[Decision]:
        self.seen.append(evidence)
        if evidence.generation >= len(self._script):
            return [Stop(reason="the script is over")]
        part = self._script[evidence.generation]
        decisions: Sequence[Decision] = part(evidence) if callable(part) else part
        return decisions
