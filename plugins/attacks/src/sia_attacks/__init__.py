"""Hostile harnesses, one file each, and what runs them against a sandbox by the road that a run takes."""
