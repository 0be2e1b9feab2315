"""Other measures: the verifier's noise, the head-room above the first harness, and the cost of a look."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from itertools import takewhile
from pathlib import Path
from statistics import fmean, variance
from typing import Any

from sia_audit.bench import FAILED, Bench, Judged, mean_seconds, said
from sia_audit.findings import Finding, Verdict
from sia_audit.separation import Separation
from sia_core.evidence import Rollout
from sia_core.run.gate import Levels, affordable
from sia_core.run.intervals import estimate
from sia_core.run.plan import Plan
from sia_core.run.power import smallest_gain
from sia_core.types import LARGEST_REWARD, Task
from sia_reading.possible import to_read

NOISE_ANSWERS = 24
NOISE_SECONDS = 15.0
SAME, OTHER, FRESH = "the same seed", "another seed", "a fresh process"

HALF_TIME = 0.5
"""From this share of a time limit on something is near it."""

TOLERANCE = 0.05
"""Noise at the same seed of less than this share of the reward's span is as with a clock; more breaks the contract."""

DISCORDANCE = 0.2
"""The share of instances on which two agents differ, as the gate takes it to be."""

SHARE_OF_NOISE = 0.1
"""Limit on noise's share of a paired difference's variance."""


def measure_noise(bench: Bench, separation: Separation, span: float) -> tuple[list[Finding], dict[str, Any]]:
    """Score the same answers again: with the same seed, with others, and in a fresh process.

    The figures tell, by what was different, the share of answers whose score changed and the
    standard deviation of a score; ``repeats`` is how often the gate would want an answer scored.
    """
    good = separation.good.judged if separation.good else []
    usable = [each for pair in _interleaved(good, separation.seed.judged) for each in pair if each.outcome != FAILED]
    once = max(1e-4, mean_seconds(usable))
    sample = usable[: max(4, min(NOISE_ANSWERS, int(NOISE_SECONDS / once / 5)))]
    if not sample:
        return [Finding("noise", "the same answers again", "look", "there is no answer to score again")], {}
    again = {SAME: [""] * 2, OTHER: ["again/1", "again/2"], FRESH: [""]}
    scores: dict[str, list[list[float]]] = {}
    for what, salts in again.items():
        if what == FRESH:
            bench.renew_verifier()
        scores[what] = [
            [first.reward, *(bench.judge(first.instance, first.answer, salt).reward for salt in salts)]
            for first in sample
        ]
    deviation = {what: _deviation(rows) for what, rows in scores.items()}
    most = max(deviation.values())
    noisy = min(most / span, LARGEST_REWARD) if span > 0 else 0.0
    repeats = math.ceil(2 * noisy**2 / (SHARE_OF_NOISE * DISCORDANCE))
    figures = {
        "answers": len(sample),
        "times": sum(map(len, again.values())),
        "changed": {what: fmean(len(set(each)) > 1 for each in rows) for what, rows in scores.items()},
        "deviation": deviation,
        "repeats": max(1, repeats),
    }
    return [_of_noise(figures, span)], figures


def _interleaved(one: Sequence[Judged], other: Sequence[Judged]) -> list[Sequence[Judged]]:
    """Slices of length one of both, in turns."""
    longest = max(len(one), len(other))
    return [(*one[at : at + 1], *other[at : at + 1]) for at in range(longest)]


def _deviation(rows: Sequence[Sequence[float]]) -> float:
    """Of a score around its answer's mean, from a few scores each."""
    return math.sqrt(fmean(map(variance, rows)))


