"""Looks at squares that the policy names, or at random ones, and returns the highest."""

import random

NAMES = [f"{column:02} {row:02}" for column in range(0, 32, 4) for row in range(0, 32, 4)]
LOOKS = 8  # squares named before the search goes on around the best of them


def named(ctx, rng):
    if not ctx.has_model:
        return {"column": rng.randrange(32), "row": rng.randrange(32)}
    messages = [{"role": "user", "content": "Where is the peak?"}]
    reply = ctx.model(messages, choices=NAMES, temperature=1, max_tokens=8)
    column, row = reply["choices"][0]["message"]["content"].split()
    return {"column": int(column), "row": int(row)}


def near(square, rng):
    return {axis: min(31, max(0, place + rng.randint(-3, 3))) for axis, place in square.items()}


def solve(instance, ctx):
    rng = random.Random(ctx.seed)
    best, height, looks = named(ctx, rng), None, 0
    square = best
    while ctx.evaluations:
        reading = ctx.evaluate(square)
        looks += 1
        if height is None or reading.reward > height:
            best, height = square, reading.reward
        square = named(ctx, rng) if looks < LOOKS else near(best, rng)
    return best
