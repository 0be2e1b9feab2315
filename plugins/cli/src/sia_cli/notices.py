"""Notices for the user as a run starts: files left out of the harness, and edits that can never be tried."""

from __future__ import annotations

from collections import deque

from sia_core.errors import HarnessError
from sia_core.harness import IGNORE_FILE, HarnessTree, apply_edits
from sia_core.playbook import PLAYBOOK, Entry, Playbook
from sia_core.types import Task

MOST_TREES = 200
"""How many harnesses, made by edits of a catalogue, are looked at for where its other edits apply."""


def notices(task: Task) -> list[str]:
    """One sentence for each thing that the user may not expect."""
    seed, playbook = task.seed_harness(), task.playbook()
    return [*_left_out(seed), *(unfit(seed, playbook) if playbook else ())]


def _left_out(seed: HarnessTree) -> list[str]:
    if not seed.left_out:
        return []
    example = seed.left_out[0].partition(" (")[0]
    return [
        f"left out of the harness: {', '.join(seed.left_out)}. A line in {IGNORE_FILE} keeps one (`!{example}`), or "
        "leaves it out without this notice."
    ]


def unfit(seed: HarnessTree, playbook: Playbook) -> list[str]:
    """The edits that apply neither to the first harness nor to one that the other edits make of it."""
    entries = {entry.name: entry for entry in playbook.edit}
    digests, waiting = {seed.digest}, deque([seed])
    while waiting and entries:
        tree = waiting.popleft()
        for entry in playbook.edit:
            try:
                edited = apply_edits(tree, entry.change)
            except HarnessError:
                continue
            if edited.digest != tree.digest:
                entries.pop(entry.name, None)
                if edited.digest not in digests and len(digests) < MOST_TREES:
                    digests.add(edited.digest)
                    waiting.append(edited)
    others = "no other edit makes it apply"
    if len(digests) == MOST_TREES:
        others = f"it applies to none of the first {MOST_TREES} harnesses that other edits make"
    return [
        f"{PLAYBOOK}: the edit {entry.name!r} cannot be tried: {_reason(seed, entry)}; {others}"
        for entry in entries.values()
    ]


def _reason(seed: HarnessTree, entry: Entry) -> str:
    try:
        apply_edits(seed, entry.change)
    except HarnessError as error:
        return str(error)
    return "it changes nothing"
