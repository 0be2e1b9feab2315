"""The weight lever in words: the policy, how its rewards are distributed, what can train it, and past updates."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sia_core.evidence import AlgorithmView, Evidence, RewardStats, Trial
from sia_llm.earlier import measured, numbered
from sia_weights.selection import verdict

_TIMES = ((10, "under 10 seconds"), (60, "under a minute"), (600, "under 10 minutes"), (3600, "under an hour"))
"""Times so coarse that a recorded run asks the same again."""


def weight_lever(evidence: Evidence) -> str:
    """All that a decision about the weights rests on."""
    if evidence.weights and evidence.weights.refused:
        return f"It cannot be pulled: {evidence.weights.refused}."
    incumbent = evidence.agents[evidence.incumbent]
    if incumbent.exploration is None:
        return "The incumbent was not explored."
    about = evidence.about["weights"].data if "weights" in evidence.about else {}
    parts = [_policy(about.get("policy", {}))] if about.get("policy") else []
    parts.append(f"The incumbent at the training temperature: {in_words(incumbent.exploration)}")
    holds = verdict(incumbent.exploration, [each.name for each in evidence.algorithms])
    parts += [f"The table of algorithms advises {holds}."] if holds else []
    parts.append("Updates train on search instances outside of the sample, so they learn none of the sample by heart.")
    parts += [_algorithm(each, evidence.incumbent) for each in evidence.algorithms]
    trials = dict(numbered(evidence.trials))
    if updates := about.get("updates", ()):
        lines = [_update(each, trials[each["decision"]]) for each in updates]
        parts.append("\n".join(["Updates so far:", *lines]))
    return "\n\n".join(parts)


def in_words(stats: RewardStats) -> str:
    """Statistics in words; of how many rollouts earned the most, only where that is a success."""
    parts = [f"{stats.rollouts} rollouts of {stats.instances} instances, mean reward {stats.mean:.4f}"]
    if stats.binary:
        parts.append(f"{stats.success_rate:.1%} right")
    else:
        parts.append(f"standard deviation {stats.deviation:.4f}")
        parts.append(f"{stats.density:.1%} earned anything but a failure's reward")
    if stats.flat_groups is not None:
        parts.append(
            f"of the groups of {stats.group_size:g} rollouts of one instance, {stats.flat_groups:.1%} earned the same "
            f"throughout, and {stats.silent_groups:.1%} never more than a failure (pass@{stats.group_size:g} is "
            f"{1 - stats.silent_groups:.1%})"
        )
    if stats.kl_to_base is not None:
        parts.append(f"KL to the base {stats.kl_to_base:.4f} nats per token")
    return "; ".join(parts) + "."


def _policy(about: Mapping[str, Any]) -> str:
    """The policy's name, and what its engine knows of it."""
    facts = []
    if about.get("parameters"):
        trained = f", of which {about['trained_parameters']:,} are trained" if about.get("trained_parameters") else ""
        facts.append(f"{about['parameters']:,} parameters{trained}")
    if about.get("context"):
        facts.append(f"a context of {about['context']:,} tokens, prompt and reply together")
    if "pretrained" in about:
        facts.append("pretrained" if about["pretrained"] else "not pretrained: it began with random weights")
    return f"The policy is {about['name']}{': ' if facts else ''}{'; '.join(facts)}."


def _algorithm(view: AlgorithmView, agent: str) -> str:
    objections, training, cost = view.objections.get(agent, ()), view.training.get(agent), view.costs.get(agent)
    parts = [f"- {view.name}: {view.summary}."]
    parts += [f"  It would learn nothing here: {'; '.join(objections)}."] if objections else []
    if training:
        parts.append(f"  It advises {json.dumps(training.model_dump(exclude_none=True), sort_keys=True)}.")
    if cost:
        parts.append(f"  That takes about {cost['rollouts']:,.0f} rollouts and {_round(cost['tokens']):,.0f} tokens.")
    return "\n".join(parts)


def _update(update: Mapping[str, Any], trial: Trial) -> str:
    """A past update in a line, with what came of it."""
    training = update["training"]
    fields = {name: value for name, value in training.items() if name in _MAIN and value is not None}
    settings = json.dumps({**fields, **update["config"]}, sort_keys=True)
    rewards = " ".join(f"{each:.3f}" for each in update["rewards"])
    most = update["moved"]
    moved = "" if most is None else f"; KL of a step at most {most:.2g} nats per token"
    return (
        f"- {update['decision']} {trial.algorithm} on agent {trial.parent}: {update['steps']} of {training['steps']} "
        f"steps of {training['prompts']} prompts x {training['group']} rollouts, {settings}; mean reward in training, "
        f"at steps from the first to the last: {rewards}{moved}; {_time(update['seconds'])}. Change on the search "
        f"sample: {measured(trial)}; {trial.outcome}."
    )


_MAIN = ("learning_rate", "minibatch", "max_kl", "distinct")


def _time(seconds: float) -> str:
    return next((words for most, words in _TIMES if seconds < most), "an hour or more")


def _round(number: float) -> float:
    """To two digits: the rest is of no use, and would differ from machine to machine."""
    return float(f"{number:.2g}")
