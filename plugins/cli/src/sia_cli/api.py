"""SIA from Python: start a run, look at its result, use its agent.

``sia_core.improve`` and the other names here are also names of ``sia_core``. A run that is
started here is a folder like any other, so ``sia show``, ``sia resume`` and ``sia view`` work on it.

Errors that you can act on are :class:`sia_core.errors.SiaError`. Of these, UsageError is about your input.
In signatures ``Solve`` is a function ``(instance, ctx)``, ``OnEvent`` a function that takes a
``sia_core.hookspecs.Event``, ``Config`` a mapping or a path, and ``Split`` the name of a split.
"""

from __future__ import annotations

import atexit
import importlib
import inspect
import json
import os
import warnings
import weakref
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from html import escape
from pathlib import Path
from typing import Any, ParamSpec, Protocol

from sia_adapters.cases_of import USUAL, case_of, line_of
from sia_cli import front
from sia_cli.elsewhere import imported
from sia_cli.inputs import RUNS, Inputs, path_of
from sia_cli.score_plot import score_plot
from sia_cli.stopping import Watch, in_thread
from sia_core.errors import UsageError
from sia_core.hookspecs import Event
from sia_core.plugins import Plugins
from sia_core.run.intervals import in_units
from sia_core.run.ledger import Ledger, readable
from sia_core.run.record import RunRecord
from sia_core.run.run_folders import find_run, runs_in
from sia_core.run.start import resume, start
from sia_core.types import Split
from sia_reading.artefact import recorded_task
from sia_reading.report import GATE, build
from sia_runtime.answers import value_of

FOLDER = "runs"

ROLLOUT = (
    "agent",
    "purpose",
    "instance",
    "input",
    "expected",
    "answer",
    "outcome",
    "reward",
    "feedback",
    "message",
    "seconds",
    "log",
)
"""The columns of a table of rollouts."""

Solve = Callable[[Any, Any], Any]
P = ParamSpec("P")
_Pending = Coroutine[Any, Any, "Run"]
OnEvent = Callable[[Event], object]
Config = Mapping[str, Any] | str | os.PathLike[str]


def improve(
    agent: str | os.PathLike[str] | Solve,
    data: Any = None,
    verifier: str | Callable[[Any, Any], Any] | None = None,
    *,
    levers: str | Sequence[str] | None = None,
    policy: str | None = None,
    improver: str | Solve | Sequence[Solve] | None = None,
    budget: str | Mapping[str, float] | None = None,
    seed: int | None = None,
    name: str | None = None,
    folder: str | os.PathLike[str] = FOLDER,
    on_event: OnEvent | None = None,
    config: Config | None = None,
) -> Run:
    """Improve an agent, and return the run when it is finished.

    ``agent`` is a folder with a ``harness.py``, a function ``solve(instance, ctx)``, or the name of a
    plugin's task, which has its own data and verifier. ``data`` is a path, a list of mappings, a frame of
    pandas or polars, or a data set of Hugging Face; a row has an ``answer``, and an ``input`` or other columns.
    ``verifier`` is ``"exact"``, ``"numeric:0.01"`` or another name, or a function ``(answer, case)`` that
    returns a number or a ``Score``; the case is a mapping of ``id``, ``input`` and ``answer``.

    A function is carried as source with the names of its module that it uses. An agent's runs in the sandbox
    alone, and a verifier's in its own process alone. ``improver`` is a name such as ``"claude"``, or functions to
    try in the agent's place. Progress is shown on standard error, unless ``on_event`` takes each event. ``config``
    holds any other option of ``sia run`` by its long name, as a mapping or as a TOML file.

    UsageError says which parameter cannot be used, and leaves no run. Another SiaError, such as BudgetExhausted, or
    an interruption leaves a run that ``open_run(...).resume()`` goes on with.

    Example::

        import sia_core

        cases = [{"input": "a" * length, "answer": length} for length in range(1, 65)]


        def solve(instance, ctx):
            return 1


        def counts(instance, ctx):
            return len(instance.input["text"])


        run = sia_core.improve(solve, cases, "exact", improver=counts, name="lengths")
    """
    options = {"levers": levers, "policy": policy, "budget": budget, "seed": seed}
    plugins, watch, inputs = Plugins.discover(), Watch(), Inputs(folder)
    with watch.resumable(inputs.runs), inputs.kept_with(watch), front.watching(on_event) as observers:
        configured = front.configured(plugins, inputs, agent, data, verifier, improver, options, config)
        return Run(start(configured, inputs.runs, plugins, [watch, *observers], front.name_of(name)))


def _takes_what(function: Callable[P, Run]) -> Callable[[Callable[..., _Pending]], Callable[P, _Pending]]:
    """Give a function the parameters of another one, for type checkers and for its help."""

    def typed(other: Callable[..., _Pending]) -> Callable[P, _Pending]:
        other.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
        return other

    return typed


