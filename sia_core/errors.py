"""The core's exceptions. Few, and each says what is wrong, where, and what to do next."""

from __future__ import annotations


class SiaError(Exception):
    """Anything that a user can understand and act on. The CLI prints it and exits with ``exit_code``."""

    exit_code = 1


class UsageError(SiaError):
    """The user's input cannot be used as it is: unknown names, malformed or missing files, bad options."""

    exit_code = 2


class PluginError(UsageError):
    """A plugin that was asked for is missing, ambiguous, broken or written for another contract."""


class LedgerError(UsageError):
    """A run's folder cannot be used: corrupt, locked by another process, from a newer version, or closed."""


class HarnessError(UsageError):
    """A harness tree or an edit of it is not acceptable: unknown path, fixed file, ambiguous match."""


class SandboxError(SiaError):
    """No sandbox with the guarantees that were asked for works here, or one failed to start."""


class BudgetExhausted(SiaError):
    """A reservation would go past the run's budget. Nothing was spent for it."""


class TrainingError(SiaError):
    """Rollouts that must not be trained on: malformed, stale, from several agents, or not of one instance."""


class NoSignal(TrainingError):
    """Nothing to learn in these rollouts: all rewards of a group alike, no pair, no positive sample."""


class ModelError(SiaError):
    """A language model gave no answer that can be used. What was paid for is recorded; the run can be resumed."""


class Unfinished(Exception):
    """The run does not go on with some work. It is no fault of whoever asked for that work, so nobody catches it."""
