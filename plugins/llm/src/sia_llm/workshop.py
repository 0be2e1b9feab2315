"""The tools with which a model works on a harness: a working copy, edits within bounds, and a check in the sandbox."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field

from sia_core.errors import BudgetExhausted, HarnessError, excerpt
from sia_core.evidence import AgentView
from sia_core.harness import Delete, Edit, HarnessTree, Replace, Write, apply_edits, unified_diff
from sia_core.run.run_view import CHECKED, Checked, RunView
from sia_llm.check_report import runs, shown
from sia_llm.quoting import CODE, fenced, visible
from sia_llm.toolbox import SHOWN, Arguments, Offered, ToolError, offer

CHECKS = 12
"""Checks that one conversation may ask for."""

MOST_CHECKED = 40
"""Instances of one check, at most."""

LINES = 400
"""Lines of a file that one result shows, at most."""


class Nothing(Arguments):
    """It takes nothing."""


class Look(Arguments):
    path: str
    first_line: int = Field(default=1, ge=1)
    lines: int = Field(default=LINES, ge=1, le=LINES)


class Find(Arguments):
    text: str = Field(min_length=1, description="exactly as it stands there; not a pattern")


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
    text: str = Field(min_length=1, description="added as it is; a file that is not there is created")


class Revert(Arguments):
    path: str = Field(description="a file of your working copy, or of its parent")


class Check(Arguments):
    which: str = Field(
        default="first",
        description="`first`: the same few each time; `random`: others each time; `failed`: those on which the parent "
        "earned less than its most, where almost any change looks better; or an outcome of the parent's, such as ok (a "
        "valid answer) or timeout",
    )
    count: int = Field(
        default=CHECKED,
        ge=1,
        le=MOST_CHECKED,
        description="how many; a mean over few is rough, as its interval says",
    )
    instances: list[str] = Field(default_factory=list, max_length=MOST_CHECKED, description="these instead, by id")


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
            offer(
                "read_file", f"Lines of a file of your working copy, {SHOWN:,} characters at most.", Look, self._read
            ),
            offer("search_files", "The lines of your working copy that hold a text.", Find, self._search),
            offer("replace_text", "Replace a text that occurs once in a file.", Change, self._replace),
            offer("write_file", "Write the whole of a file, new or there already.", Whole, self._write),
            offer(
                "append_to_file",
                "Add text at the end of a file, such as one too long to be written in one reply.",
                Append,
                self._append,
            ),
            offer("delete_file", "Remove a file.", Remove, self._delete),
            offer(
                "revert_file",
                "Undo all edits of a file. One that the parent does not have is removed.",
                Revert,
                self._revert,
            ),
            offer("diff", "How your working copy differs from its parent.", Nothing, self._diff),
            offer("read_public", f"Lines of a file in `ctx.public`, {SHOWN:,} characters at most.", Look, self._public),
            offer(
                "check",
                f"""Run your working copy in the sandbox on search instances, {CHECKED} if you do not say how many. It
                says whether the copy runs, how many of its answers are valid, what they earn, and what the parent
                earned on the same instances. `setup` is run again for it. Each instance costs a rollout of the run's
                budget{self._evaluated}. You have {CHECKS} checks.""",
                Check,
                self._check,
            ),
        ]
        if len(self._agents) > 1:
            about = "Start a new working copy, of another agent's harness. Your edits so far are dropped."
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
        before = self.run.rollouts(self.parent.id)
        return shown(checked, before, f"agent {self.parent.id}", self.run.metric.reward_bounds)

    def candidate(self) -> EditedHarness:
        """The working copy, where it may be tried; ToolError where it would be refused, or does not pass its check."""
        if self.tree.digest == self.parent.harness:
            raise ToolError("your working copy does not differ from its parent; edit it, or decide on something else")
        ids = {(agent.harness, agent.adapter): agent.id for agent in self._agents.values()}
        if self._now in ids:
            raise ToolError(
                f"your working copy is now what agent {ids[self._now]} is, which was tried; edit it further"
            )
        if self._now in self._aside:
            raise ToolError("your working copy is what you set aside already; edit it further")
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
        return fenced("\n".join(rows), f"files of the working copy of agent {self.parent.id}", SHOWN, by=CODE)

    def _read(self, look: Look) -> str:
        return _asked(look, lines_of(self.tree.text(look.path)), CODE)

    def _search(self, find: Find) -> str:
        lines = []
        for path, content in sorted(self.tree.files.items()):
            for number, line in enumerate(lines_of(content.decode(errors="replace")), 1):
                if find.text in line:
                    lines.append(f"{path}:{number}: {excerpt(line, 200)}")
        return fenced("\n".join(lines), f"{len(lines)} lines", SHOWN, by=CODE) if lines else "no file holds that text"

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
        return fenced(diff, f"diff against agent {self.parent.id}", SHOWN, by=CODE) if diff else "it does not differ"

    def _delete(self, remove: Remove) -> str:
        return self._edit(Delete(path=remove.path))

    def _edit(self, edit: Edit) -> str:
        edited = apply_edits(self.tree, [edit])
        if edited.digest == self.tree.digest:
            raise ToolError("this changes nothing")
        self.tree = edited
        self.edits.append(edit)
        return f"done; {len(self.edits)} {'edit' if len(self.edits) == 1 else 'edits'} so far"

    def _begin(self, begin: Begin) -> str:
        if begin.agent not in self._agents:
            raise ToolError(f"no agent {begin.agent!r} in the archive; there are {', '.join(self._agents)}")
        self._start(self._agents[begin.agent])
        return f"your working copy is now agent {self.parent.id}'s harness"

    def _start(self, parent: AgentView) -> None:
        self.parent, self.tree, self.edits = parent, parent.files, []

    def _public(self, look: Look) -> str:
        files = public_files(self.run.public)
        if look.path not in files:
            raise ToolError(f"no file {look.path!r}; ctx.public holds {', '.join(files) or 'nothing'}")
        with (self.run.public / look.path).open(encoding="utf-8", errors="replace") as file:
            return _asked(look, (line.removesuffix("\n") for line in file), "from the task's public files")

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


def code(tree: HarnessTree) -> str:
    """All text files of a harness, each in a block, which holds its first lines where it is long."""
    parts = []
    for path in sorted(tree.files):
        try:
            part = _part(path, lines_of(tree.text(path)), CODE)
        except HarnessError:  # not a text file; its name says enough
            parts.append(f"{visible(path)}: {len(tree.files[path]):,} bytes, not text")
            continue
        left = [f"Left out here: the next {part.left:,} lines of {visible(path)}."] if part.left else []
        parts += [part.block, *left]
    return "\n".join(parts)


def shown_whole(tree: HarnessTree) -> bool:
    """Whether :func:`code` shows all of a harness's text."""
    return all(len(content.decode(errors="ignore")) <= SHOWN for content in tree.files.values())


