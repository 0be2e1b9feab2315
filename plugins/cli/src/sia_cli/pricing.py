"""The price of a run before it starts: counted from its plan, and measured on a handful of search instances.

The handful is rolled out with the seed harness through the real road, sandbox, policy and
verifier, in a folder that is removed. Gate and sealed instances are not touched.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Collection, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from sia_cli.notices import notices
from sia_cli.scaling import Costs, scaled
from sia_core.evidence import Rollout
from sia_core.plugins import Plugins
from sia_core.run import record
from sia_core.run.candidate import fault_of, make_agent, unrunnable
from sia_core.run.gatekeeper import Gatekeeper
from sia_core.run.ledger import Ledger
from sia_core.run.levers import Lever
from sia_core.run.observe import Emitter
from sia_core.run.plan import Plan, Samples, take_samples
from sia_core.run.robustness import most_looks
from sia_core.run.rollouts import BATCH, Rollouts, Sweep, new_secret
from sia_core.run.start import Config, backend_of, checked, levers_of, prepare, setting_of
from sia_core.run.trees import Trees
from sia_core.types import Backend, Task

LOADED = "sia_runtime.worker.preflight:loaded"

HANDFUL = 16
"""Search instances that are rolled out to see what a rollout takes."""

BOOKED = 16
"""Results that are booked to see what that takes."""


@dataclass(frozen=True)
class Range:
    """At least and at most."""

    least: float
    most: float

    def times(self, amount: float, more: float = 0.0) -> Range:
        return Range(round(self.least * amount + more, 1), round(self.most * amount + more, 1))


@dataclass(frozen=True)
class Measured:
    """The handful's figures: seconds to load the policy, to set the harness up, per rollout, and to book a batch.

    ``suits`` is the number of rollouts that an update of the policy is worth, and ``memory`` the bytes that training
    takes at most, of all of its processes, as its engine says.
    """

    rollouts: int
    policy_seconds: float
    setup_seconds: float
    seconds: float
    tokens: float
    reward: float
    outcomes: Mapping[str, int]
    booking_seconds: float
    suits: int = 0
    memory: float = 0.0


def price(config: Config, plugins: Plugins) -> dict[str, Any]:
    """Check all that a run checks, and say what it would take; as JSON. Nothing of it is left on disk."""
    config, task = checked(config, plugins)
    samples, plan = take_samples(task, config.plan), config.plan
    unit = "verifications" if samples.evaluations else "rollouts"  # what time goes by
    levers = levers_of(plan.levers, plugins, config.lever_settings).values()
    with closing(backend_of(config, plugins)) as backend:
        secret = new_secret()
        sandbox = prepare(config, task, backend, secret)
        measured = measure(config, task, samples, sandbox["name"], backend, secret)
    counts = count(samples, plan, config.budget, unit, levers, measured.suits)
    run = Range(**counts["run"])
    costs = Costs(measured.policy_seconds, measured.setup_seconds, measured.seconds, measured.booking_seconds)
    return {
        "task": task.name,
        "sandbox": sandbox["name"],
        "sandbox_lacks": sandbox["lacks"],
        "notices": notices(task),
        "gate": Gatekeeper(plan, samples, task).sees(),
        "repeats": plan.repeats,
        **({} if samples.evaluations else {"verifications": {"least": 0, "most": counts["run"]["most"]}}),
        "unit": unit,
        unit: counts,
        "measured": asdict(measured),
        "seconds": asdict(_seconds(run, measured, plan)),
        "tokens": asdict(run.times(measured.tokens)) if config.engine else None,
        "workers": [asdict(each) for each in scaled(samples, plan, costs, run.most, pull=counts["update"])],
        "budget": dict(config.budget),
    }


def count(
    samples: Samples,
    plan: Plan,
    limits: Mapping[str, float],
    kind: str = "rollouts",
    levers: Collection[Lever] = (),
    suits: int = 0,
) -> dict[str, Any]:
    """The rollouts, or the verifications, of each part of a run, at least and at most.

    ``suits`` is how many an update of the run's policy is worth, as :meth:`Lever.pull_cost` takes it.
    """
    first, report = (int(cost.kinds[kind]) for cost in (samples.look(levers), samples.report))
    candidates = plan.generations * plan.candidates
    update = max((int(lever.pull_cost(len(samples.search), suits).kinds[kind]) for lever in levers), default=0)
    back = int(samples.looking_back.kinds[kind])
    looks = most_looks(candidates, both=len(plan.levers) > 1, discovers=samples.evaluations > 0) * back
    most = first + candidates * (first + update) + report + looks
    limit = min(limits.get("rollouts", most), limits.get("verifications", most))
    return {
        "first_agent": first,
        "candidates": candidates,
        "candidate": {"least": 0, "most": first},
        "update": update,
        "report": {"least": report // 2, "most": report},
        "robustness": {"least": 0, "most": looks},
        "run": {"least": first + report // 2, "most": min(most, limit)},
    }


def measure(config: Config, task: Task, samples: Samples, sandbox: str, backend: Backend, secret: str) -> Measured:
    """Roll the seed harness out on one instance, which sets it up, and on a handful; SiaError if it does not run."""
    with tempfile.TemporaryDirectory(prefix="sia-price-") as folder, Ledger.create(Path(folder)) as ledger:
        agent = make_agent(task.seed_harness(), None, None)
        Trees(ledger.folder).put(agent.files)
        rollouts = Rollouts(setting_of(config, task, ledger.folder, sandbox, secret), ledger, backend, Emitter([]))
        started = time.monotonic()
        loaded = rollouts.job(LOADED, {}) if config.engine else {}
        loading = time.monotonic() - started
        once, first = _timed(rollouts, Sweep("first", agent.id, agent.harness, "search", samples.search[:1]))
        handful = Sweep("handful", agent.id, agent.harness, "search", samples.search[:HANDFUL])
        took, results = _timed(rollouts, handful)
        booking = _booking(ledger, results)
    if fault := fault_of(first) and fault_of(results):
        raise unrunnable(fault)
    each = took / len(results)
    return Measured(
        rollouts=len(results),
        policy_seconds=round(loading, 3),
        setup_seconds=round(max(0.0, once - each), 3),
        seconds=round(each, 4),
        tokens=round(fmean(each.tokens for each in results), 1),
        reward=fmean(each.reward for each in results),
        outcomes=dict(Counter(each.outcome for each in results)),
        booking_seconds=round(booking, 5),
        **loaded,
    )


def _timed(rollouts: Rollouts, sweep: Sweep) -> tuple[float, list[Rollout]]:
    started = time.monotonic()
    results = rollouts.run(sweep)
    return time.monotonic() - started, results


def _booking(ledger: Ledger, rollouts: list[Rollout]) -> float:
    """Seconds of the driver for a full batch's result: to record it durably, and to read it."""
    batch = {"rollouts": [each.to_json() for each in (rollouts * BATCH)[:BATCH]]}
    started = time.monotonic()
    for number in range(BOOKED):
        recorded = ledger.record(record.batch("booked", "nobody", number), batch)
        _ = [Rollout.from_json(each) for each in recorded["rollouts"]]
    return (time.monotonic() - started) / BOOKED


def _seconds(run: Range, measured: Measured, plan: Plan) -> Range:
    """Rollouts at the handful's pace, and each agent's set-ups: for the search, and for the sealed report."""
    setups, once = Range(2, 1 + plan.generations * plan.candidates + 2), measured.policy_seconds
    setting_up, rolling = setups.times(measured.setup_seconds, once), run.times(measured.seconds)
    return Range(round(setting_up.least + rolling.least, 1), round(setting_up.most + rolling.most, 1))
