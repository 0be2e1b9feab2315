"""The tasks ``gpqa`` and ``longcot-chess``: questions whose answers lie in a file of their own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from sia_bundled.bundled import Bundled, Case, Data, Right, dealt
from sia_core.errors import UsageError
from sia_core.types import Split

THIRDS: Mapping[Split, int] = {"public": 0, "search": 1, "gate": 1, "sealed": 1}
"""The questions are few: none is spent on examples, and the three splits that decide get equal parts."""


class Questions(Data):
    """Questions and answers, a JSON file each."""

    questions: ClassVar[str]
    answers: ClassVar[str]

    def _read(self, name: str, kind: type) -> Any:
        try:
            value = json.loads(self.source.read(name))
        except ValueError as error:
            raise UsageError(f"{self.task}: {name} in {self.source.path} is malformed: {error}") from None
        if not isinstance(value, kind) or not value:
            raise UsageError(f"{self.task}: {name} in {self.source.path} is malformed: expected a {kind.__name__}")
        return value

    @cached_property
    def cases(self) -> Mapping[Split, tuple[Case, ...]]:
        return dealt([self.case(row) for row in self._read(self.questions, list)], THIRDS, self.seed)

    def case(self, row: Mapping[str, Any]) -> Case:
        """A row of the file of questions."""
        raise NotImplementedError


class GpqaData(Questions):
    """``diamond_questions.json``, public and private."""

    task = "gpqa"
    questions = "public/diamond_questions.json"
    answers = "private/diamond_questions.json"

    def case(self, row: Mapping[str, Any]) -> Case:
        fields = {name.lower(): row[name] for name in ("Question", "options", "domain", "subdomain")}
        return Case(str(row["id"]), fields)

    def truth(self, split: Split) -> Mapping[str, Any]:
        ids = {case.key for case in self.cases[split]}
        rows = self._read(self.answers, list)
        return {str(row["id"]): row["correct_answer_letter"] for row in rows if str(row["id"]) in ids}

    def answer(self, truth: Any) -> Any:
        return {"answer": truth}


class Letter(BaseModel):
    """The letter of one of the four options."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    answer: Literal["A", "B", "C", "D"]


class Gpqa(Bundled):
    """Task ``gpqa``: 198 questions of GPQA diamond (arXiv 2311.12022), a third each to search, gate and sealed."""

    name = "gpqa"
    folder = "gpqa"
    data = GpqaData
    answer = Letter
    brief = """\
Answer a graduate-level question of biology, chemistry or physics: which of four options is right?

`instance.input` has "question", "options" (by the letters A to D), "domain" and "subdomain"; the answer is
{"answer": LETTER}. The share of right letters is what counts. The run's model is asked with `ctx.model(messages)`;
questions are independent of one another. `ctx.public` holds `cases.jsonl`, which is empty while the agent is improved.
"""


class GpqaVerifier(Right):
    """The verifier ``gpqa``."""

    data = GpqaData


class ChessData(Questions):
    """``chess_hard.json`` and ``answers.json``."""

    task = "longcot-chess"
    questions = "public/chess_hard.json"
    answers = "private/answers.json"

    def case(self, row: Mapping[str, Any]) -> Case:
        return Case(row["question_id"], {"prompt": row["prompt"], "template": row["problem"]["template"]})

    def truth(self, split: Split) -> Mapping[str, Any]:
        every = self._read(self.answers, dict)
        return {case.key: every[case.key] for case in self.cases[split] if case.key in every}

    def answer(self, truth: Any) -> Any:
        return {"solution": truth if isinstance(truth, list) else int(truth)}

    def right(self, answer: Any, truth: Any) -> bool:
        """As the task's own script has it: as many moves and the same ones, in any order; numbers as text."""
        solution = answer["solution"]
        if isinstance(truth, list):
            return isinstance(solution, list) and len(solution) == len(truth) and set(solution) == set(truth)
        return not isinstance(solution, list) and str(solution) == str(truth).strip()


class Solution(BaseModel):
    """Three moves in standard algebraic notation, or a number of moves."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    solution: list[str] | int


class Chess(Bundled):
    """Task ``longcot-chess``: 50 problems, a third each to search, gate and sealed."""

    name = "longcot-chess"
    folder = "chess"
    data = ChessData
    answer = Solution
    brief = """\
Solve a chess problem of one of two kinds, `instance.input["template"]`:

- best_3_moves: the three best next moves of a position; the answer is {"solution": ["c4", "bxc4", "Kd5"]}, in SAN.
- knight_path: the least number of moves in which a knight touches all target squares of a 100 x 100 board; the answer
  is {"solution": 218}.

`instance.input["prompt"]` is the problem. The share of right answers is what counts. The run's model is asked with
`ctx.model(messages)`; a harness may also compute. Problems are independent of one another.
"""


class ChessVerifier(Right):
    """The verifier ``longcot-chess``."""

    data = ChessData
