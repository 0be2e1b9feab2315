"""The task: questions in a line or a page, which the run's model is asked."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from sia_core.cache import cache_folder, write_once
from sia_core.errors import UsageError
from sia_core.harness import HarnessTree
from sia_core.playbook import PLAYBOOK, Playbook
from sia_core.types import Instance, Kind, Limits, Metric, OfferRef, Split
from sia_reasoning.cases import SPLITS
from sia_reasoning.guard import MOST
from sia_reasoning.settings import WORDS, Settings, counted

HERE = Path(__file__).parent

SHORT, NUMBER, LONG = 12, 32, 96
"""New tokens of a reply: to ``words``, where every answer is a number, and elsewhere."""

MARK = b"    # examples\n"
"""The line of the catalogue in whose place the worked examples stand."""

ABOUT = '''\
"""The data set, for the harness: written by the task."""

NUMERIC = {numeric}  # every answer is a number
TOKENS = {tokens}  # of a reply
ASKS = "{asks}"
'''

ASKS = {True: "Answer with a number.", False: "Answer the question."}
"""The system message, by whether every answer is a number."""

BRIEF = """\
Answer short questions with the run's model, `ctx.model(messages)`, which may be small. {about}

`instance.input["question"]` is the question; the answer is {{"answer": TEXT}} with the final answer alone, at most
{most:,} characters. `ctx.public` holds `cases.jsonl`, {public} questions that occur nowhere else, with right answers:
one {{"id", "question", "answer"}} a line. The mean score is what counts, from 0 to 1. Questions are independent of one
another. {example}
"""

EXAMPLE = """The first one of `ctx.public`, and its answer:

{question}
{answer}"""


class ReasoningAnswer(BaseModel):
    """The final answer, as text."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    answer: str = Field(max_length=MOST)


class Reasoning:
    """Task ``reasoning``.

    ``dataset`` is ``words`` or the name of a data set of reasoning-gym, ``difficulty`` a JSON
    object with settings of it; ``search``, ``gate`` and ``sealed`` are how many questions each
    split has. ``tokens`` is how many new ones a reply has, by default what suits the data set.
    ``seed`` decides which questions there are, and which split each is in.
    """

    name = "reasoning"
    kind: Kind = "solve"
    metric = Metric("score")
    answer = ReasoningAnswer
    failure_reward = 0.0
    limits = Limits(solve_seconds=120.0)

    def __init__(
        self,
        dataset: str = WORDS,
        difficulty: str | Mapping[str, Any] = "{}",
        search: int | str = 192,
        gate: int | str = 80,
        sealed: int | str = 152,
        tokens: int | str | None = None,
        seed: int = 0,
    ) -> None:
        settings = Settings.of(dataset, difficulty, search, gate, sealed, seed)
        self._source = settings.source()
        self._deal = self._source.deal
        self._expressions = list(self._source.expressions.items())
        usual = SHORT if dataset == WORDS else NUMBER if self._source.numeric else LONG
        self._tokens = usual if tokens is None else counted("tokens", tokens, "new tokens a reply has")
        self.verifier = OfferRef("reasoning", settings.to_json())
        self.fingerprint = self._source.digest
        examples = self._labelled(("public",))
        example = EXAMPLE.format(**examples[0]) if examples else ""
        self.brief = BRIEF.format(about=self._source.about, most=MOST, public=len(examples), example=example)

    def instances(self, split: Split) -> Sequence[Instance]:
        """The questions of a split, in the order of their ids."""
        return [Instance(case.id, split, {"question": case.question}) for case in self._deal[split]]

    def public_dir(self, splits: Sequence[Split]) -> Path:
        """A folder with ``cases.jsonl``: id, question and answer of each case, the public split's first."""
        if "sealed" in splits:
            raise UsageError("reasoning: the sealed cases are for the report alone; ask for public, search or gate")
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in self._labelled(splits)]
        return write_once(cache_folder("reasoning"), {"cases.jsonl": "".join(lines).encode()})

    def seed_harness(self) -> HarnessTree:
        """Asks once, and takes the last number, or the last line, of the reply."""
        numeric = self._source.numeric
        about = ABOUT.format(numeric=numeric, tokens=self._tokens, asks=ASKS[numeric])
        return HarnessTree({**HarnessTree.from_folder(HERE / "seed").files, "about.py": about.encode()})

    def playbook(self) -> Playbook:
        """The catalogue of edits in ``playbook.toml``, with worked examples of the data set's kind."""
        path = HERE / PLAYBOOK
        lines = "".join(
            f"    ({json.dumps(question)}, {json.dumps(answer)}),\n" for question, answer in self._expressions
        )
        return Playbook.parse(path.read_bytes().replace(MARK, lines.encode()), path)

    def _labelled(self, splits: Sequence[Split]) -> list[dict[str, Any]]:
        """The cases of these splits with right answers; those without one to show are left out."""
        cases = [case for split in SPLITS if split in splits for case in self._deal[split]]
        return [
            {"id": case.id, "question": case.question, "answer": answer}
            for case, answer in zip(cases, self._source.answers(cases), strict=True)
            if answer is not None
        ]
