"""Prompts in chunks that are kept: what prompts begin with alike is computed once, until the next update.

A chunk's name is the number of rows that it was computed among, and the tokens up to its
end. Its numbers follow from these alone.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence

from torch import Tensor

CHUNK, SHORT = 32, 8
"""Tokens of a prompt that are kept together: of any policy, and of one that need not fill up its blocks."""
KEPT = 8192
"""How many tokens of prompts are kept, and of how many positions the angles."""

Name = tuple[int, tuple[int, ...]]


class Chunks:
    """Keys and values (layers, K, size, E) of chunks by name, and the state (D) after the last token of each.

    ``varies`` says that blocks need not be filled up, so that chunks which follow one another can be computed at once.
    """

    def __init__(self, *, varies: bool) -> None:
        self.size, self._varies = SHORT if varies else CHUNK, varies
        self._entries: OrderedDict[Name, tuple[Tensor, Tensor, Tensor]] = OrderedDict()

    def paths(self, prompts: Sequence[Sequence[int]], rows: int) -> list[list[Name]]:
        """The names of each prompt's chunks, in order."""
        return [
            [(rows, tuple(prompt[: start + self.size])) for start in range(0, len(prompt), self.size)]
            for prompt in prompts
        ]

    def missing(self, paths: Sequence[Sequence[Name]]) -> Iterator[tuple[int, list[list[Name]]]]:
        """Chunks to compute: the place in their paths of the first, and names of those at each place from there on.

        A name goes on in the one at its place in the next list. There is more than one list
        where no path forks or ends in between and blocks need not be filled up.
        """
        first, run = 0, list[list[Name]]()
        for depth in range(max(map(len, paths))):
            reached = {path[depth]: path[depth - 1] for path in paths if depth < len(path)}
            missing = [name for name in reached if name not in self._entries]
            if run and not (self._varies and [reached[name] for name in missing] == run[-1]):
                yield first, run
                run = []
            if missing:
                first = first if run else depth
                run.append(missing)
        if run:
            yield first, run

    def keep(self, name: Name, keys: Tensor, values: Tensor, state: Tensor) -> None:
        """Keep a chunk that was computed."""
        self._entries[name] = keys, values, state

    def take(self, name: Name) -> tuple[Tensor, Tensor, Tensor]:
        """A chunk's keys, values and state. The chunks that were taken last are the last to be forgotten."""
        self._entries.move_to_end(name)
        return self._entries[name]

    def fill_before(self, names: Sequence[Name], keys: Tensor, values: Tensor) -> None:
        """Write the keys and values of the chunks before these into the rows of (rows, layers, K, start, E)."""
        for row, (width, tokens) in enumerate(names):
            for first in range(0, keys.shape[3], self.size):
                here = slice(first, first + self.size)
                keys[row, :, :, here], values[row, :, :, here], _ = self._entries[width, tokens[: here.stop]]

    def forget(self) -> None:
        """Drop the chunks that were not taken for the longest time, where there are too many."""
        while len(self._entries) > KEPT // self.size:
            self._entries.popitem(last=False)
