"""Rows with a reward function: a Hugging Face dataset, or any other sequence of mappings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

from sia_adapters.adapted import Adapted, Item, plain


class Rows(Adapted):
    """A subclass says ``rows()`` and ``reward(row, answer)``. The columns in ``hidden`` are the verifier's alone."""

    hidden: ClassVar[tuple[str, ...]] = ("answer",)

    def rows(self) -> Iterable[Mapping[str, Any]]:
        """All rows: a dataset, a list of dictionaries."""
        raise NotImplementedError

    def reward(self, row: Mapping[str, Any], answer: Any) -> float:
        """The reward of an answer; the row holds the hidden columns too."""
        raise NotImplementedError

    def items(self) -> Iterator[Item]:
        for row in self.rows():
            fields = {name: plain(value) for name, value in row.items()}
            question = {name: value for name, value in fields.items() if name not in self.hidden}
            yield Item(question, {name: fields[name] for name in self.hidden if name in fields})

    def worth(self, item: Item, answer: Any) -> float:
        return self.reward({**item.input, **item.truth}, answer)
