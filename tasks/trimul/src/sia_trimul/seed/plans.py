"""Plans: what a policy is asked for, any, and variations of one."""

from fields import FIELDS

PINNED = {}
"""Fields that the policy is not asked for."""


def schema():
    """The JSON schema of the policy's reply."""
    free = {name: {"enum": values} for name, values in FIELDS.items() if name not in PINNED}
    return {"type": "object", "properties": free, "required": list(free), "additionalProperties": False}


def random_plan(rng):
    return {name: rng.choice(values) for name, values in FIELDS.items()} | PINNED


def mutated(plan, rng, changes=1):
    """The plan with a few fields changed to something else."""
    changed = dict(plan)
    for name in rng.sample([name for name in FIELDS if name not in PINNED], changes):
        changed[name] = rng.choice([value for value in FIELDS[name] if value != plan[name]])
    return changed
