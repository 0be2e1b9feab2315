"""The messages that the model is sent."""

SYSTEM = "Answer the question."


def messages(question, shown):
    return [{"role": "system", "content": SYSTEM}, *shown, {"role": "user", "content": question}]
