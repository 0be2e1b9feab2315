"""Isolation for code that a model wrote: sandboxes, and the worker that solves instances in one."""
