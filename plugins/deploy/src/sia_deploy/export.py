"""Exporting an agent: its harness, what its set-up reads, and a runner of the standard library alone.

Of a task of kind ``discover`` the best answer is exported, as the files that the task makes of it.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import tempfile
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from sia_core.candidate import LABELLED
from sia_core.discovering import Discovers
from sia_core.errors import UsageError
from sia_core.exported import CASE_KEYS
from sia_core.harness import HarnessTree, check_path
from sia_core.ledger import Ledger
from sia_core.plugins import Plugins
from sia_core.policy import ADAPTERS
from sia_core.report import build, recorded
from sia_core.running import Config, fingerprint
from sia_core.trees import Trees
from sia_core.types import Task

RUNNER = Path(__file__).with_name("exported.py")
POLICY = Path(__file__).with_name("exported_policy.py")

_README = """\
# The agent of {run}

Harness {digest}, found by SIA at the task {task}.

    pip install -r requirements.txt
    python run.py < my-inputs.jsonl > agent-answers.jsonl

`my-inputs.jsonl` is a file that you write, one JSON value a line: the input of an instance{example},
or a whole case such as `{{"input": ..., "answer": ...}}`, of which the agent is given the input alone.
An object that has an `input`, and beside it at most `id`, `answer` and `split`, is taken as a whole
case. An input that is no object is taken as `{{"text": ...}}`.

`agent-answers.jsonl` gets one line for each line that is not blank, in the same order: `{{"answer": ...}}`,
or `{{"error": ...}}` where the agent failed. What the harness prints goes to standard error.

{processes}
Where Python cannot fork (Windows), all cases share one process, and one that ends it takes the cases
after it along. A case's seed derives from its input, so the order of the lines changes no seed.

`run.py` needs Python 3.11 or newer{needs}. `requirements.txt` names the versions that were
installed when this folder was written. `public/` is what the harness reads when it is set up. It runs
as it is, without a sandbox and without limits of time and memory: read `harness/` first.
{sealed}"""

_FRESH = "Each case is solved in a fresh process, so one that crashes costs its own answer alone."
_SHARED = (
    "The harness says that it is stateless, so one process solves case after case; one that crashes it\n"
    "costs its own answer alone, and the next case gets a fresh process."
)


_ANSWER = """\
# The best answer of {run}

Answer {id}, found by SIA at the task {task}.
{sealed}
`answer.json` is the answer as the agent gave it{files}. It was written by a program: read it before you run it.
"""


def export(ledger: Ledger, folder: Path, plugins: Plugins) -> str:
    """Write what a run came to to a folder, whole or not at all; says in two words what that is.

    It is the final agent (the incumbent, while the run is unfinished), or the best answer where the task
    is to discover one.
    """
    report = build(ledger)
    if report.get("kind") == "discover" and report["answer"] is None:
        raise UsageError(
            f"{report['run']} has no answer: "
            + (
                "no valid one was found"
                if report["sealed"]
                else f"it is not finished; `sia resume {shlex.quote(str(ledger.folder))}` goes on with it"
            )
        )
    digest = report.get("agent", {}).get("harness")
    if digest is None:
        again = (
            f"`sia resume {shlex.quote(str(ledger.folder))}` goes on with it" if "task" in report else "start it again"
        )
        raise UsageError(f"{report['run']} has no agent yet; {again}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} exists already and is not an empty folder; name another one")
    task = _task(ledger, plugins)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent))
        try:
            if report["answer"]:
                _write_answer(temporary, task, report)
            else:
                _write(temporary, Trees(ledger.folder).get(digest), task, report)
                if report["policy"]:
                    _write_policy(temporary, ledger, plugins, report)
            temporary.chmod(0o755)
            if folder.exists():
                folder.rmdir()
            os.rename(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise UsageError(f"{folder}: {error.strerror or error}") from None
    return "best answer" if report["answer"] else "final agent"


def artefact(ledger: Ledger, plugins: Plugins) -> dict[str, bytes]:
    """The files that the task makes of a run's best answer, by their paths; none where the run has no answer."""
    report = build(ledger)
    return _artefact(_task(ledger, plugins), report["answer"]) if report.get("answer") else {}


