"""Exporting an agent: its harness, what its set-up reads, and a runner of the standard library alone.

Of a task of kind ``discover`` the best answer is exported, as the files that the task makes of it.
"""

from __future__ import annotations

import inspect
import json
import os
import shlex
import shutil
import tempfile
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement

from sia_cli.figures import better
from sia_core.errors import HarnessError, UsageError, excerpt
from sia_core.given_files import read_folder
from sia_core.harness import HarnessTree, check_path
from sia_core.plugins import Plugins
from sia_core.run.candidate import LABELLED
from sia_core.run.ledger import Ledger
from sia_core.run.trees import Trees, adapter_folder
from sia_core.types import Task
from sia_deploy.exported import CASE_KEYS
from sia_reading.artefact import made_of, recorded_task
from sia_reading.report import build
from sia_runtime.sandbox import frames, solving, strict_json

RUNNER = Path(__file__).with_name("exported.py")
RUNTIME = (solving, frames, strict_json)
"""The modules of the sandbox that the runner loads, which need the standard library alone."""

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

`run.py` needs Python 3.11 or newer{needs}; `runtime/` holds the modules of SIA by which a run's sandbox
asks the harness, and `run.py` does too. `requirements.txt` names the versions that were
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


def export(ledger: Ledger, folder: Path, plugins: Plugins, trust: bool = False) -> str:
    """Write what a run came to to a folder, whole or not at all; returns in two words which it is.

    The files that a run names are read, and a policy that it asks is written down, only if this user
    started it, or with ``trust``.

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
    task = recorded_task(ledger, plugins, trust)
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
        raise UsageError(f"{folder}: {error.strerror or error}; name another folder to write") from None
    return "best answer" if report["answer"] else "final agent"


def pinned(requires: Sequence[str]) -> list[str]:
    """The distributions at the versions that are installed now; HarnessError for what pip would take otherwise."""
    lines = []
    for text in requires:
        try:
            need = Requirement(text)
        except (InvalidRequirement, ValueError, RecursionError) as error:  # a model may have written it
            raise HarnessError(f"the agent requires {excerpt(text, 200)!r}, which is no requirement: {error}") from None
        if need.url or not text.isprintable():
            raise HarnessError(f"the agent requires {text!r}; SIA writes no address to be installed from")
        try:
            lines.append(f"{need.name}=={version(need.name)}")
        except PackageNotFoundError:
            lines.append(text)
    return lines


def _write(folder: Path, tree: HarnessTree, task: Task, report: dict[str, Any]) -> None:
    tree.write_to(folder / "harness")
    for path, content in read_folder(task.public_dir(LABELLED)):
        _put(folder / "public" / path, content)
    write_runner(folder)
    (folder / "requirements.txt").write_text("".join(f"{each}\n" for each in pinned(tree.manifest.requires)))
    (folder / "README.md").write_text(_readme(report, task, tree.manifest.stateless), encoding="utf-8")
    about = {
        **{key: report[key] for key in ("run", "task", "metric", "sealed", "agent", "policy")},
        "entry": tree.manifest.entry,
        "stateless": tree.manifest.stateless,
    }
    (folder / "agent.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def write_runner(folder: Path) -> None:
    """``run.py``, and in ``runtime/`` the sandbox's own modules: a case is solved as it was in the run."""
    shutil.copyfile(RUNNER, folder / "run.py")
    for module in RUNTIME:
        path = folder.joinpath("runtime", *module.__name__.split(".")).with_suffix(".py")
        _put(path, inspect.getsource(module).encode())
        for package in list(path.relative_to(folder / "runtime").parents)[:-1]:
            (folder / "runtime" / package / "__init__.py").touch()


def _write_answer(folder: Path, task: Task, report: dict[str, Any]) -> None:
    """The answer, and what the task makes of it; a README of the task's own goes before ours."""
    answer = report["answer"]
    files = made_of(task, answer)
    note = f"; made from it: {', '.join(f'`{name}`' for name in sorted(files))}" if files else ""
    readme = _ANSWER.format(run=report["run"], id=answer["id"], task=report["task"], sealed=_sealed(report), files=note)
    for name, content in {"README.md": readme.encode(), **files, "answer.json": answer["answer"].encode()}.items():
        _put(folder / check_path(name), content)


def _put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _write_policy(folder: Path, ledger: Ledger, plugins: Plugins, report: dict[str, Any]) -> None:
    """Write the policy's program and adapter; add its distributions to the requirements."""
    shutil.copyfile(POLICY, folder / "policy.py")
    if adapter := report["agent"]["adapter"]:
        shutil.copytree(adapter_folder(ledger.folder, adapter), folder / "adapter")
    _, source = plugins.find("engine", report["policy"]["name"])
    with (folder / "requirements.txt").open("a") as requirements:
        requirements.write("".join(f"{each}\n" for each in pinned(["sia-runtime", source.distribution])))


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
    name = better(report["metric"]) or report["metric"]["name"]
    return (
        f"\nOn {final['n']} sealed instances it scored {final['value']:.4f} "
        f"({name}, 95% interval {low:.4f} to {high:.4f}).\n"
    )


def _example(question: Any) -> str:
    """An input with its values left out, in the form that run.py takes for that input."""
    bare: dict[str, Any] = dict.fromkeys(question, "...")
    return json.dumps({"input": bare} if "input" in bare and bare.keys() <= CASE_KEYS else bare)
