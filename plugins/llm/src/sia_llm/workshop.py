"""The tools with which a model works on a harness: a working copy, edits within bounds, and a check in the sandbox."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from sia_core.errors import BudgetExhausted, HarnessError, excerpt
from sia_core.evidence import AgentView
from sia_core.harness import Delete, Edit, HarnessTree, Replace, Write, apply_edits, unified_diff
from sia_core.run.run_view import CHECKED, Checked, RunView
from sia_llm.check_report import runs, shown
from sia_llm.quoting import fenced
from sia_llm.toolbox import SHOWN, Arguments, Offered, ToolError, offer

CHECKS = 12
"""Checks that one conversation may ask for."""

MOST_CHECKED = 40
"""Instances of one check, at most."""

LINES = 400


class Nothing(Arguments):
    """It takes nothing."""


class Look(Arguments):
    path: str
    first_line: int = Field(default=1, ge=1)
    lines: int = Field(default=LINES, ge=1, le=LINES)


class Find(Arguments):
    text: str = Field(min_length=1, description="as it stands there; not a pattern")


class Change(Arguments):
    path: str
    old: str = Field(min_length=1, description="must occur exactly once in the file")
    new: str


class Whole(Arguments):
    path: str
    text: str


class Remove(Arguments):
    path: str


class Append(Arguments):
    path: str
    text: str = Field(min_length=1, description="is put at the end of the file, which is created if it is not there")


class Revert(Arguments):
    path: str = Field(description="a file of your working copy, or of its agent's harness")


class Check(Arguments):
    which: str = Field(
        default="first",
        description="`first`: the same few each time; `random`: others each time; `failed`: those on which the agent "
        "earned less than its most; or an outcome of the agent's, such as ok or timeout",
    )
    count: int = Field(default=CHECKED, ge=1, le=MOST_CHECKED, description="how many; a mean over so few is rough")
    instances: list[str] = Field(default_factory=list, max_length=MOST_CHECKED, description="instead: these, by id")


class Begin(Arguments):
    agent: str = Field(description="the id of an agent in the archive")


@dataclass(frozen=True)
class EditedHarness:
    """A harness that edits made of an agent's."""

    parent: AgentView
    tree: HarnessTree
    edits: tuple[Edit, ...]


