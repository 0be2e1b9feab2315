"""Proposes plans of a denoiser, renders them as modules, has them evaluated, and returns the best."""

import random
from pathlib import Path

import plans

STAGES = (Path(__file__).parent / "stages.py").read_text(encoding="utf-8")


def solve(instance, ctx):
    rng = random.Random(ctx.seed)
    best = plan = plans.first(instance, ctx, rng)
    reward = None
    while ctx.evaluations:
        seen = ctx.evaluate(render(plan))
        if reward is None or seen.reward > reward:
            best, reward = plan, seen.reward
        if ctx.evaluations:
            plan = plans.further(instance, ctx, rng, best)
    return render(best)


def render(plan):
    """The answer that a plan stands for: the stages, with the plan written into them."""
    lines = "".join(f"    {name!r}: {value!r},\n" for name, value in plan.items())
    return {"code": STAGES.replace("PLAN = {}", "PLAN = {\n" + lines + "}", 1), "plan": plan}
