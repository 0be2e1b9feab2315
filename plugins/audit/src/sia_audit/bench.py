"""The bench of an audit: the task, its first harness in a real sandbox, and its verifier's real process.

Only instances of ``public`` and ``search`` are asked about. Of ``gate`` and ``sealed``
an audit learns neither a label nor a score: the one is for promotions alone, the other
for the report alone.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median

from sia_core.errors import PluginError, SiaError, UsageError, excerpt
from sia_core.plugins import Plugins
from sia_core.run.plan import Plan, take_samples
from sia_core.run.record import OUT_OF_BOUNDS
from sia_core.run.rollouts import Setting, Sweep, new_secret
from sia_core.run.start import Config, setting_of, workable
from sia_core.run.trees import Trees
from sia_core.types import Instance, Task
from sia_runtime.worker.batch import instance_seed
from sia_runtime.worker.harness_worker import SolveRequest
from sia_runtime.worker.host import Host
from sia_runtime.worker.preflight import choose_sandbox
from sia_runtime.worker.verifier_process import Question, VerifierProcess

MOST_INSTANCES = 64
LEAST_INSTANCES = 6
ROLLOUT_SECONDS = 20.0
"""The limit for the first harness's rollouts; with slow ones there are fewer."""

FAILED = "failed"
"""The outcome of an answer on which the verifier broke or left the metric's bounds; else ``ok``, ``invalid-answer``."""


@dataclass(frozen=True)
class Judged:
    """An answer, as JSON text, and what the verifier's process made of it."""

    instance: Instance
    answer: str
    outcome: str
    reward: float
    seconds: float
    message: str = ""
    usage: bool = False
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Tried:
    """A rollout of the first harness. ``tokens`` are the policy's, read and sampled."""

    instance: Instance
    outcome: str
    answer: str | None
    seconds: float
    message: str
    log: str
    tokens: int


class Bench:
    """See the module. Made by :func:`opened`."""

    def __init__(self, task: Task, config: Config, setting: Setting, host: Host, sandbox: str) -> None:
        self.task, self.plan, self.sandbox = task, config.plan, sandbox
        self.samples = take_samples(task, Plan(seed=config.plan.seed))
        self.failure = task.metric.reward(task.failure_reward)
        self._setting, self._host = setting, host
        self._digest = Trees(Path(setting.run)).put(task.seed_harness())
        self._verifier = self._started()
        self.start_seconds = self._timed_start()
        self.tried: list[Tried] = []
        self.setup_seconds = 0.0
        self.rollout_seconds = 0.0

    def _started(self) -> VerifierProcess:
        setting = self._setting
        return VerifierProcess(setting.task, setting.verifier, setting.sandbox, secret=setting.secret)

    def _timed_start(self) -> float:
        started = time.monotonic()
        self._verifier.check()
        return time.monotonic() - started

    def close(self) -> None:
        self._verifier.close()
        self._host.stop()

    def renew_verifier(self) -> None:
        """Go on with a fresh verifier process."""
        self._verifier.close()
        self._verifier = self._started()

    def search(self, count: int) -> list[Instance]:
        """The first instances of the run's own sample of ``search``."""
        by_name = self._host.instances(self._setting.task, "search")
        return [by_name[name] for name in self.samples.search[:count]]

    def judge(self, instance: Instance, answer: str, salt: str = "") -> Judged:
        """Have one answer scored, with the seed that a run would give, or another one by ``salt``.

        One at a time, so that a verifier that breaks is known to have broken on this one. It is started anew then.
        """
        question = Question(instance, answer, instance_seed(self.plan.seed, instance, salt))
        started = time.monotonic()
        try:
            (verdict,) = self._verifier.score([question])
        except SiaError as error:
            passed = time.monotonic() - started
            # A plugin's verifier that breaks is what an audit is there to find.
            usage = isinstance(error, UsageError) and not isinstance(error, PluginError)
            return Judged(instance, answer, FAILED, self.failure, passed, str(error), usage)
        passed = time.monotonic() - started
        outcome = FAILED if verdict.outcome == OUT_OF_BOUNDS else verdict.outcome
        return Judged(
            instance, answer, outcome, verdict.score.reward, passed, verdict.message, metrics=verdict.score.metrics
        )

    def roll_out(self) -> None:
        """Roll the first harness out: once to time its set-up, once to time a rollout, then as often as time allows.

        Its sandbox has ended then.
        """
        some = self.search(MOST_INSTANCES)
        self._host.policy(self._setting)  # a large one takes longer than any set-up
        started = time.monotonic()
        self.tried = self._solved(some[:1])
        self.setup_seconds = max(0.0, time.monotonic() - started - self.tried[0].seconds)
        started = time.monotonic()
        self.tried += self._solved(some[1:2])
        once = max(1e-4, time.monotonic() - started)
        rest = some[2 : max(LEAST_INSTANCES, int(ROLLOUT_SECONDS / once))]
        started = time.monotonic()
        self.tried += self._solved(rest)
        self.rollout_seconds = (time.monotonic() - started) / len(rest) if rest else once
        self._host.stop()

    def _solved(self, instances: Sequence[Instance]) -> list[Tried]:
        if not instances:
            return []
        sweep = Sweep("audit", "first", self._digest, "search", tuple(each.id for each in instances))
        requests = {
            each.id: SolveRequest(
                f"audit/first/{each.id}",
                {"id": each.id, "input": dict(each.input), "start": each.start},
                instance_seed(self.plan.seed, each),
            )
            for each in instances
        }
        policy = self._host.policy(self._setting)
        with policy.holding(None) if policy else nullcontext():
            solved, _ = self._host.solve(self._setting, sweep, self.task, list(requests.values()))
        tried = []
        for each in instances:
            result = solved[requests[each.id].key]
            record = policy.gateway.finish(result.key) if policy else None
            tokens = record.prompt_tokens + record.sampled_tokens if record else 0
            answer = result.answer if result.outcome == "ok" else None
            tried.append(Tried(each, result.outcome, answer, result.seconds, result.message, result.log, tokens))
        return tried

    def size_of_samples(self, asks: int, seconds: float) -> int:
        """On how many instances to ask ``asks`` questions each, for that to take about this many seconds."""
        times = [self.judge(tried.instance, tried.answer or "null").seconds for tried in self.tried[:4]]
        once = max(1e-4, median(times))
        return max(LEAST_INSTANCES, min(MOST_INSTANCES, int(seconds / once / asks)))


@contextmanager
def opened(config: Config, plugins: Plugins) -> Iterator[Bench]:
    """Check a task as a run would, and set it up in a temporary folder."""
    config, task = workable(config, plugins)
    sandbox = choose_sandbox(plugins, config.sandbox, allow_weak=config.allow_weak_sandbox)
    with tempfile.TemporaryDirectory(prefix="sia-audit-") as folder:
        os.chmod(folder, 0o755)  # a sandbox reads harnesses as another user
        setting = setting_of(config, task, Path(folder), sandbox["name"], new_secret())
        host = Host(plugins)
        bench = None
        try:
            bench = Bench(task, config, setting, host, sandbox["name"])
            yield bench
        finally:
            if bench:
                bench.close()
            host.stop()


def said(message: str) -> str:
    """A message cut to a line."""
    return excerpt(" ".join(message.split()), 160)


def mean_seconds(judged: Sequence[Judged]) -> float:
    """Of one verification, those that broke the verifier left out."""
    times = [each.seconds for each in judged if each.outcome != FAILED]
    return fmean(times) if times else 0.0