class Workshop:
    """A working copy of one agent's harness, the edits that were made to it, and what checks of it showed.

    It begins with the first of ``parents``, and goes on with the next each time that a copy is set aside.
    """

    def __init__(self, run: RunView, agents: Mapping[str, AgentView], parents: Sequence[AgentView]) -> None:
        self.run, self._agents, self._parents = run, agents, parents
        self.parent, self.tree = parents[0], parents[0].files
        self.edits: list[Edit] = []
        self._checks = 0
        self._checked: dict[tuple[Any, ...], Checked] = {}
        self._aside: set[tuple[str, str | None]] = set()

    @property
    def offered(self) -> list[Offered]:
        tools = [
            offer("list_files", "The files of your working copy, with their sizes.", Nothing, self._list),
            offer("read_file", "Lines of a file of your working copy.", Look, self._read),
            offer("search_files", "Where a text occurs in your working copy.", Find, self._search),
            offer("replace_text", "Replace the one occurrence of a text in a file.", Change, self._replace),
            offer("write_file", "Write a file anew, or create it.", Whole, self._write),
            offer(
                "append_to_file", "Put text at the end of a file: for one longer than a reply.", Append, self._append
            ),
            offer("delete_file", "Remove a file.", Remove, self._delete),
            offer(
                "revert_file", "Make a file what it is in the harness that your copy began as.", Revert, self._revert
            ),
            offer("diff", "How your working copy differs from the harness that it began as.", Nothing, self._diff),
            offer("read_public", "Lines of a file that harnesses find in ctx.public.", Look, self._public),
            offer(
                "check",
                f"""Run your working copy in the sandbox on some search instances, {CHECKED} if you do not say how many:
                does it run, are its answers valid, what do they earn, and what did its agent earn on the same ones?
                Your copy is set up anew for it. Each instance costs a rollout of the run's
                budget{self._evaluated}; at most {CHECKS} times.""",
                Check,
                self._check,
            ),
        ]
        if len(self._agents) > 1:
            about = "Make your working copy a copy of another agent's harness. Your edits so far are dropped."
            tools.append(offer("start_from", about, Begin, self._begin))
        return tools

    @property
    def _evaluated(self) -> str:
        each = self.run.evaluations
        return f", and may take {each} evaluations as on search and gate" if each else ""

    def checked(self, instances: tuple[str, ...] = ()) -> Checked:
        """The working copy's results on ``instances`` of search, or a few; run once for the same copy."""
        key = (*self._now, *instances)
        if key not in self._checked:
            self._checked[key] = self.run.check(self.tree, self.parent.adapter, instances)
        return self._checked[key]

    def checks(self, tree: HarnessTree, adapter: str | None) -> list[Checked]:
        """The checks that were made of a harness with these weights, in order."""
        return [checked for key, checked in self._checked.items() if key[:2] == (tree.digest, adapter)]

    def shown(self, checked: Checked) -> str:
        """A check's outcome beside what the agent earned on the same instances, for the model to read."""
        return shown(checked, self.run.rollouts(self.parent.id), f"agent {self.parent.id}")

    def candidate(self) -> EditedHarness:
        """The working copy, where it may be tried; ToolError where it would be refused, or does not pass its check."""
        if self.tree.digest == self.parent.harness:
            raise ToolError("your working copy is as its agent's harness was; edit it first, or decide something else")
        ids = {(agent.harness, agent.adapter): agent.id for agent in self._agents.values()}
        if self._now in ids:
            raise ToolError(f"your working copy is the harness of agent {ids[self._now]}, which was tried")
        if self._now in self._aside:
            raise ToolError("your working copy is what you set aside already")
        if fault := self._fault():
            raise ToolError(fault)
        return EditedHarness(self.parent, self.tree, tuple(self.edits))

    def next(self) -> None:
        """Set the working copy aside and start on another."""
        self._aside.add(self._now)
        self._start(self._parents[min(len(self._aside), len(self._parents) - 1)])

    @property
    def _now(self) -> tuple[str, str | None]:
        """Digest and adapter of the working copy."""
        return self.tree.digest, self.parent.adapter

    def _fault(self) -> str:
        """Why the working copy does not pass its check, for the model to read; or an empty string."""
        try:
            checked = self.checked()
        except BudgetExhausted:
            return ""  # no candidate fits either; the run itself says so, and ends well
        if checked.short:
            return ""
        if not runs(checked):
            return f"It must run before it can be tried. {self.shown(checked)}"
        answered = {each.instance for each in self.run.rollouts(self.parent.id) if each.outcome == "ok"}
        before = [each for each in checked.rollouts if each.instance in answered]
        if before and not any(each.outcome == "ok" for each in checked.rollouts):
            return f"None of its answers is valid, and agent {self.parent.id} had valid ones. {self.shown(checked)}"
        return ""

    def _list(self, _: Nothing) -> str:
        rows = [f"{path}  {len(content):,} bytes" for path, content in sorted(self.tree.files.items())]
        return fenced("\n".join(rows), f"files of the working copy of agent {self.parent.id}", SHOWN)

    def _read(self, look: Look) -> str:
        return _lines(self.tree.text(look.path), look)

    def _search(self, find: Find) -> str:
        lines = []
        for path, content in sorted(self.tree.files.items()):
            for number, line in enumerate(content.decode(errors="replace").splitlines(), 1):
                if find.text in line:
                    lines.append(f"{path}:{number}: {excerpt(line, 200)}")
        return fenced("\n".join(lines), f"{len(lines)} lines", SHOWN) if lines else "no file holds that text"

    def _replace(self, change: Change) -> str:
        return self._edit(Replace(path=change.path, old=change.old, new=change.new))

    def _write(self, whole: Whole) -> str:
        return self._edit(Write(path=whole.path, text=whole.text))

    def _append(self, more: Append) -> str:
        before = self.tree.text(more.path) if more.path in self.tree.files else ""
        message = self._edit(Write(path=more.path, text=before + more.text))
        return f"{message}; {more.path} has {len(self.tree.files[more.path]):,} bytes"

    def _revert(self, revert: Revert) -> str:
        was = self.parent.files
        if revert.path in was.files:
            return self._edit(Write(path=revert.path, text=was.text(revert.path)))
        return self._edit(Delete(path=revert.path))

    def _diff(self, _: Nothing) -> str:
        diff = unified_diff(self.parent.files, self.tree)
        return fenced(diff, f"against agent {self.parent.id}", SHOWN) if diff else "your working copy is as it began"

    def _delete(self, remove: Remove) -> str:
        return self._edit(Delete(path=remove.path))

    def _edit(self, edit: Edit) -> str:
        edited = apply_edits(self.tree, [edit])
        if edited.digest == self.tree.digest:
            raise ToolError("this changes nothing")
        self.tree = edited
        self.edits.append(edit)
        return f"done; {len(self.edits)} edits so far"

    def _begin(self, begin: Begin) -> str:
        if begin.agent not in self._agents:
            raise ToolError(f"no agent {begin.agent!r} in the archive; there are {', '.join(self._agents)}")
        self._start(self._agents[begin.agent])
        return f"the working copy is agent {self.parent.id}'s harness"

    def _start(self, parent: AgentView) -> None:
        self.parent, self.tree, self.edits = parent, parent.files, []

    def _public(self, look: Look) -> str:
        files = public_files(self.run.public)
        if look.path not in files:
            raise ToolError(f"no file {look.path!r}; ctx.public holds {', '.join(files) or 'nothing'}")
        with (self.run.public / look.path).open(encoding="utf-8", errors="replace") as file:
            lines = [line for number, line in enumerate(file, 1) if 0 <= number - look.first_line < look.lines]
        return fenced("".join(lines), f"{look.path} from line {look.first_line}", SHOWN, by="the task's public data")

    def _check(self, request: Check) -> str:
        if self._checks >= CHECKS:
            raise ToolError(f"{CHECKS} checks were made; decide with what they showed")
        instances = self._chosen(request)
        self._checks += 1
        return f"{self.shown(self.checked(instances))}\n{CHECKS - self._checks} checks left"

    def _chosen(self, request: Check) -> tuple[str, ...]:
        """The instances of a check; none for those that every check has by default."""
        sample = self.run.sample
        if request.instances:
            if strange := [each for each in request.instances if each not in sample]:
                raise ToolError(f"{strange[0]!r} is not in the search sample; `failures` names some that are")
            return tuple(dict.fromkeys(request.instances))
        if request.which == "first":
            return () if request.count == CHECKED else sample[: request.count]
        if request.which == "random":
            return tuple(random.Random(f"check {self._checks}").sample(sample, min(request.count, len(sample))))
        did = {each.instance: each for each in self.run.rollouts(self.parent.id)}
        most = max((each.reward for each in did.values()), default=0.0)
        fits = [
            name
            for name in sample
            if name in did
            and (did[name].reward < most if request.which == "failed" else did[name].outcome == request.which)
        ]
        if not fits:
            outcomes = ", ".join(sorted({each.outcome for each in did.values()}))
            raise ToolError(
                f"agent {self.parent.id} has no instance that is {request.which!r}; its outcomes: {outcomes}"
            )
        return tuple(fits[: request.count])


def public_files(folder: Path) -> list[str]:
    """Relative paths of the public folder's files."""
    plain = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return sorted(path.relative_to(folder).as_posix() for path in plain)


def public_listing(folder: Path) -> list[str]:
    """The public folder's files, each with its size and its lines."""
    rows = []
    for path in public_files(folder):
        content = (folder / path).read_bytes()
        rows.append(f"{path} ({len(content):,} bytes, {len(content.splitlines()):,} lines)")
    return rows


def code(tree: HarnessTree, limit: int = SHOWN) -> str:
    """All text files of a harness, each fenced."""
    parts = []
    for path in sorted(tree.files):
        try:
            parts.append(fenced(tree.text(path), path, limit))
        except HarnessError:  # not a text file; its name says enough
            parts.append(f"{path}: {len(tree.files[path]):,} bytes, not text")
    return "\n".join(parts)


def _lines(text: str, look: Look) -> str:
    lines = text.splitlines()
    part = lines[look.first_line - 1 : look.first_line - 1 + look.lines]
    remaining = len(lines) - (look.first_line - 1 + len(part))
    more = f", {remaining} more below" if remaining > 0 else ""
    return fenced("\n".join(part), f"{look.path} from line {look.first_line} of {len(lines)}{more}", SHOWN)