@_takes_what(improve)
async def improve_async(*args: Any, **kwargs: Any) -> Run:
    """The same as :func:`improve`, in a thread, so that the caller's event loop goes on meanwhile.

    A task that is cancelled ends with the batch of rollouts that is under way; the run can be resumed.
    It raises the same errors.

    Example::

        import asyncio

        print(asyncio.run(sia_core.improve_async(solve, cases, "exact", name="measured")))
    """
    return await in_thread(partial(improve, *args, **kwargs))


def open_run(path: str | os.PathLike[str], *, trust: bool = False) -> Run:
    """A run by its folder, or by its name in ``runs``; UsageError where there is none.

    One that somebody else started does what it recorded, such as running its verifier, only with ``trust``.

    Example::

        run = sia_core.open_run("lengths")
    """
    name = path_of(path, "path", f"give a run's folder, or its name in {FOLDER}")
    return Run(find_run(Path(FOLDER), os.fspath(name)), trust=trust)


def runs(folder: str | os.PathLike[str] = FOLDER) -> list[Run]:
    """The runs of a folder, the newest last; empty where there is no such folder.

    Example::

        for each in sia_core.runs():
            print(each)
    """
    return [Run(each) for each in runs_in(path_of(folder, "folder", RUNS))]


class Run:
    """One run, finished or not, read from its folder each time it is asked.

    What is a table is a frame of pandas where pandas is installed (``pip install 'sia-core[frames]'``), and
    a list of mappings elsewhere. Each member raises LedgerError where the record in ``folder`` cannot be read.
    """

    def __init__(self, folder: str | os.PathLike[str], *, trust: bool = False) -> None:
        self.folder = Path(folder)
        self._trust = trust

    @property
    def report(self) -> dict[str, Any]:
        """The report, as ``sia report --json`` prints it.

        Example::

            print(run.report["status"], run.report["sealed"]["final"]["value"])
        """
        with self._ledger() as ledger:
            return build(ledger)

    @property
    def candidates(self) -> Any:
        """A table of every candidate: its lever, its verdict, and the figures of its comparison.

        Example::

            print(run.candidates[["name", "outcome", "gate_delta"]])
        """
        rows = []
        for row in self.report["generations"]:
            gate = row.pop("gate") or {}
            first = {key: row[key] for key in ("index", "candidate", "name", "lever", "outcome")}
            rows.append({**first, **{f"gate_{key}": gate.get(key) for key in GATE}, **row})
        return _table(rows)

    def rollouts(self, purpose: Split = "search", agent: str | None = None) -> Any:
        """A table of rollouts, each with its input, the agent's answer, and on ``search`` the ``expected`` one.

        ``purpose`` is ``search``, ``gate``, or ``sealed`` once the run is finished; UsageError for another. ``agent``
        is an agent of ``candidates``; without it, every agent's are there.

        Example::

            print(run.rollouts("gate")[["input", "answer", "reward"]])
        """
        return _table(self._rollouts(purpose, agent), ROLLOUT)

    @property
    def failures(self) -> Any:
        """A table of the final agent's rollouts on search and gate that earned less than the best, the worst first.

        Example::

            print(len(run.failures))
        """
        with self._ledger() as ledger:
            record = RunRecord(ledger)
            first = next((batch.agent for batch in record.batches()), None)
            final = next((row["agent"] for row in reversed(record.candidates()) if row["accepted"]), first)
            metric = record.run["metric"] if record.run else {}
        rows = [*self._rollouts("search", final), *self._rollouts("gate", final)]
        sign = -1 if metric.get("direction") == "minimize" else 1
        best = max((sign * value for value in metric.get("bounds") or [row["reward"] for row in rows]), default=0.0)
        failed = [row for row in rows if row["outcome"] != "ok" or sign * row["reward"] < best]
        return _table(sorted(failed, key=lambda row: sign * row["reward"]), ROLLOUT)

    @cached_property
    def agent(self) -> Agent:
        """The final agent as a function: an input in, its answer out. It runs in the run's sandbox.

        UsageError where the run has no agent yet, or is somebody else's and not trusted.

        Example::

            print(run.agent("aaaaa"))
        """
        module = imported("sia_deploy.agent", "Run.agent")
        return Agent(module.DeployedAgent(self.folder, Plugins.discover(), self._trust))

    def export(self, path: str | os.PathLike[str]) -> Path:
        """Write the final agent as a folder that runs on its own, and return the folder.

        UsageError where the folder exists and is not empty.

        Example::

            run.export("counts-letters")
        """
        folder = path_of(path, "path", "name a folder to write")
        with self._ledger() as ledger:
            imported("sia_deploy.export", "Run.export").export(ledger, folder, Plugins.discover(), self._trust)
        return folder

    def resume(self, *, approved: bool | None = None, on_event: OnEvent | None = None) -> Run:
        """Go on with a run that was stopped, and return it when it is finished.

        ``approved`` is your word on what the run waits for, if it waits for one. A run that needs no more work is
        left as it is. LedgerError where the run cannot go on: its task or its version has changed.

        Example::

            run = sia_core.open_run("lengths").resume()
        """
        watch = Watch()
        with watch.resumable(self.folder.parent), front.watching(on_event) as observers:
            resume(self.folder, Plugins.discover(), [watch, *observers], approved, self._trust)
        return self

    async def resume_async(self, *, approved: bool | None = None, on_event: OnEvent | None = None) -> Run:
        """The same as :meth:`resume`, in a thread, as :func:`improve_async` is.

        Example::

            run = asyncio.run(run.resume_async())
        """
        return await in_thread(partial(self.resume, approved=approved, on_event=on_event))

    def events(self) -> Iterator[dict[str, Any]]:
        """The recorded steps of the run in their order: ``step``, ``at`` in seconds since 1970, and ``data``.

        Example::

            print([event["step"] for event in run.events()][:3])
        """
        with self._ledger() as ledger:
            yield from ({"step": step, "at": at, "data": data} for step, data, at in ledger.events())

    @contextmanager
    def _ledger(self) -> Iterator[Ledger]:
        """The record, which may come from elsewhere: LedgerError where it cannot be read."""
        with Ledger.read(self.folder) as ledger, readable(self.folder):
            yield ledger

    def _rollouts(self, purpose: Split, agent: str | None) -> list[dict[str, Any]]:
        if purpose not in ("search", "gate", "sealed"):
            raise UsageError(f"no rollouts of purpose {purpose!r}; the purposes are search, gate and sealed")
        with self._ledger() as ledger:
            started = RunRecord(ledger).run
            direction = started["metric"].get("direction", "") if started else ""
            agents = dict.fromkeys(batch.agent for batch in RunRecord(ledger).batches())
            if agent is not None and agent not in agents:
                raise UsageError(f"no rollouts of agent {agent!r}; the agents are {', '.join(agents) or 'none yet'}")
            batches = list(RunRecord(ledger).batches(purpose, agent or ""))
            cases = self._cases(ledger, purpose) if batches else {}
        return [
            {
                **dict.fromkeys(ROLLOUT),
                **in_units(direction, {key: row[key] for key in ROLLOUT if key in row}),
                **cases.get(row["instance"], {}),
                "agent": batch.agent,
                "purpose": purpose,
                "answer": value_of(row["answer"]),
            }
            for batch in batches
            for row in batch.rows
        ]

    def _cases(self, ledger: Ledger, split: Split) -> dict[str, dict[str, Any]]:
        """Inputs by instance, and on search the answers: those of gate and sealed are shown to nobody."""
        try:
            task = recorded_task(ledger, Plugins.discover(), self._trust)
        except UsageError as error:  # its data have changed, or another user's run is not trusted yet
            warnings.warn(f"inputs and expected answers are left out: {error}", stacklevel=4)
            return {}
        cases: dict[str, dict[str, Any]] = {each.id: {"input": dict(each.input)} for each in task.instances(split)}
        path = task.public_dir(("search",)) / "cases.jsonl" if split == "search" else Path()
        if path.is_file():
            for line in path.read_text(encoding="utf-8").split("\n"):
                case = json.loads(line or "{}")
                if case.get("id") in cases and "answer" in case:
                    cases[case["id"]]["expected"] = case["answer"]
        return cases

    def __repr__(self) -> str:
        report = self.report
        sealed = report.get("sealed")
        ends = [f"{sealed[end]['value']:.4f}" for end in ("initial", "final")] if sealed else []
        return f"<Run {self.folder}: {report['status']}{', sealed ' if ends else ''}{' -> '.join(ends)}>"

    def _repr_html_(self) -> str:
        """The run for a notebook: its sealed scores and the plot of its comparisons."""
        report = self.report
        return f"<p>{escape(repr(self)[1:-1])}</p>{score_plot(report)}"


class _Asked(Protocol):
    """An agent that is set up in a sandbox."""

    def answer(self, question: Mapping[str, Any]) -> str:
        """The raw JSON answer to an input."""

    def close(self) -> None:
        """End its sandbox."""


class Agent:
    """The final agent of a run, called with an input; its sandbox ends with it, or by ``close``.

    Example::

        print(run.agent({"text": "aaa"}))
    """

    def __init__(self, asked: _Asked) -> None:
        self._agent = asked
        self.close = weakref.finalize(self, asked.close)
        self.close.atexit = False
        atexit.register(self.close)  # which comes before the finalizers, among them those of the sandbox

    def __call__(self, given: Any) -> Any:
        """The answer to an input; one that is no mapping is wrapped as ``{"text": ...}``. SiaError where it fails."""
        question = given if isinstance(given, Mapping) else {"text": given}
        case = case_of({"input": question, "answer": None}, USUAL, "the input")
        return json.loads(self._agent.answer(json.loads(line_of(case, "the input"))["input"]))


def _table(rows: list[dict[str, Any]], columns: Sequence[str] | None = None) -> Any:
    try:
        pandas = importlib.import_module("pandas")
    except ModuleNotFoundError:
        return rows
    return pandas.DataFrame(rows, columns=columns)
