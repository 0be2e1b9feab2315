"""A policy that is a table of preferences and really learns, and a host that rolls it out without a sandbox."""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from sia_core.decision import Training
from sia_core.errors import NoSignal, TrainingError
from sia_core.evidence import RewardStats
from sia_core.hookspecs import Offer
from sia_core.learning import Datum, Request, Sample, Sampled, Trace
from sia_core.plugins import Plugins, Source
from sia_core.run.rollouts import Setting, Sweep
from sia_core.run.trees import ADAPTERS
from sia_core.types import Instance, Job, OfferRef, OnProgress, Score, Split, Task
from sia_runtime.jobs import function_of
from sia_runtime.reporting import heard_by
from sia_runtime.worker.harness_worker import SolveRequest, SolveResult
from sia_runtime.worker.policy import Policy
from sia_runtime.worker.verifier_process import Question, Verdict
from sia_testing.engines import END, ByteTokens
from sia_testing.fakes import FakeTask

CHOICES = ("a", "b", "c", "d")


class TableEngine:
    """Preferences for each choice after each prompt, trained by plain policy gradient, whatever the loss is called."""

    can: frozenset[str] = frozenset({"train", "reference", "custom_loss", "constrain"})
    learning_rate = 1.0
    about: ClassVar[Mapping[str, Any]] = {"parameters": 64}

    def __init__(self, policy: str = "table", seed: int = 0) -> None:
        self.tokens = ByteTokens()
        self.table: dict[str, float] = {}
        self._gradient: defaultdict[str, float] = defaultdict(float)
        self.steps = self.tokens_seen = 0

    def sample(self, requests: Sequence[Request]) -> list[list[Sampled]]:
        samples = [[self._sampled(request, seed) for seed in request.seeds] for request in requests]
        self.tokens_seen += sum(len(each.prompt) for each in requests)
        self.tokens_seen += sum(len(sampled.tokens) for some in samples for sampled in some)
        return samples

    def _sampled(self, request: Request, seed: int) -> Sampled:
        ids = [ord(choice) for choice in request.choices]
        chances = self._chances(request.prompt, ids)
        best = max(ids, key=lambda each: chances[each])
        drawn = random.Random(seed).choices(ids, [chances[each] for each in ids])[0]
        token = best if request.temperature == 0 else drawn
        return Sampled(
            tokens=[token, END],
            mask=[1, 0],
            logprobs=[math.log(chances[token]), 0.0],
            values=[0.0, 0.0],
            allowed=[ids, None],
            text=chr(token),
            finish="stop",
        )

    def logprobs(self, traces: Sequence[Trace], *, reference: bool = False) -> list[list[float]]:
        return [
            [self._logprob(trace, at, reference) if sampled else 0.0 for at, sampled in enumerate(trace.mask)]
            for trace in traces
        ]

    def values(self, traces: Sequence[Trace]) -> list[list[float]]:
        raise NotImplementedError("it has no critic")

    def check(self, traces: Sequence[Trace]) -> float:
        now = self.logprobs(traces)
        worst = max(
            abs(a - b) for trace, row in zip(traces, now, strict=True) for a, b in zip(trace.logprobs, row, strict=True)
        )
        if worst > 1e-6:
            raise TrainingError(f"sampler and trainer disagree by {worst:.3g} nats")
        return worst

    def forward_backward(
        self, data: Sequence[Datum], loss: str, settings: Mapping[str, Any] | None = None
    ) -> dict[str, float]:
        for datum in data:
            for at, sampled in enumerate(datum.trace.mask):
                if sampled and datum.trace.allowed and (ids := datum.trace.allowed[at]):
                    chances = self._chances(datum.trace.tokens[:at], ids)
                    for each in ids:
                        gap = (each == datum.trace.tokens[at]) - chances[each]
                        share = datum.advantages[at] / datum.normaliser
                        self._gradient[self._name(datum.trace.tokens[:at], each)] += share * gap
        return {"loss": 0.0, "tokens": float(len(data))}

    def optim_step(self, *, lr: float | None = None) -> dict[str, float]:
        for name, slope in self._gradient.items():
            self.table[name] = self.table.get(name, 0.0) + (self.learning_rate if lr is None else lr) * slope
        self._gradient.clear()
        self.steps += 1
        return {"lr": self.learning_rate if lr is None else lr}

    def memory(self) -> dict[str, float]:
        return {"needed": 0.0, "peak": 1.0}

    def digest(self) -> str:
        return hashlib.sha256(json.dumps(self.table, sort_keys=True).encode()).hexdigest()

    def save(self, folder: Path) -> str:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "table.json").write_text(json.dumps([self.table, self.steps], sort_keys=True))
        return hashlib.sha256((folder / "table.json").read_bytes()).hexdigest()

    def load(self, folder: Path) -> None:
        self.table, self.steps = json.loads((folder / "table.json").read_text())

    def _name(self, prompt: Sequence[int], choice: int) -> str:
        return f"{self.tokens.decode(prompt)}/{chr(choice)}"

    def _chances(self, prompt: Sequence[int], ids: Sequence[int], reference: bool = False) -> dict[int, float]:
        odds = {each: math.exp(0.0 if reference else self.table.get(self._name(prompt, each), 0.0)) for each in ids}
        return {each: value / sum(odds.values()) for each, value in odds.items()}

    def _logprob(self, trace: Trace, at: int, reference: bool) -> float:
        ids = (trace.allowed and trace.allowed[at]) or []
        return math.log(self._chances(trace.tokens[:at], ids, reference)[trace.tokens[at]])


