"""Figures of a run, as reports, tables and progress displays write them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sia_core.run.power import smallest_gain

EXAMPLE = 160
"""Characters of an error's message in a line."""


def made_of(about: Mapping[str, Any]) -> str:
    """The parts of a run in a line: its task, verifier, levers, policy, improver, seed and budget."""
    budget = ", ".join(f"{kind}={amount:,.12g}" for kind, amount in about["budget"].items()) or "unlimited"
    verifier = about["verifier"] or "the task's"
    return (
        f"task {about['task']}, verifier {verifier}, levers {'+'.join(about['levers'])}, policy "
        f"{about['policy'] or 'none'}, improver {about['improver']}, seed {about['seed']}, budget {budget}"
    )


def sees(gate: Mapping[str, Any]) -> str:
    """The smallest gain that the gate sees, and how many more instances would halve it."""
    if gate.get("gains"):
        return _gains(gate)
    halves = f"; {gate['to_halve']:,} more instances would halve that" if gate.get("to_halve") else ""
    if gate.get("wins"):
        return f"with 80% power it sees who wins {gate['smallest_gain']:.0%} more of them than it loses{halves}"
    return f"with 80% power it sees a gain of {gate['smallest_gain']:.3f} or more{halves}"


def _gains(gate: Mapping[str, Any]) -> str:
    """The smallest gains by how often two agents differ, now and after a promotion."""
    n, level = gate["n"], gate["level"]
    gains = [each for each in gate["gains"] if smallest_gain(n, level, each["differ"]) <= each["differ"]]
    shares = [f"{each['differ']:.0%}" for each in gains]
    digits = ".0%" if gate["wins"] else ".3f"
    now, after = ([format(each[when], digits) for each in gains] for when in ("now", "after"))
    won = " (of instances won, less those lost)" if gate["wins"] else ""
    halves = f"; {gate['to_halve']:,} more instances would halve that" if gate.get("to_halve") else ""
    times = {1: "once", 2: "twice"}.get(gate["comparisons"], f"{gate['comparisons']} times")
    few = f"; it is asked {times} at most before a promotion" if gate["comparisons"] <= 3 else ""
    if gains:
        reach = f"a gain of {listed(now)}{won} where two agents differ on {listed(shares)} of them, "
        reach += f"and of {listed(after)} after a promotion"
    else:  # of so few instances each would have to be won
        most = gate["gains"][-1]["differ"]
        reach = (
            f"a gain of {gate['smallest_gain']:{digits}}{won}, and none where two agents differ on {most:.0%} of them"
        )
    return f"with 80% power it sees {reach}{halves}{few}"


def listed(words: Sequence[str]) -> str:
    """Several words with an "or" before the last."""
    return f"{', '.join(words[:-1])} or {words[-1]}" if len(words) > 1 else "".join(words)


def held_out(about: Mapping[str, Any]) -> str:
    """How many search instances estimate agents and are not trained on; nothing where nothing is trained."""
    size, training = about.get("held_out", 0), about.get("training", 0)
    if not size:
        return ""
    few = f": so few can be off by {1 / size**0.5:.0%} of the reward's range" if size < 64 else ""
    return f"Agents are estimated on {size:,} of {size + training:,} search instances, which no update trains on{few}."


def mark(outcome: str) -> tuple[str, str]:
    """A candidate's outcome as its verdict and the colour of that."""
    word = {"promoted": "accepted", "screened": "screened out"}.get(outcome, "rejected")
    return word, {"accepted": "green", "rejected": "red"}.get(word, "")


def better(metric: Mapping[str, Any]) -> str:
    """The hint that lower is better, for readers of a metric's values; nothing where more is better."""
    return f"{metric['name']}: lower is better" if metric.get("direction") == "minimize" else ""


_ENDED = {
    "crash": "crashed",
    "setup-crash": "crashed in the set-up",
    "timeout": "timed out",
    "setup-timeout": "timed out in the set-up",
    "memory": "ran out of memory",
    "killed": "were killed",
    "invalid-answer": "gave an invalid answer",
    "not-json": "gave an answer that is no JSON",
    "answer-too-large": "gave too large an answer",
    "out-of-bounds": "earned what the metric's bounds do not hold",
}


def ended(summary: Mapping[str, Any]) -> str:
    """How an agent's rollouts ended, in a line."""
    total, null = summary["rollouts"], summary["null"]
    parts = []
    for each in summary["failed"]:
        share = f"all {total:,}" if each["count"] == total else f"{each['count']:,} of {total:,}"
        example = " ".join(each["example"].strip().partition("\n")[0].split())
        example = f": {example[:EXAMPLE]}{' ...' if len(example) > EXAMPLE else ''}" if example else ""
        parts.append(f"{share} {_ENDED.get(each['outcome'], 'ended as ' + each['outcome'])}{example}")
    if null:
        parts.append("all answers were null" if null == total else f"{null:,} of {total:,} answers were null")
    return "; ".join(parts) or f"all {total:,} gave an answer"


def useless(summary: Mapping[str, Any]) -> bool:
    """Whether no rollout of an agent gave an answer that says anything."""
    return bool(summary["null"] + sum(each["count"] for each in summary["failed"]) == summary["rollouts"])


def narrow(row: Mapping[str, Any]) -> str:
    """That the first agent's rewards use little of the metric's bounds."""
    low, high = row["bounds"]
    return (
        f"rewards use {100 * row['share']:.2g}% of their range ({row['low']:.4g} to {row['high']:.4g} of {low:g} "
        f"to {high:g}); with bounds closer to what is possible the gate sees smaller gains"
    )


def interval(value: Mapping[str, Any] | None, sign: str = "") -> str:
    """A figure with its interval, in one cell; nothing where there is none yet."""
    if not value:
        return ""
    return "{0:{3}.4f} [{1:{3}.4f}, {2:{3}.4f}]".format(value["value"], *value["ci95"], sign)
