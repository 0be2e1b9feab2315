"""Names the colour that a sentence hints at: the run's policy reads the sentence and chooses."""

COLOURS = ["red", "green", "blue", "black"]


def solve(instance, ctx):
    if not ctx.has_model:
        return COLOURS[0]
    messages = [{"role": "user", "content": instance.input["text"]}]
    reply = ctx.model(messages, choices=COLOURS, temperature=0, max_tokens=8)
    return reply["choices"][0]["message"]["content"]
