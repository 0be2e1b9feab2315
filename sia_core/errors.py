"""The core's exceptions. Few, and each says what is wrong, where, and what to do next."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

EXCERPT = 600


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


def excerpt(text: str, limit: int = EXCERPT) -> str:
    """The text cut to size, saying how much was cut."""
    return text if len(text) <= limit else f"{text[:limit]} [... {len(text) - limit:,} more characters]"


def meant(name: str, names: Collection[str]) -> str:
    """The names that are near one that there is not, for the end of an error; empty where none is."""
    import difflib  # only where something is wrong

    names = sorted({*names} - {name})
    near = [each for each in names if name and each.startswith(name)] or difflib.get_close_matches(name, names, n=1)
    return f" (did you mean {' or '.join(map(repr, near))}?)" if near else ""


def faults(error: Any, names: Collection[str] = ()) -> str:
    """The faults of a pydantic ValidationError, as a line in plain words; ``names`` are those that there are."""
    errors = [each for each in error.errors() if each["type"] != "default_factory_not_called"]
    around = {each["loc"][:depth] for each in errors for depth in range(len(each["loc"]))}  # wrong by what is inside
    return excerpt("; ".join(_fault(each, names) for each in errors if each["loc"] not in around))


def _fault(error: Any, names: Collection[str]) -> str:
    place = "".join(f" {each + 1}" if isinstance(each, int) else f", {each}" for each in error["loc"])[2:] or "settings"
    if error["type"] == "extra_forbidden":
        return f"{place}: there is no such setting{meant(str(error['loc'][-1]), names)}"
    if error["type"] == "missing":
        return f"{place}: it is missing"
    if error["type"].startswith("union_tag"):
        key, tag, tags = (
            error["ctx"].get(each, "").replace("'", "") for each in ("discriminator", "tag", "expected_tags")
        )
        among = f", and must be one of {tags}{meant(tag, tags.split(', '))}" if tags else ""
        return f"{place}: {key} is {excerpt(tag, 80) or 'missing'}{among}"
    text = re.sub(r"^(Value error, |Input |Tuple )", "", error["msg"]).replace("valid tuple", "list")
    value = f"={excerpt(str(error['input']), 80)}" if isinstance(error["input"], str | int | float) else ""
    return f"{place}{value}: {text}"
