"""Asks for plans, renders each into a kernel, has it evaluated, and returns the best."""

import json
import random

import plans
from renderer import render

PROMPT = "Name a plan for a fast kernel."


def solve(instance, ctx):
    rng = random.Random(ctx.seed)
    best, reward = answer(propose(ctx, rng)), None
    proposal = best
    while ctx.evaluations:
        score = ctx.evaluate(proposal)
        if score.valid and (reward is None or score.reward > reward):
            best, reward = proposal, score.reward
        proposal = answer(following(best, reward, instance, ctx, rng))
    return best


def following(best, reward, instance, ctx, rng):
    """The plan to evaluate next."""
    return propose(ctx, rng)


def propose(ctx, rng):
    """A plan as the policy names it; without a policy, any."""
    if not ctx.has_model:
        return plans.random_plan(rng)
    reply = ctx.model(
        [{"role": "user", "content": PROMPT}],
        response_format={"type": "json_schema", "json_schema": {"name": "plan", "schema": plans.schema()}},
        temperature=1,
        max_tokens=512,
        seed=rng.randrange(2**31),
    )
    return json.loads(reply["choices"][0]["message"]["content"]) | plans.PINNED


def answer(plan):
    return {"code": render(plan), "plan": plan}