def lines_of(text: str) -> list[str]:
    """The lines of a text as editors count them."""
    return text.removesuffix("\n").split("\n") if text else []


class Part(NamedTuple):
    """Lines of a file in a block, the number of the line after them, and how many lines come from there on."""

    block: str
    next: int
    left: int


def _part(path: str, lines: Iterable[str], by: str, first: int = 1, most: int | None = None) -> Part:
    """As many whole lines as a result holds; the first one is cut where it alone is longer."""
    part: list[str] = []
    room, total = SHOWN, 0
    for total, line in enumerate(lines, 1):
        if total == first + len(part) and len(part) != most and (not part or len(line) <= room):
            part.append(line)
            room -= len(line) + 1
    after = first + len(part)
    where = path if len(part) == total else f"{path}, lines {first} to {after - 1} of {total}"
    block = fenced("\n".join(part), where if total else f"{path}, which is empty", SHOWN, by=by)
    return Part(block, after, total + 1 - after)


def _asked(look: Look, lines: Iterable[str], by: str) -> str:
    """The lines that were asked for, and where the next ones are."""
    part = _part(look.path, lines, by, look.first_line, look.lines)
    if part.next == look.first_line > 1:
        raise ToolError(f"{look.path} has {part.next + part.left - 1} lines, so none from line {look.first_line} on")
    more = f"\n{part.left:,} more lines; first_line={part.next} shows the next" if part.left else ""
    return part.block + more