class Climb:
    """A learner of a few lines: the reward above the group's mean."""

    class Config(BaseModel):
        model_config = ConfigDict(frozen=True, extra="forbid")
        scale: float = 10.0

    loss: ClassVar = "nowhere:loss"
    needs: ClassVar = frozenset({"train"})
    epochs: ClassVar = 1

    def __init__(self, **settings: Any) -> None:
        self.config = self.Config(**settings)

    def training(self, stats: RewardStats) -> Training:
        return Training()

    def objections(self, stats: RewardStats) -> list[str]:
        return ["every rollout earned the same"] if stats.deviation == 0 else []

    def credit(self, groups: Sequence[Sequence[Sample]]) -> list[Datum]:
        data = []
        for group in groups:
            mean = fmean(sample.reward for sample in group)
            for sample in group:
                for trace in sample.traces:
                    advantage = self.config.scale * (sample.reward - mean)
                    data.append(Datum(trace, [advantage * entry for entry in trace.mask], float(len(groups))))
        if not any(any(datum.advantages) for datum in data):
            raise NoSignal("no group has variance")
        return data


class Critical(Climb):
    """A learner that wants a critic."""

    needs: ClassVar = frozenset({"train", "values"})


PLUGINS = Plugins(
    offers=[
        ("algorithm", Offer("climb", "reward above the mean", "table_policy:Climb"), Source("table", "table", "1")),
        ("algorithm", Offer("critical", "wants a critic", "table_policy:Critical"), Source("table", "table", "1")),
    ]
)


class TableTask(FakeTask):
    """The right answer of instance n is a choice that follows from n; the harness asks the policy for it."""

    def right(self, instance: Instance) -> str:
        return CHOICES[int(instance.input["number"]) % len(CHOICES)]


class TableHost:
    """Rolls agents out in this process: every harness asks the policy once, but one that is called "silent"."""

    def __init__(self, engine: TableEngine | None = None, task: TableTask | None = None) -> None:
        self._engine, self._task = engine or TableEngine(), task or TableTask()
        self._policies: dict[str, Policy] = {}
        self.sweeps: list[Sweep] = []
        self.stop_at: str | None = None
        self.wordy, self._first = 0, ""

    def policy(self, setting: Setting) -> Policy:
        if setting.run not in self._policies:
            self._policies[setting.run] = Policy(self._engine, Path(setting.run) / ADAPTERS)
        return self._policies[setting.run]

    def learner(self, ref: OfferRef) -> Any:
        return PLUGINS.create("algorithm", ref.name, **ref.settings)

    def task(self, ref: OfferRef) -> Task:
        return self._task

    def instances(self, ref: OfferRef, split: Split) -> dict[str, Instance]:
        return {each.id: each for each in self._task.instances(split)}

    def solve(
        self, setting: Setting, sweep: Sweep, task: Task, requests: Sequence[SolveRequest]
    ) -> tuple[dict[str, SolveResult], str]:
        self.sweeps.append(sweep)
        self._first = self._first or sweep.agent
        if self.stop_at is not None and sweep.purpose == self.stop_at:
            raise KeyboardInterrupt
        gateway = self.policy(setting).gateway
        solved = {}
        for request in requests:
            gateway.begin(
                request.key, request.seed, group=request.group, training=request.training, tokens=request.tokens
            )
            answer = self._answer(gateway, request, self.wordy if sweep.agent != self._first else 0)
            gateway.end(request.key)
            solved[request.key] = SolveResult(request.key, "ok", answer=json.dumps(answer))
        return solved, ""

    @property
    def tokens(self) -> int:
        """All that the engine was asked to read and to say."""
        return self._engine.tokens_seen

    def _answer(self, gateway: Any, request: SolveRequest, wordy: int = 0) -> str:
        number = int(dict(request.instance["input"])["number"])  # type: ignore[arg-type]
        messages = [{"role": "user", "content": "-" * wordy + str(number % len(CHOICES))}]
        body = {"messages": messages, "choices": list(CHOICES), "temperature": 0, "max_tokens": 2}
        reply = gateway.answer(request.key, body)
        return "refused" if "error" in reply else str(reply["choices"][0]["message"]["content"])

    def verifier(self, setting: Setting, *, sealed: bool) -> Any:
        def score(questions: Sequence[Question]) -> list[Verdict]:
            right = [json.loads(each.answer) == self._task.right(each.instance) for each in questions]
            return [Verdict("ok", Score(float(each))) for each in right]

        return SimpleNamespace(score=score)


class TableBackend:
    """Runs jobs at once, by their names, on one host."""

    slots = 2

    def __init__(self, host: TableHost) -> None:
        self.host = host

    def submit(self, job: Job) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            payload = json.loads(json.dumps(job.payload))  # as on another machine
            future.set_result(function_of(job.function)(payload, self.host))
        except Exception as error:
            future.set_exception(error)
        return future

    def submit_watched(self, job: Job, on_progress: OnProgress) -> Future[Any]:
        with heard_by(on_progress):
            return self.submit(job)

    def close(self) -> None:
        for policy in self.host._policies.values():
            policy.close()
