"""Messages between the system's and the question: none."""


def load(public):
    return []
