"""The files that a task makes of a run's best answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from sia_core.errors import LedgerError, UsageError, excerpt
from sia_core.plugins import Plugins
from sia_core.run.ledger import Ledger
from sia_core.run.start import beginning, fingerprint, recorded_config, task_of
from sia_core.run.trust import confirm
from sia_core.types import Discovers, Task
from sia_reading.report import build


def artefact(ledger: Ledger, plugins: Plugins) -> dict[str, bytes]:
    """The files by their paths; none where the run has no answer."""
    answer = build(ledger).get("answer")
    return made_of(recorded_task(ledger, plugins), answer) if answer else {}


def made_of(task: Task, answer: Mapping[str, Any]) -> dict[str, bytes]:
    """The files that a task makes of an answer of the report. LedgerError where it is none of that task."""
    if not isinstance(task, Discovers):
        raise LedgerError(f"the record holds a best answer, and task {task.name!r} is none to discover one")
    try:
        task.answer.model_validate_json(answer["answer"], strict=True)
        value = json.loads(answer["answer"])
    except (LookupError, TypeError, ValueError, RecursionError) as error:
        raise LedgerError(f"the record holds what is no answer to task {task.name!r}: {excerpt(str(error))}") from None
    return dict(task.artefact(value))


def recorded_task(ledger: Ledger, plugins: Plugins, trust: bool = False) -> Task:
    """The run's task, if it is still the one that the run was made with."""
    started = beginning(ledger)
    config = recorded_config(started, ledger.folder)
    policy = config.engine is not None  # which what is exported will ask
    confirm(ledger.folder, started, asdict(config), trust, reading=not policy)
    task = task_of(config, plugins)
    if fingerprint(task) != started["fingerprint"]:
        raise UsageError(
            f"{ledger.folder.name}: data, brief or catalogue of task {task.name!r} are not those of the run, "
            "so this would not be what its agents were scored on. Put them back first."
        )
    return task