def _of_noise(noise: dict[str, Any], span: float) -> Finding:
    about = "the same answers again"
    changed, deviation = noise["changed"], noise["deviation"]
    if not any(changed.values()):
        same = f"{noise['answers']} answers, scored {noise['times']} times more: no score changed"
        return Finding("noise", about, "ok", same)
    parts = ", ".join(f"{share:.0%} with {what} (sd {deviation[what]:.3g})" for what, share in changed.items() if share)
    wants = f"a gate would want each answer scored {noise['repeats']} times"
    if max(deviation[SAME], deviation[FRESH]) > TOLERANCE * span:
        return Finding(
            "noise", about, "bad",
            f"scores changed: {parts}. The same input must give the same score, or no run can be repeated; {wants}",
        )  # fmt: skip
    return Finding("noise", about, "look", f"scores changed: {parts}; {wants}")


def judge_headroom(bench: Bench, separation: Separation, plan: Plan) -> tuple[list[Finding], dict[str, Any]]:
    """Whether there is something to gain, and whether the gate would see it."""
    metric, failure, bounds = bench.task.metric, bench.failure, bench.task.metric.reward_bounds
    mean = estimate(_rewards(bench, separation))
    best = max((group.mean for group in separation.groups), default=failure)
    upper = bounds[1] if bounds else best
    gate, span = len(bench.samples.gate), (bounds[1] - bounds[0]) if bounds else 1.0
    allowed = affordable(plan.comparisons, gate)
    sees = smallest_gain(gate, Levels(plan.comparisons, gate, plan.earned or 0.0).level(0)) * span
    room = upper - mean.value
    first_harness = to_read(metric.direction, asdict(mean), metric.bounds)
    figures = {"first_harness": first_harness, "upper": metric.reward(upper), "bounded": bounds is not None,
               "best_class": metric.reward(best), "room": room, "gate": gate, "comparisons": allowed,
               "smallest_gain": sees}  # fmt: skip
    low, high = first_harness["ci95"]
    first = f"the first harness earns {first_harness['value']:.3f} [{low:.3f}, {high:.3f}] on {mean.n} of search"
    ends = "at least" if metric.direction == "minimize" else "at most"
    what = f"{ends} {metric.reward(upper):g}" if bounds else f"{metric.reward(upper):.3f}, the best class seen,"
    says = f"{first}, {what} can be had: {room:.3f} to gain"
    gate_says = f"with {gate} instances and {allowed} comparisons the gate sees a gain of {sees:.3f} or more"
    if not bounds:
        gate_says = f"the rewards have no bounds, so the gate counts wins on {gate} instances; give the metric bounds"
        return [Finding("head-room", "to gain", "look" if room <= 0 else "ok", says),
                Finding("head-room", "the gate", "look", gate_says)], figures  # fmt: skip
    little: Verdict = "bad" if room <= 0.001 * span else "look" if room < 0.05 * span else "ok"
    return [
        Finding("head-room", "to gain", little, says),
        Finding("head-room", "the gate", "bad" if sees >= room else "look" if sees >= room / 2 else "ok", gate_says),
    ], figures


def _rewards(bench: Bench, separation: Separation) -> list[float]:
    """The first harness's, up to the first answer that was not put before the verifier."""
    judged = {each.instance.id: each.reward for each in separation.seed.judged}
    prefix = takewhile(lambda each: each.answer is None or each.instance.id in judged, bench.tried)
    return [judged.get(each.instance.id, bench.failure) for each in prefix]


