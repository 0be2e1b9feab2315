"""A model that improves the example of sums by script: it looks, edits twice, and stops."""

from __future__ import annotations

from sia_testing.model_server import Asked, Turn, Use

LAST = "    return None"
WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]


def learn(operation: str, sign: str) -> Use:
    """An edit that teaches the example's agent an operation."""
    new = f'    if operation == "{operation}":\n        return a {sign} b\n{LAST}'
    return Use("replace_text", {"path": "harness.py", "old": LAST, "new": new})


def decided(name: str, gain: float) -> Use:
    """A decision for the working copy."""
    prediction = {"gain": gain, "where": f"sums that say {name}"}
    change = {"lever": "harness", "name": name, "reason": f"nothing knows {name} yet", "prediction": prediction}
    return Use("decide", {"changes": [change]})


STOP = Use("decide", {"changes": [{"lever": "stop", "reason": "it knows every operation"}]})

SCRIPT = [
    Turn("I look first.", [Use("read_file", {"path": "harness.py"}), Use("failures")]),
    Turn(uses=[learn("minus", "-"), Use("check")]),
    Turn(uses=[decided("minus", 0.3)]),
    Turn(uses=[Use("earlier_decision", {"generation": 0})]),
    Turn(uses=[learn("times", "*")]),
    Turn(uses=[decided("times", 0.4)]),
    Turn(uses=[STOP]),
]
"""Three replies a decision, and a stop."""


def first_message(request: Asked) -> str:
    """A conversation's first message, in either protocol."""
    first = request.body["messages"][1 if request.body["messages"][0]["role"] == "system" else 0]
    text: str = first["content"] if isinstance(first["content"], str) else first["content"][0]["text"]
    return text


def play(request: Asked) -> Turn:
    """The reply that a conversation is at: which one it is and how far it has come, its messages say."""
    start = 3 * int(first_message(request).split(".")[0].split()[1])
    return SCRIPT[start + sum(message["role"] == "assistant" for message in request.body["messages"])]
