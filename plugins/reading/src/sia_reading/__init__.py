"""Runs as they are read: the report, how rollouts ended, what came of the best answer."""