def pinned(requires: Sequence[str]) -> list[str]:
    """The distributions at the versions that are installed now."""
    lines = []
    for name in requires:
        try:
            lines.append(f"{name}=={version(name)}")
        except PackageNotFoundError:
            lines.append(name)
    return lines


def _task(ledger: Ledger, plugins: Plugins) -> Task:
    """The run's task, if it is still the one that the run was made with."""
    started = recorded(ledger, "run")
    config = Config.from_json(started["config"])
    task: Task = plugins.create("task", config.task.name, **config.task.settings)
    if fingerprint(task) != started["fingerprint"]:
        raise UsageError(
            f"{ledger.folder.name}: data, brief or catalogue of task {task.name!r} are not those of the run, "
            "so what is exported would not be the agent that was scored. Put them back first."
        )
    return task


def _write(folder: Path, tree: HarnessTree, task: Task, report: dict[str, Any]) -> None:
    tree.write_to(folder / "harness")
    shutil.copytree(task.public_dir(LABELLED), folder / "public")
    shutil.copyfile(RUNNER, folder / "run.py")
    (folder / "requirements.txt").write_text("".join(f"{each}\n" for each in pinned(tree.manifest.requires)))
    (folder / "README.md").write_text(_readme(report, task, tree.manifest.stateless), encoding="utf-8")
    about = {
        **{key: report[key] for key in ("run", "task", "metric", "sealed", "agent", "policy")},
        "entry": tree.manifest.entry,
        "stateless": tree.manifest.stateless,
    }
    (folder / "agent.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def _write_answer(folder: Path, task: Task, report: dict[str, Any]) -> None:
    """The answer, and what the task makes of it; a README of the task's own goes before ours."""
    answer = report["answer"]
    files = _artefact(task, answer)
    told = f"; {', '.join(f'`{name}`' for name in sorted(files))} is made of it" if files else ""
    readme = _ANSWER.format(run=report["run"], id=answer["id"], task=report["task"], sealed=_sealed(report), files=told)
    for name, content in {"README.md": readme.encode(), **files, "answer.json": answer["answer"].encode()}.items():
        target = folder / check_path(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)


def _artefact(task: Task, answer: dict[str, Any]) -> dict[str, bytes]:
    assert isinstance(task, Discovers)  # or the run would have been refused
    return dict(task.artefact(json.loads(answer["answer"])))


def _write_policy(folder: Path, ledger: Ledger, plugins: Plugins, report: dict[str, Any]) -> None:
    """What answers for the policy, and its adapter; its distributions join what is required."""
    shutil.copyfile(POLICY, folder / "policy.py")
    if adapter := report["agent"]["adapter"]:
        shutil.copytree(ledger.folder / ADAPTERS / adapter, folder / "adapter")
    _, source = plugins.find("engine", report["policy"]["name"])
    with (folder / "requirements.txt").open("a") as requirements:
        requirements.write("".join(f"{each}\n" for each in pinned(["sia-core", source.distribution])))


def _readme(report: dict[str, Any], task: Task, stateless: bool) -> str:
    first = next(iter(task.instances("search")), None)
    return _README.format(
        run=report["run"],
        digest=report["agent"]["harness"][:12],
        task=report["task"],
        example=f" such as `{_example(first.input)}`" if first else "",
        processes=_SHARED if stateless else _FRESH,
        sealed=_sealed(report),
        needs=", and SIA for the policy that the harness asks (`policy.py`)" if report["policy"] else " and no SIA",
    )


def _sealed(report: dict[str, Any]) -> str:
    if not report["sealed"]:
        return ""
    final = report["sealed"]["final"]
    low, high = final["ci95"]
    return (
        f"\nOn {final['n']} sealed instances it scored {final['value']:.4f} "
        f"({report['metric']['name']}, 95% interval {low:.4f} to {high:.4f}).\n"
    )


def _example(given: Any) -> str:
    """An input with its values left out, in the form that run.py takes for that input."""
    bare: dict[str, Any] = dict.fromkeys(given, "...")
    return json.dumps({"input": bare} if "input" in bare and bare.keys() <= CASE_KEYS else bare)
