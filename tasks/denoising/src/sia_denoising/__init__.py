"""Denoising of single-cell counts: MAGIC, honest metrics, and the task that looks for something better."""
