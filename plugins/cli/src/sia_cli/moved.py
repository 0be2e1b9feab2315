"""The new places of modules and names that plugins of earlier versions import."""

from __future__ import annotations

import re

_SANDBOXES = "sia_runtime.sandbox.contract"

MOVED = {
    "sia_core.adapters": "sia_adapters",
    "sia_core.agreement": "sia_runtime.agreement",
    "sia_core.api": "sia_cli.api",
    "sia_core.agentic": "sia_llm",
    "sia_core.cases": "sia_runtime.cases",
    "sia_core.chat_template": "sia_runtime.chat_template",
    "sia_core.cli": "sia_cli",
    "sia_core.desk": "sia_core.run.run_view",
    "sia_core.discovering": "sia_core.types",
    "sia_core.fence": "sia_llm.quoting",
    "sia_core.host": "sia_runtime.worker.host",
    "sia_core.intervals": "sia_core.run.intervals",
    "sia_core.ledger": "sia_core.run.ledger",
    "sia_core.models": "sia_llm.models",
    "sia_core.observe": "sia_core.run.observe",
    "sia_core.opening": "sia_core.types",
    "sia_core.parcels": "sia_runtime.jobs",
    "sia_core.record": "sia_core.run.record",
    "sia_core.report": "sia_reading.report",
    "sia_core.run.artefact": "sia_reading.artefact",
    "sia_core.run.outcomes": "sia_reading.outcomes",
    "sia_core.run.report": "sia_reading.report",
    "sia_core.running": "sia_core.run.start",
    "sia_core.sandbox": "sia_runtime.sandbox",
    "sia_core.selection": "sia_weights.selection",
    "sia_core.testing": "sia_testing",
    "sia_core.trees": "sia_core.run.trees",
    "sia_core.types.GUARANTEES": _SANDBOXES,
    "sia_core.types.ModelAccess": _SANDBOXES,
    "sia_core.types.Mount": _SANDBOXES,
    "sia_core.types.REQUIRED_GUARANTEES": _SANDBOXES,
    "sia_core.types.Sandbox": _SANDBOXES,
    "sia_core.types.SandboxProcess": _SANDBOXES,
    "sia_core.types.SandboxSpec": _SANDBOXES,
    "sia_core.verifiers": "sia_runtime.builtin_verifiers",
    "sia_core.views": "sia_core.view_protocol",
    "sia_core.wheel": "sia_adapters.wheel",
}
"""The module that each now is, or is in, by its name of before."""


def new_places(error: BaseException) -> list[str]:
    """The new place of what an import missed, in a list; empty where that is not the error."""
    if not isinstance(error, ImportError):
        return []
    missing = error.name or ""
    if name := re.search(r"cannot import name '(\w+)'", str(error)):
        missing += f".{name[1]}"
    for old, new in MOVED.items():
        if missing == old or missing.startswith(f"{old}."):
            return [f"; {old} is now {'in ' if new == _SANDBOXES else ''}{new}"]
    return []
