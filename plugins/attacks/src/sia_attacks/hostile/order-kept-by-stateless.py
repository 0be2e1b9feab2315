"""Declares itself stateless, keeps what it has seen all the same, and answers with that."""

STATELESS = True
INSTANCES = 6
SEEN = []


def solve(instance, ctx):
    SEEN.append(instance.input)
    ctx.log.info("seen %d", len(SEEN))
    return [len(SEEN), SEEN[0]]
