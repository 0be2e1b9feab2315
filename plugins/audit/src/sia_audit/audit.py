"""The whole audit of a task, one look after another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

from sia_audit.bench import opened
from sia_audit.cheats import judge_cheats, try_cheats
from sia_audit.findings import Audit
from sia_audit.leaks import look_for_leaks
from sia_audit.measures import judge_cost, judge_headroom, measure_noise
from sia_audit.separation import judge_separation, separate
from sia_cli.notices import notices
from sia_core.plugins import Plugins
from sia_core.run.plan import Plan
from sia_core.run.start import Config


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
        bounds, failure = task.metric.reward_bounds, bench.failure
        findings = judge_separation(separation, failure, bounds[1] if bounds else None, task.metric)
        best = separation.good.mean if separation.good else failure
        span = bounds[1] - bounds[0] if bounds else best - failure
        tell("trying to earn more with worse answers")
        cheats = try_cheats(bench)
        findings += judge_cheats(cheats, task.metric)
        tell("scoring the same answers again")
        noise, noise_figures = measure_noise(bench, separation, span)
        headroom, headroom_figures = judge_headroom(bench, separation, plan)
        cost, cost_figures = judge_cost(bench, separation, plan)
    tell("comparing the inputs of gate and sealed with all that a harness can read")
    leaks, leak_figures = look_for_leaks(task)
    figures = {
        "notices": notices(task),
        "metric": {"name": task.metric.name, "direction": task.metric.direction},
        "separation": [group.to_json(task.metric) for group in separation.groups],
        "cheats": [asdict(each) for each in cheats],
        "noise": noise_figures,
        "head_room": headroom_figures,
        "leaks": leak_figures,
        "cost": cost_figures,
    }
    return Audit(task.name, [*findings, *noise, *headroom, *leaks, *cost], figures)
