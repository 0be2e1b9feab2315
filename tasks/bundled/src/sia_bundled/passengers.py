"""The task ``spaceship-titanic``: a table of passengers, and who of them was transported."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

from pydantic import BaseModel, ConfigDict

from sia_bundled.bundled import Bundled, Case, Data, Right, dealt
from sia_core.errors import UsageError
from sia_core.types import Limits, Split

TRAIN, TEST, SEALED = "public/train.csv", "public/test.csv", "private/test.csv"
KEY, LABEL = "PassengerId", "Transported"
SHARES: Mapping[Split, int] = {"public": 8, "search": 7, "gate": 5}
"""How the training data are dealt out, in twentieths."""


class Passengers(Data):
    """Training data for the labelled splits, the test data of the competition's copy for the sealed one."""

    task = "spaceship-titanic"

    def _rows(self, name: str) -> Iterator[dict[str, str]]:
        try:
            rows = list(
                csv.DictReader(io.StringIO(self.source.read(name).decode("utf-8-sig"), newline=""), strict=True)
            )
        except (UnicodeDecodeError, csv.Error) as error:
            raise UsageError(f"{self.task}: {name} in {self.source.path} is malformed: {error}") from None
        if not rows or KEY not in rows[0]:
            raise UsageError(f"{self.task}: {name} in {self.source.path} is malformed: no column {KEY!r}")
        yield from rows

    def _cases(self, name: str) -> list[Case]:
        return [Case(row[KEY], {key: row[key] for key in row if key != LABEL}) for row in self._rows(name)]

    @cached_property
    def cases(self) -> Mapping[Split, tuple[Case, ...]]:
        sealed = tuple(sorted(self._cases(TEST), key=lambda case: case.id))
        return {**dealt(self._cases(TRAIN), SHARES, self.seed), "sealed": sealed}

    def truth(self, split: Split) -> Mapping[str, Any]:
        """Of the sealed split it is in a file that nothing else reads."""
        return {row[KEY]: row[LABEL] == "True" for row in self._rows(SEALED if split == "sealed" else TRAIN)}

    def answer(self, truth: Any) -> Any:
        return {"transported": truth}


class Transported(BaseModel):
    """Whether the passenger was transported to another dimension."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    transported: bool


class Titanic(Bundled):
    """Task ``spaceship-titanic``: 870 sealed passengers, and 7,823 labelled ones to learn from."""

    name = "spaceship-titanic"
    folder = "titanic"
    data = Passengers
    answer = Transported
    limits = Limits(solve_seconds=10.0)
    brief = """\
Say which passengers of the Spaceship Titanic were transported to another dimension (about half of them were).

`instance.input` is a passenger's record, every value a text, empty where it is not known: PassengerId
(`gggg_pp`, gggg the group that the passenger travels with), HomePlanet, CryoSleep, Cabin (`deck/num/side`),
Destination, Age, VIP, the amounts spent on RoomService, FoodCourt, ShoppingMall, Spa and VRDeck, and Name.
The answer is {"transported": true} or {"transported": false}. Accuracy is what counts.

`ctx.public` holds `cases.jsonl`, labelled passengers, one {"id", "input", "answer"} a line: about 3,100 of them
while the agent is being improved, about two and a half times as many at the end. The harness may import the
standard library and scikit-learn. While harness.toml says `stateless = true`, solving one passenger must change
nothing that the next could see.
"""


class TitanicVerifier(Right):
    """The verifier ``spaceship-titanic``."""

    data = Passengers
