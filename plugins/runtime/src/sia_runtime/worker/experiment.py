"""Code that an improver has run as an experiment: in a sandbox as harnesses have one, with the public files alone."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from sia_core.run.rollouts import Setting
from sia_core.run.trees import Trees
from sia_core.types import Json
from sia_runtime.worker.harness_worker import SolveRequest
from sia_runtime.worker.host import Host


def run_code(payload: Mapping[str, Any], host: Host) -> dict[str, Any]:
    """The job: run Python ``code`` beside a harness's files; how it ended, its seconds, and what it printed.

    Each time it starts anew: nothing of an earlier experiment is left but a sandbox that has started.
    """
    setting = Setting.from_json(payload["setting"])
    tree = Trees(Path(setting.run)).get(payload["copy"]["harness"])
    files: Json = {path: base64.b64encode(content).decode() for path, content in tree.files.items()}
    place, requires, seconds = payload["place"], tree.manifest.requires, payload["seconds"]
    request = SolveRequest("experiment", {"id": "experiment", "input": {"code": payload["code"], "files": files}}, 0)
    with host.experiments(setting, place, requires, seconds) as worker, closing(worker.solve([request])) as results:
        result = next(results)
    ended = "raised" if result.outcome == "ok" and result.answer != "true" else result.outcome
    return {"ended": ended, "message": result.message, "printed": result.log, "seconds": round(result.seconds, 3)}


def end(payload: Mapping[str, Any], host: Host) -> None:
    """The job: end the sandbox of a conversation's experiments."""
    host.end_experiments(Setting.from_json(payload["setting"]), payload["place"])
