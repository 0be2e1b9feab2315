"""Plans of a denoiser: what may be chosen, what is settled, and where proposals come from."""

import json

FIELDS = {
    "output": ["roots", "rates", "0.4", "0.5", "0.6", "0.8", "1", "1.25", "1.5", "2"],
    "transform": ["sqrt", "log"],
    "components": ["10", "20", "30", "50", "100"],
    "neighbours": ["5", "10", "15", "20"],
    "decay": ["1", "2"],
    "t": ["1", "2", "3", "4"],
    "scales": ["1", "2"],
    "rank": ["0", "8", "16"],
    "own": ["0", "0.05", "0.1", "0.2"],
    "posterior": ["none", "nb"],
    "rescale": ["none", "means"],
    "clip": ["none", "seen"],
}

MAGIC = {
    "output": "roots",
    "transform": "sqrt",
    "components": "100",
    "neighbours": "5",
    "decay": "1",
    "t": "3",
    "scales": "1",
    "rank": "0",
    "own": "0",
    "posterior": "none",
    "rescale": "none",
    "clip": "none",
}

PINNED = {  # fields that are settled, whatever is proposed; one line each
    # output
    # transform
    # components
    # neighbours
    # decay
    # t
    # scales
    # rank
    # own
    # posterior
    # rescale
    # clip
}

VARIED = ["transform", "components", "neighbours", "decay", "t"]  # fields that a variation may change

CHANGED = 2  # fields in which a variation differs

SCHEMA = {
    "type": "object",
    "properties": {name: {"enum": values} for name, values in FIELDS.items()},
    "required": list(FIELDS),
    "additionalProperties": False,
}

ASK = "Plan a denoiser for {cells} cells x {genes} genes, {depth} counts a cell."


def first(instance, ctx, rng):
    """The plan that a search begins with: the policy's, or MAGIC."""
    if ctx.has_model:
        return settled(asked(instance, ctx, rng))
    return settled(MAGIC)


def further(instance, ctx, rng, best):
    """The next plan to try: another of the policy's, or a variation of the best one so far."""
    if ctx.has_model:
        return settled(asked(instance, ctx, rng))
    return varied(best, rng)


def asked(instance, ctx, rng):
    form = {"type": "json_schema", "json_schema": {"name": "plan", "schema": SCHEMA}}
    messages = [{"role": "user", "content": ASK.format(**instance.input)}]
    reply = ctx.model(messages, response_format=form, temperature=1, max_tokens=400, seed=rng.randrange(2**31))
    return json.loads(reply["choices"][0]["message"]["content"])


def varied(plan, rng):
    free = [name for name in VARIED if name not in PINNED]
    changed = rng.sample(free, min(CHANGED, len(free)))
    return settled({**plan, **{name: rng.choice(FIELDS[name]) for name in changed}})


def settled(plan):
    """The plan with every field, those that are pinned as they are pinned."""
    known = {name: plan[name] for name in FIELDS if plan.get(name) in FIELDS[name]}
    return {**MAGIC, **known, **PINNED}
