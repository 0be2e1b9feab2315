"""Isolation for code that a model wrote: sandboxes, and the worker that solves instances in one."""

from sia_core.sandbox.choosing import Examined, choose, examine
from sia_core.sandbox.worker import HarnessWorker, SolveRequest, SolveResult

__all__ = ["Examined", "HarnessWorker", "SolveRequest", "SolveResult", "choose", "examine"]
