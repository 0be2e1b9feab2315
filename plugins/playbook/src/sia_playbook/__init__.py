"""An improver that needs no language model: a bandit over the task's catalogue of edits."""
