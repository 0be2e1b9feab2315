"""The messages that the model is sent."""

import about

SYSTEM = about.ASKS


def messages(question, shown):
    return [{"role": "system", "content": SYSTEM}, *shown, {"role": "user", "content": question}]
