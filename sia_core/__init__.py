"""SIA: an AI agent that improves itself at a task, by harness edits and by weight updates."""

__version__ = "0.1.0"
