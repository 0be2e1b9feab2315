"""The distributions that are released with SIA, and their offers: a remedy names no other distribution."""

from __future__ import annotations

from collections.abc import Mapping

RELEASED: Mapping[str, tuple[str, ...]] = {
    "sia-adapters": (),
    "sia-algorithms": (
        "algorithm best-of-n",
        "algorithm dpo",
        "algorithm entropic",
        "algorithm grpo",
        "algorithm ppo",
        "algorithm reinforce",
    ),
    "sia-attacks": (),
    "sia-audit": (),
    "sia-bundled": (
        "task gpqa",
        "task longcot-chess",
        "task spaceship-titanic",
        "verifier gpqa",
        "verifier longcot-chess",
        "verifier spaceship-titanic",
    ),
    "sia-claude": ("improver claude",),
    "sia-cli": (),
    "sia-compare": (),
    "sia-core": ("lever harness",),
    "sia-dashboard": ("view dashboard",),
    "sia-denoising": ("task denoising", "verifier denoising"),
    "sia-deploy": (),
    "sia-lawbench": ("task lawbench", "verifier lawbench"),
    "sia-litellm": ("engine litellm", "improver litellm"),
    "sia-llm": ("improver command",),
    "sia-modal": ("backend modal",),
    "sia-playbook": (
        "improver best-of-n",
        "improver fixed-alternation",
        "improver learned",
        "improver playbook",
        "improver random-choice",
    ),
    "sia-ray": ("backend ray",),
    "sia-reading": (),
    "sia-reasoning": ("task reasoning", "verifier reasoning"),
    "sia-released": ("task folder", "verifier evaluate"),
    "sia-runtime": (
        "backend local",
        "sandbox bwrap",
        "sandbox docker",
        "sandbox namespaces",
        "sandbox process",
        "task cases",
        "verifier command",
        "verifier exact",
        "verifier numeric",
        "verifier python",
    ),
    "sia-testing": (),
    "sia-tinker": ("engine tinker",),
    "sia-torch": ("engine torch",),
    "sia-trackers": ("tracker tensorboard", "tracker trackio", "tracker wandb"),
    "sia-trimul": ("task trimul", "verifier trimul", "verifier trimul-cuda"),
    "sia-vllm": ("engine vllm",),
    "sia-weights": ("lever weights",),
}
"""The offers of each distribution, as ``kind name``. Data alone: nothing here is imported for being listed."""


def distributions_of(kind: str, name: str) -> list[str]:
    """The released distribution that has an offer, in a list; empty where there is none."""
    return [each for each, offers in RELEASED.items() if f"{kind} {name}" in offers]


def names_of(kind: str) -> list[str]:
    """The names of all released offers of a kind."""
    offers = (offer.split(" ", 1) for each in RELEASED.values() for offer in each)
    return [name for other, name in offers if other == kind]
