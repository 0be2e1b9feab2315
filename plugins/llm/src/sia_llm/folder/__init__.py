"""The folder that a program finds when it is to decide: the evidence as files, working copies, and a way to check them.

The program runs as the user, and is trusted as the user is. The files that it leaves are not: they are read within
bounds, without links, and a decision is validated as a model's is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from sia_core.errors import HarnessError, UsageError
from sia_core.evidence import AgentView, Evidence
from sia_core.given_files import read_file
from sia_core.harness import Delete, Edit, HarnessTree, Write, apply_edits
from sia_core.run.run_view import CHECKED, RunView
from sia_llm.prompts import gate
from sia_llm.proposal import Decided, End, HarnessChange, Proposal, Proposals, WeightUpdate
from sia_llm.toolbox import Arguments, ToolError, faults
from sia_llm.workshop import CHECKS, Workshop
from sia_runtime.answers import InvalidAnswer, plain_json

DECISION = "decision.json"
AGENTS = 16
MOST_BYTES = 1 << 20
"""Of a decision."""

_EDITS: TypeAdapter[list[Edit]] = TypeAdapter(list[Edit])


class CopyChange(HarnessChange):
    """The edits of a working copy."""

    folder: str = Field(default="working-1", description="the working copy")
    parent: str = Field(default="", description="the agent whose weights it has; the one it began from, if empty")


class Decision(Arguments):
    """The content of ``decision.json``."""

    changes: list[Annotated[CopyChange | WeightUpdate | End, Field(discriminator="lever")]] = Field(min_length=1)


@dataclass(frozen=True)
class Leftovers:
    """All that counts of what a program left: the text of its decision, and the edits of each working copy.

    ``wrong`` says what cannot be read, by file or folder, and ``late`` that the program did not end in time.
    """

    decision: str = ""
    edits: Mapping[str, Sequence[Edit]] = field(default_factory=dict)
    wrong: Mapping[str, str] = field(default_factory=dict)
    late: bool = False

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Leftovers:
        edits = {name: _EDITS.validate_python(rows) for name, rows in value["edits"].items()}
        return cls(**{**value, "edits": edits})

    def to_json(self) -> dict[str, Any]:
        edits = {name: _EDITS.dump_python(list(rows), mode="json") for name, rows in self.edits.items()}
        return {"decision": self.decision, "edits": edits, "wrong": dict(self.wrong), "late": self.late}


class GivenFolder:
    """One decision's: ``begins`` are the agents that its working copies begin from."""

    def __init__(self, run: RunView, evidence: Evidence, begins: Sequence[AgentView]) -> None:
        self._run, self._evidence = run, evidence
        self._begins = {f"working-{number}": agent for number, agent in enumerate(begins, 1)}

    def write(self, folder: Path, seconds: float, before: Leftovers, objection: str) -> None:
        """Fill an empty folder. Its working copies hold the edits of ``before``, where these apply."""
        for name, text in self._texts(seconds).items():
            (folder / name).write_text(text, encoding="utf-8")
        if objection:
            (folder / "objection.txt").write_text(objection, encoding="utf-8")
        (folder / "check").chmod(0o755)
        (folder / "rollouts").mkdir()
        for agent in self._shown():
            agent.files.write_to(folder / "agents" / agent.id)
            rows = _lines(each.to_json() for each in self._run.rollouts(agent.id))
            (folder / "rollouts" / f"{agent.id}.jsonl").write_text(rows, encoding="utf-8")
        for name, agent in self._begins.items():
            try:
                tree = apply_edits(agent.files, before.edits.get(name, ()))
            except HarnessError:
                tree = agent.files
            tree.write_to(folder / name)

    def read(self, folder: Path) -> Leftovers:
        """The part that counts of what a program left."""
        edits, wrong, decision = {}, {}, ""
        for name, agent in self._begins.items():
            try:
                edits[name] = _changes(agent.files, folder, name)
            except (HarnessError, OSError) as error:
                wrong[name] = str(error)
        try:
            decision = read_file(folder, DECISION, most_bytes=MOST_BYTES).decode("utf-8-sig")
        except FileNotFoundError:
            wrong[DECISION] = "it was not written"
        except (UsageError, OSError, UnicodeDecodeError) as error:
            wrong[DECISION] = str(error)
        return Leftovers(decision, edits, wrong)

    def decided(self, output: Leftovers) -> list[Decided]:
        """The run's decisions; ToolError where what was left makes none that can be tried."""
        if why := output.wrong.get(DECISION):
            raise ToolError(f"{DECISION}: {why}")
        try:
            changes = Decision.model_validate(plain_json(output.decision)).changes
        except InvalidAnswer as error:
            raise ToolError(f"{DECISION} is not JSON: {error}") from None
        except ValidationError as error:
            raise ToolError(f"{DECISION}: {faults(error)}") from None
        if len(changes) > 1 and any(isinstance(each, End) for each in changes):
            raise ToolError(f"{DECISION}: a stop stands alone; leave it out, or all other changes")
        if len(changes) > self._evidence.candidates:
            most = self._evidence.candidates
            raise ToolError(f"{DECISION}: this run tries {most} changes a generation; there are {len(changes)}")
        copies = [(each.folder, each.parent) for each in changes if isinstance(each, CopyChange)]
        if len(set(copies)) < len(copies):
            raise ToolError(f"{DECISION}: two changes are of the same working copy")
        return [decision for change in changes for decision in self._decided(change, output)]

    def checked(self, name: str, output: Leftovers) -> str:
        """A working copy's check, for the program to read."""
        workshop = self._workshop(name, "", output)
        return workshop.shown(workshop.checked())

    def _decided(self, change: CopyChange | WeightUpdate | End, output: Leftovers) -> list[Decided]:
        fields: Any = change.model_dump()
        workshop = Workshop(self._run, self._evidence.agents, list(self._begins.values()))
        if isinstance(change, CopyChange):
            workshop = self._workshop(change.folder, change.parent, output)
            fields = change.model_dump(exclude={"folder", "parent"})
        try:
            return Proposals(self._evidence, workshop).decided(Proposal.model_validate({"changes": [fields]}))
        except ToolError as error:
            where = f"{change.folder}: " if isinstance(change, CopyChange) else f"{DECISION}: "
            raise ToolError(f"{where}{error}") from None

    def _workshop(self, name: str, parent: str, output: Leftovers) -> Workshop:
        """A workshop whose working copy is one of the folder's."""
        if name not in self._begins:
            raise ToolError(f"no working copy {name!r}; there are {', '.join(self._begins)}")
        if name in output.wrong:
            raise ToolError(f"{name}: {output.wrong[name]}")
        if parent and parent not in self._evidence.agents:
            raise ToolError(f"no agent {parent!r} in the archive; there are {', '.join(self._evidence.agents)}")
        begins = self._begins[name]
        try:
            tree, edits = apply_edits(begins.files, output.edits[name]), tuple(output.edits[name])
            agent = self._evidence.agents[parent] if parent else begins
            if agent != begins:
                edits = tuple(_between(agent.files, tree, set(agent.files.files) - set(tree.files)))
                tree = apply_edits(agent.files, edits)
        except HarnessError as error:
            raise ToolError(f"{name}: {error}") from None
        workshop = Workshop(self._run, self._evidence.agents, [agent])
        workshop.tree, workshop.edits = tree, list(edits)
        return workshop

    def _shown(self) -> list[AgentView]:
        """The best agents, the incumbent among them, and those that working copies begin from."""
        best = sorted(self._evidence.agents.values(), key=lambda each: (-each.estimate, each.id))
        ids = {
            self._evidence.incumbent,
            *(each.id for each in self._begins.values()),
            *(each.id for each in best[:AGENTS]),
        }
        return [each for each in best if each.id in ids]

    def _texts(self, seconds: float) -> dict[str, str]:
        evidence = self._evidence
        metric = f"{evidence.metric.name} ({evidence.metric.direction})"
        readme = Template(_packaged("readme.md")).substitute(
            generation=evidence.generation,
            seconds=f"{seconds:g}",
            brief=evidence.brief,
            metric=metric,
            incumbent=evidence.incumbent,
            gate=gate(evidence),
            working="`, `".join(f"{name}/" for name in self._begins),
            public=self._run.public,
            checked=CHECKED,
            checks=CHECKS,
            levers=", ".join(evidence.levers),
            candidates=evidence.candidates,
        )
        instances = self._run.instances.values()
        return {
            "README.md": readme,
            "check": _packaged("check.py"),
            "evidence.json": json.dumps(self._facts(), ensure_ascii=False, indent=1),
            "decision.schema.json": json.dumps(Decision.model_json_schema(), indent=1),
            "instances.jsonl": _lines({"id": each.id, "input": dict(each.input)} for each in instances),
        }

    def _facts(self) -> dict[str, Any]:
        """The evidence without files, which lie beside it."""
        evidence = self._evidence
        agents = []
        for agent in evidence.agents.values():
            summaries = {"search": agent.search, "exploration": agent.exploration}
            agents.append(
                {
                    **{name: getattr(agent, name) for name in ("id", "harness", "adapter", "parent", "edits")},
                    **{name: asdict(value) if value else None for name, value in summaries.items()},
                }
            )
        plain = ("generation", "brief", "levers", "incumbent", "candidates", "smallest_gain", "budget_left", "look")
        return {
            **{name: getattr(evidence, name) for name in plain},
            "metric": asdict(evidence.metric),
            "working": {name: agent.id for name, agent in self._begins.items()},
            "agents": agents,
            "trials": [asdict(trial) for trial in evidence.trials],
            "algorithms": [_algorithm(each) for each in evidence.algorithms],
            "weights": asdict(evidence.weights) if evidence.weights else None,
        }


def _algorithm(view: Any) -> dict[str, Any]:
    training = {agent: each.model_dump(mode="json") for agent, each in view.training.items()}
    return {
        **{name: getattr(view, name) for name in ("name", "summary", "needs", "objections", "costs")},
        "training": training,
    }


def _changes(before: HarnessTree, folder: Path, name: str) -> list[Edit]:
    """The edits that make a working copy of a harness. What the rules for harnesses leave out is as it was."""
    after = HarnessTree.from_folder(folder, name)
    gone = {path for path in before.files if path not in after.files and not (folder / name / path).exists()}
    return list(_between(before, after, gone))


def _between(before: HarnessTree, after: HarnessTree, gone: set[str]) -> Iterator[Edit]:
    for path in sorted(gone):
        yield Delete(path=path)
    for path, content in sorted(after.files.items()):
        if before.files.get(path) != content:
            yield Write(path=path, text=after.text(path))


def _lines(rows: Any) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _packaged(name: Literal["readme.md", "check.py"]) -> str:
    return files(__name__).joinpath(name).read_text(encoding="utf-8")
