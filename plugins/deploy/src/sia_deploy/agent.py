"""The best agent of a run, set up in the sandbox of the run and asked input by input.

The run's folder is only read: the agent's files are kept in a separate folder.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from sia_core.errors import SiaError, UsageError
from sia_core.plugins import Plugins
from sia_core.run.candidate import LABELLED
from sia_core.run.ledger import Ledger, canonical, readable
from sia_core.run.record import RunRecord
from sia_core.run.rollouts import Setting, Sweep
from sia_core.run.start import beginning, fingerprint, recorded_config, task_of, verifier_of
from sia_core.run.trees import ADAPTERS, Trees, adapter_folder
from sia_core.run.trust import confirm
from sia_reading.report import build
from sia_runtime.worker.harness_worker import SolveRequest
from sia_runtime.worker.host import Host
from sia_runtime.worker.policy import Policy
from sia_runtime.worker.preflight import check_sandbox

PURPOSE = "serve"


@dataclass(frozen=True)
class Served:
    """The agent that is served, by the digests of its parts, with its run and its task."""

    run: str
    task: str
    harness: str
    adapter: str | None
    sandbox: str


class DeployedAgent:
    """The final agent of a run (its incumbent, while it is unfinished), set up; asked by several threads."""

    def __init__(self, run: Path, plugins: Plugins, trust: bool = False) -> None:
        with ExitStack() as opened:
            with Ledger.read(run) as ledger:
                started, report = beginning(ledger), build(ledger)
                sandbox = RunRecord(ledger).sandbox
            agent = report["agent"]
            if agent["harness"] is None or sandbox is None:
                raise UsageError(f"{run} has no agent yet; `sia resume {run}` goes on with it")
            config = recorded_config(started, run)
            confirm(run, started, asdict(config), trust)
            self._task = task_of(config, plugins)
            if fingerprint(self._task) != started["fingerprint"]:
                raise UsageError(f"{run}: data, brief or catalogue of its task have changed, so this is another agent")
            with readable(run):
                check_sandbox(sandbox, plugins, allow_weak=config.allow_weak_sandbox)
            folder = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="sia-serve-")))
            folder.chmod(0o755)  # a sandbox reads it as another user
            self.about = Served(run.name, self._task.name, agent["harness"], agent["adapter"], sandbox["name"])
            Trees(folder).put(Trees(run).get(agent["harness"]))
            if agent["adapter"]:
                (folder / ADAPTERS).mkdir()
                adapter = adapter_folder(run, agent["adapter"])
                os.symlink(adapter.resolve(), folder / ADAPTERS / adapter.name)
            verifier = verifier_of(config, self._task)
            self._setting = Setting(
                str(folder), config.task, verifier, sandbox["name"], config.plan.seed, config.engine
            )
            self._host = Host(plugins)
            opened.callback(self._host.stop)
            self._policy = self._host.policy(self._setting)
            if isinstance(self._policy, Policy):
                opened.enter_context(self._policy.holding(agent["adapter"]))
            self._numbers = itertools.count()
            self._opened = opened.pop_all()

    def answer(self, question: Mapping[str, Any]) -> str:
        """The raw JSON answer to an input; SiaError where the agent fails. The same input has the same seed."""
        digest = hashlib.sha256(canonical(dict(question)).encode())
        key = f"{PURPOSE}/{next(self._numbers)}"
        request = SolveRequest(
            key=key,
            instance={"id": digest.hexdigest()[:12], "input": dict(question), "start": None},
            seed=int.from_bytes(digest.digest()[:6]),
        )
        about = self.about
        sweep = Sweep(PURPOSE, "served", about.harness, "public", (), public=LABELLED, adapter=about.adapter)
        solved, _ = self._host.solve(self._setting, sweep, self._task, [request])
        if self._policy:
            self._policy.gateway.finish(key)
        result = solved[key]
        if result.outcome != "ok" or result.answer is None:
            raise SiaError(f"the agent failed: {result.outcome}: {result.message}".strip(": "))
        return result.answer

    def close(self) -> None:
        self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
