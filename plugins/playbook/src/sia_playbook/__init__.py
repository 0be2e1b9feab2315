"""An improver that needs no language model: a bandit over a task's catalogue of edits and weight updates."""
