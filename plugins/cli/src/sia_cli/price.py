"""Output of ``sia run --dry-run``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sia_cli.figures import held_out, sees
from sia_cli.output import console, plain


def print_price(price: Mapping[str, Any]) -> None:
    """The price of a run for people."""
    out, rollouts, measured = console(), price[price["unit"]], price["measured"]
    gate, report = price["gate"], rollouts["report"]
    out.print(plain((price["task"], "bold"), f": all checks passed; sandbox {price['sandbox']}. Nothing was started."))
    if price["sandbox_lacks"]:
        out.print(plain((f"This sandbox does not guarantee: {', '.join(price['sandbox_lacks'])}.", "yellow")))
    for notice in price["notices"]:
        out.print(plain((" ".join(notice.split()), "yellow")), soft_wrap=True)
    times = f", each asked {price['repeats']} times" if price["repeats"] > 1 else ""
    out.print(f"The gate has {gate['n']:,} instances{times}; {sees(gate)}.")
    if line := held_out(gate):
        out.print(line)
    if price["unit"] == "rollouts":
        out.print("Rollouts, each of which may be verified:")
    else:
        out.print("Answers to verify, those of rollouts and those that they have evaluated:")
    out.print(f"  first agent    {rollouts['first_agent']:,}")
    update = f", and an update {rollouts['update']:,} more by default" if rollouts["update"] else ""
    out.print(
        f"  candidate      at most {rollouts['candidate']['most']:,}; one that loses is stopped early{update}; "
        f"at most {rollouts['candidates']:,} candidates"
    )
    out.print(f"  sealed report  {report['least']:,}, or {report['most']:,} where something was promoted")
    out.print(
        f"  robustness     at most {rollouts['robustness']['most']:,}; what does not fit into a budget is left out"
    )
    out.print(f"  whole run      {_between(rollouts['run'])}")
    tokens = f" and {measured['tokens']:,.0f} tokens" if price["tokens"] else ""
    load = f"{measured['policy_seconds']:.1f} s to load the policy, " if price["tokens"] else ""
    seed = (
        f"{measured['setup_seconds']:.1f} s to set the seed harness up, {measured['seconds']:.3f} s{tokens} a rollout"
    )
    intro = f"Measured on {measured['rollouts']} search instances: {load}{seed}. If every agent is like it, and beside"
    out.print(f"{intro} what optimising takes:", soft_wrap=True)
    if measured["memory"] and rollouts["update"]:
        out.print(f"  {'memory':14} {measured['memory'] / 2**30:,.1f} GiB at most, while the policy is trained")
    for kind in ("seconds", "tokens"):
        if amounts := price[kind]:
            out.print(f"  {kind:14} {_between(amounts)}")
            if price["budget"].get(kind, amounts["least"]) < amounts["least"]:
                out.print(plain((f"  --budget {kind}={price['budget'][kind]:g} does not cover the least.", "yellow")))


def _between(amounts: Mapping[str, float]) -> str:
    return f"{amounts['least']:,.0f} to {amounts['most']:,.0f}"
