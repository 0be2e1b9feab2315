"""Exporting an agent: its harness, what its set-up reads, and a runner of the standard library alone."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from sia_core.candidate import LABELLED
from sia_core.errors import UsageError
from sia_core.ledger import Ledger
from sia_core.plugins import Plugins
from sia_core.report import build
from sia_core.running import Config
from sia_core.trees import Trees
from sia_core.types import Task

RUNNER = Path(__file__).with_name("exported.py")

_README = """\
# The agent of {run}

Harness {digest}, found by SIA at the task {task}.

    pip install -r requirements.txt
    python run.py < cases.jsonl > answers.jsonl

A line of `cases.jsonl` is the input of one instance, a JSON object{example}; a line of
`answers.jsonl` is `{{"answer": ...}}` or `{{"error": ...}}`. `run.py` needs Python 3.11 and no
SIA. It runs the harness as it is, without a sandbox: read `harness/` first.
{sealed}"""


def export(ledger: Ledger, folder: Path, plugins: Plugins) -> None:
    """Write the run's final agent (its incumbent, while it is unfinished) to a folder, whole or not at all."""
    report = build(ledger)
    digest = report.get("agent", {}).get("harness")
    if digest is None:
        raise UsageError(f"{report['run']} has no agent yet; `sia resume {report['run']}` goes on with it")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} exists already and is not an empty folder; name another one")
    config = Config.from_json(_recorded(ledger, "run")["config"])
    task: Task = plugins.create("task", config.task.name, **config.task.settings)
    tree = Trees(ledger.folder).get(digest)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent))
        try:
            tree.write_to(temporary / "harness")
            shutil.copytree(task.public_dir(LABELLED), temporary / "public")
            shutil.copyfile(RUNNER, temporary / "run.py")
            (temporary / "requirements.txt").write_text("".join(f"{each}\n" for each in pinned(tree.manifest.requires)))
            (temporary / "README.md").write_text(_readme(report, task), encoding="utf-8")
            about = {
                **{key: report[key] for key in ("run", "task", "metric", "sealed", "agent")},
                "entry": tree.manifest.entry,
            }
            (temporary / "agent.json").write_text(
                json.dumps(about, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
            )
            temporary.chmod(0o755)
            if folder.exists():
                folder.rmdir()
            os.rename(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise UsageError(f"{folder}: {error.strerror}") from None


def pinned(requires: tuple[str, ...]) -> list[str]:
    """The distributions at the versions that the run used."""
    lines = []
    for name in requires:
        try:
            lines.append(f"{name}=={version(name)}")
        except PackageNotFoundError:
            lines.append(name)
    return lines


def _recorded(ledger: Ledger, key: str) -> Any:
    found = ledger.get(key)
    assert found is not None
    return found[0]


def _readme(report: dict[str, Any], task: Task) -> str:
    first = next(iter(task.instances("search")), None)
    example = f" such as `{json.dumps(dict.fromkeys(first.input, '...'))}`" if first else ""
    sealed = ""
    if report["sealed"]:
        final = report["sealed"]["final"]
        low, high = final["ci95"]
        sealed = (
            f"\nOn {final['n']} sealed instances it scored {final['value']:.4f} "
            f"({report['metric']['name']}, 95% interval {low:.4f} to {high:.4f}).\n"
        )
    digest = report["agent"]["harness"][:12]
    return _README.format(run=report["run"], digest=digest, task=report["task"], example=example, sealed=sealed)
