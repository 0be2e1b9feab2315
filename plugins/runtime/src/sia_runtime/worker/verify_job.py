"""Scoring an answer that was found, on the machine that holds the verifier; no harness is run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sia_core.errors import excerpt
from sia_core.run.discover import Verified
from sia_core.run.rollouts import Setting
from sia_runtime.worker.batch import instance_seed
from sia_runtime.worker.host import Host
from sia_runtime.worker.verifier_process import Question


def verify(payload: Mapping[str, Any], host: Host) -> list[Verified]:
    """The job: score one answer, as a final one, on some instances of a split."""
    setting, split = Setting.from_json(payload["setting"]), payload["split"]
    by_name = host.instances(setting.task, split)
    questions = [
        Question(by_name[name], payload["answer"], instance_seed(setting.seed, by_name[name], "answer"))
        for name in payload["instances"]
    ]
    verdicts = host.verifier(setting, sealed=split == "sealed").score(questions)
    scores = [each.score for each in verdicts]
    return [Verified(each.reward, each.valid, excerpt(each.feedback), dict(each.metrics)) for each in scores]
