"""``sia audit``: whether a task is worth spending on, before anything is spent."""

from __future__ import annotations

from collections.abc import Callable

from sia_core.audit.bench import opened
from sia_core.audit.findings import Audit, Finding, Verdict
from sia_core.audit.leaks import look_for_leaks
from sia_core.audit.measures import judge_cost, judge_headroom, measure_noise
from sia_core.audit.separation import judge_separation, separate
from sia_core.plan import Plan
from sia_core.plugins import Plugins
from sia_core.running import Config

__all__ = ["Audit", "Finding", "Verdict", "audit"]


def audit(config: Config, plugins: Plugins, tell: Callable[[str], object]) -> Audit:
    """Look at a task in every way. ``tell`` hears what is being done; nothing is left on disk.

    Asked about are ``public`` and ``search`` alone. Of ``gate`` and ``sealed`` the inputs
    are compared with what a harness can read; no label of them is.
    """
    plan = Plan(seed=config.plan.seed)  # what a run would do by default
    tell("starting the verifier and the sandbox")
    with opened(config, plugins) as bench:
        task = bench.task
        tell("rolling the first harness out")
        bench.roll_out()
        tell("asking the verifier about good, empty, constant, random and hostile answers")
        separation = separate(bench)
        bounds, failure = task.metric.bounds, task.failure_reward
        findings = judge_separation(separation, failure, bounds[1] if bounds else None)
        best = separation.good.mean if separation.good else failure
        span = bounds[1] - bounds[0] if bounds else best - failure
        tell("scoring the same answers again")
        noise, noise_figures = measure_noise(bench, separation, span)
        headroom, headroom_figures = judge_headroom(bench, separation, plan)
        cost, cost_figures = judge_cost(bench, separation, plan)
    tell("comparing the inputs of gate and sealed with all that a harness can read")
    leaks, leak_figures = look_for_leaks(task)
    figures = {
        "separation": [group.to_json() for group in separation.groups],
        "noise": noise_figures,
        "head_room": headroom_figures,
        "leaks": leak_figures,
        "cost": cost_figures,
    }
    return Audit(task.name, [*findings, *noise, *headroom, *leaks, *cost], figures)