def judge_cost(bench: Bench, separation: Separation, plan: Plan) -> tuple[list[Finding], dict[str, Any]]:
    """The cost of one look at an agent and of the final report, by measurements on this machine."""
    judged = [each for group in (separation.seed, separation.good) if group for each in group.judged]
    verification, rollout = mean_seconds(judged), bench.rollout_seconds
    look, report = bench.samples.look().rollouts, 2 * len(bench.samples.sealed)
    # While one batch is verified the next is rolled out.
    seconds = [bench.setup_seconds + look * max(rollout, verification)]
    seconds.append(2 * bench.setup_seconds + report * max(rollout, verification))
    tokens = fmean(each.tokens for each in bench.tried)
    disk = _bytes_of(bench)
    figures = {
        "sandbox": bench.sandbox, "cores": os.cpu_count(), "verifier_start_seconds": bench.start_seconds,
        "setup_seconds": bench.setup_seconds, "rollout_seconds": rollout,
        "solve_seconds": fmean(each.seconds for each in bench.tried), "verification_seconds": verification,
        "tokens": tokens, "look": {"rollouts": look, "seconds": seconds[0], "tokens": look * tokens},
        "report": {"rollouts": report, "seconds": seconds[1], "tokens": report * tokens},
        "run": {"looks": 1 + plan.comparisons, "seconds": (1 + plan.comparisons) * seconds[0] + seconds[1]},
        "disk": {**disk, "look_bytes": look * disk["rollout_bytes"], "free_bytes": shutil.disk_usage(".").free},
    }  # fmt: skip
    return _of_cost(bench.task, bench, figures), figures


def _bytes_of(bench: Bench) -> dict[str, int]:
    """Bytes of a rollout in a ledger, and of the folders that a run reads."""
    records = [
        Rollout(each.instance.id, each.outcome, 0.0, each.answer, each.message, "", each.log, each.seconds).to_json()
        for each in bench.tried
    ]
    public = [path.stat().st_size for path in Path(bench.task.public_dir(("public",))).rglob("*") if path.is_file()]
    return {
        "rollout_bytes": round(fmean(len(json.dumps(each)) for each in records)),
        "public_bytes": sum(public),
        "harness_bytes": sum(map(len, bench.task.seed_harness().files.values())),
    }


def _of_cost(task: Task, bench: Bench, figures: dict[str, Any]) -> list[Finding]:
    setup, rollout = figures["setup_seconds"], figures["rollout_seconds"]
    once = (
        f"set-up {_time(setup)}, a rollout {_time(rollout)} ({figures['cores']} cores, sandbox {bench.sandbox}), "
        f"a verification {_time(figures['verification_seconds'])}"
    )
    if figures["tokens"]:
        once += f", {figures['tokens']:,.0f} tokens of the policy a rollout"
    slowest = max(each.seconds for each in bench.tried)
    slow = slowest > HALF_TIME * task.limits.solve_seconds or setup > HALF_TIME * task.limits.setup_seconds
    if slow:
        once += f"; the slowest took {_time(slowest)} of {_time(task.limits.solve_seconds)} that it may"
    look, report, run, disk = (figures[name] for name in ("look", "report", "run", "disk"))
    a_look = (
        f"{look['rollouts']:,} rollouts and as many verifications, about {_time(look['seconds'])}, "
        f"{_size(disk['look_bytes'])} of ledger"
    )
    a_run = (
        f"the final report is at least {report['rollouts']:,} rollouts, about {_time(report['seconds'])}; "
        f"with {run['looks']} looks a run takes about {_time(run['seconds'])}, if every harness is as fast as the first"
    )
    return [
        Finding("cost", "one rollout", "look" if slow else "ok", once),
        *judge_failures(bench),
        Finding("cost", "one look", "ok", a_look),
        Finding("cost", "a run", "ok", a_run),
    ]


def judge_failures(bench: Bench) -> list[Finding]:
    """Rollouts of the first harness that gave no answer, or one that says nothing, if there are any."""
    broken = [each for each in bench.tried if each.outcome != "ok"]
    if not broken:
        null = all((each.answer or "null").strip() == "null" for each in bench.tried)
        says = f"all {len(bench.tried)} answers of the first harness are null: its solve returned None"
        return [Finding("cost", "failures", "bad", says)] if null else []
    says = f"{len(broken)} of {len(bench.tried)} rollouts of the first harness gave no answer: {broken[0].outcome}"
    everyone = len(broken) == len(bench.tried)
    return [Finding("cost", "failures", "bad" if everyone else "look", f"{says}: {said(broken[0].message)}")]


def _time(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1000:.2g} ms" if seconds < 0.1 else f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _size(count: float) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"
