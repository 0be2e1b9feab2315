"""A batch of rollouts, on the machine that runs it: each solved in a sandbox, then scored by the verifier."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

from sia_core.errors import PluginError, TrainingError
from sia_core.evidence import Rollout
from sia_core.run.rollouts import Setting, Sweep
from sia_core.types import Instance, Perturbs, Task
from sia_runtime.worker.gateway import Record
from sia_runtime.worker.harness_worker import SolveRequest, SolveResult
from sia_runtime.worker.host import Host
from sia_runtime.worker.policy import Policy
from sia_runtime.worker.verifier_process import Question, Verdict


@dataclass(frozen=True)
class Rolled:
    """A rollout, and what the policy was asked in it, if it was: by which weights, in which tokens."""

    rollout: Rollout
    record: Record | None
    weights: str


def run_batch(payload: Mapping[str, Any], host: Host) -> dict[str, Any]:
    """The job: solve every instance of a batch in the sandbox, then have the answers scored."""
    setting, sweep = Setting.from_json(payload["setting"]), Sweep(**payload["sweep"])
    policy = host.policy(setting)
    with policy.holding(sweep.adapter) if policy else nullcontext():
        rolled, given_up = roll_out(setting, sweep, host)
    return {
        "sandbox": setting.sandbox,
        "given_up": given_up,
        "rollouts": [each.rollout.to_json() for each in rolled],
        **needs(rolled),
        **cuts(rolled),
    }


def cuts(rolled: Sequence[Rolled]) -> dict[str, int]:
    """The replies of the policy, and how many of them ended at a length that the harness had not named."""
    records = [each.record for each in rolled if each.record]
    return {"replies": sum(each.replies for each in records), "cut": sum(each.cut for each in records)}


def needs(rolled: Sequence[Rolled]) -> dict[str, int]:
    """The share of tokens that the greediest rollout came to need, and how many ran out of theirs."""
    records = [each.record for each in rolled if each.record]
    return {
        "peak": max((each.peak for each in records), default=0),
        "short": sum(each.short for each in records),
    }


def roll_out(setting: Setting, sweep: Sweep, host: Host) -> tuple[list[Rolled], str]:
    """The rollouts of a batch, in the order of its instances; and why the sweep is given up, or an empty string."""
    task = host.task(setting.task)
    by_name: Mapping[str, Instance] = host.instances(setting.task, sweep.split)
    if sweep.perturbed:
        by_name = {name: perturb(task, by_name[name]) for name in sweep.instances}
    starts = sweep.starts or (None,) * len(sweep.instances)
    begun = [replace(by_name[name], start=start) for name, start in zip(sweep.instances, starts, strict=True)]
    requests = [each for instance in begun for each in _requests(setting, sweep, instance)]
    instances = [instance for instance in begun for _ in range(sweep.group)]
    judge = host.evaluations(setting) if sweep.evaluations else None
    for instance, request in zip(instances, requests, strict=True):
        if judge:
            judge.grant(request.key, instance, request.seed, request.evaluations)
    policy = host.policy(setting)
    weights = policy.version if policy else ""
    solved, given_up = host.solve(setting, sweep, task, requests)
    questions = [
        Question(instance, answer, request.seed)
        for instance, request in zip(instances, requests, strict=True)
        if (answer := solved[request.key].answer) is not None and solved[request.key].outcome == "ok"
    ]
    verdicts = iter(host.verifier(setting, sealed=sweep.split == "sealed").score(questions))
    failure = task.metric.reward(task.failure_reward)
    rolled = []
    for instance, request in zip(instances, requests, strict=True):
        result = solved[request.key]
        record = policy.gateway.finish(request.key) if policy else None
        rollout = _rollout(instance, result, failure, record, verbose=sweep.split == "search" and not sweep.training)
        if judge:
            rollout = replace(rollout, evaluated=judge.finish(request.key))
        if result.outcome == "ok" and result.answer is not None:
            rollout = _judged(rollout, next(verdicts))
        rolled.append(Rolled(rollout, record, weights))
    return rolled, given_up


def _rollout(instance: Instance, result: SolveResult, failure: float, record: Record | None, verbose: bool) -> Rollout:
    """Make a rollout of a result that is not scored yet; ``verbose`` where an improver may read it."""
    return Rollout(
        instance=instance.id,
        outcome=result.outcome,
        reward=failure,
        answer=result.answer,
        message=result.message,
        log=result.log,
        seconds=round(result.seconds, 6),
        step_rewards=tuple(result.step_rewards),
        tokens=record.tokens if record else 0,
        turns=tuple(record.turns) if record and verbose else (),
        start=str(instance.start["id"]) if isinstance(instance.start, dict) else None,
    )


def _judged(rollout: Rollout, verdict: Verdict) -> Rollout:
    return replace(
        rollout,
        outcome=verdict.outcome,
        reward=verdict.score.reward,
        metrics=verdict.score.metrics,
        message=verdict.message,
        feedback=verdict.score.feedback,
    )


def _requests(setting: Setting, sweep: Sweep, instance: Instance) -> Iterator[SolveRequest]:
    """Yield the requests for an instance, one for each member of its group."""
    view: dict[str, Any] = {"id": instance.id, "input": dict(instance.input), "start": instance.start}
    for member in range(sweep.group):
        apart = 0 if sweep.distinct else member
        salt = f"{sweep.purpose}/{apart}" if sweep.training else f"repeat/{member}" if member else ""
        yield SolveRequest(
            key=f"{sweep.purpose}/{sweep.agent}/{instance.id}/{member}",
            instance=view,
            seed=instance_seed(setting.seed, instance, salt),
            group=sweep.group,
            training=sweep.training,
            place=member if sweep.distinct else None,
            tokens=sweep.tokens,
            evaluations=sweep.evaluations,
        )


def instance_seed(seed: int, instance: Instance, salt: str = "") -> int:
    """The seed of a rollout: of the run and the instance, so that compared agents share it. It is no secret.

    ``salt`` makes the members of a group differ: repeats in the same way for every agent, those of
    training, where nothing is compared, each time anew, but for those that are drawn together,
    without replacement.
    """
    text = f"{seed}/{instance.split}/{instance.id}" + (f"/{salt}" if salt else "")
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6])


def policy_of(setting: Setting, host: Host) -> Policy:
    """The run's policy on this machine; TrainingError where the run has none to train."""
    policy = host.policy(setting)
    if not isinstance(policy, Policy):
        raise TrainingError("this run has no policy to train")
    return policy


def perturb(task: Task, instance: Instance) -> Instance:
    """The instance in its other guise; its id stays, by which its verifier knows it."""
    if not isinstance(task, Perturbs):
        raise PluginError(f"the task {task.name!r} offers no perturbation")
    return replace(instance, input=task.perturbed(instance))
