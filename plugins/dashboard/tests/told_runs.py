"""Runs as their ledgers hold them, made by hand: no task, no sandbox, no model."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sia_core.evidence import Rollout
from sia_core.harness import HarnessTree
from sia_core.run.intervals import beside, estimate
from sia_core.run.ledger import Ledger
from sia_core.run.trees import Trees
from sia_core.types import Instance, Split
from sia_testing.fakes import FakeTask

DIFF = """\
--- a/harness.py
+++ b/harness.py
@@ -1,2 +1,2 @@
 def solve(instance, ctx):
-    return "a"
+    return "b"
"""


class Story:
    """A run that is told step by step. ``say`` is what every text of it holds, such as a script."""

    def __init__(self, folder: Path, say: str = "words") -> None:
        self.ledger, self.say = Ledger.create(folder), say
        tree = HarnessTree({"harness.py": f'def solve(instance, ctx):\n    return "{say}"\n'.encode()})
        self.harness = Trees(folder).put(tree)
        self.first = self.harness[:12]
        self.metric: dict[str, Any] = {}

    def begins(self, budget: dict[str, float] | None = None) -> Story:
        plan = {"levers": ["harness", "weights"], "seed": 0, "repeats": 1}
        config = {"plan": plan, "improver": self.say, "budget": budget or {}, "engine": None}
        about = {
            "task": self.say,
            "metric": {"name": self.say, "direction": "maximize", **self.metric},
            "version": "0.1.0",
        }
        self.ledger.record("run", {"config": config, **about})
        self.ledger.record("sandbox", {"name": "namespaces", "lacks": []})
        self.ledger.record("gate", {"smallest_gain": 0.1, "to_halve": 50, "n": 20, "alpha": 0.01})
        self.ledger.record("draft", self.harness)
        self.rolls_out("search", self.first, [0.0, 1.0, 0.0, 0.0])
        self.rolls_out("gate", self.first, [0.0, 1.0] * 10)
        return self

    def rolls_out(
        self,
        purpose: str,
        agent: str,
        rewards: list[float],
        batch: int = 0,
        outcomes: Mapping[int, str] | None = None,
    ) -> None:
        rollouts = [self._rollout(reward, place).to_json() for place, reward in enumerate(rewards)]
        for place, outcome in (outcomes or {}).items():
            rollouts[place]["outcome"] = outcome
        self.ledger.record(f"rollouts/{purpose}/{agent}/{batch:04d}", {"rollouts": rollouts, "given_up": ""})

    def _rollout(self, reward: float, place: int) -> Rollout:
        call = '[{"id": "1", "type": "function", "function": {"name": "look", "arguments": "{\\"at\\": 1}"}}]'
        messages = ({"role": "user", "content": f"question {place} {self.say}"},)
        replies = ({"role": "assistant", "content": f"I look.{call}"},)
        return Rollout(
            instance=f"case-{place}-{self.say}",
            outcome="ok" if place else "crashed",
            reward=reward,
            answer='{"code": "line one\\nline two"}' if place % 2 else f'"{self.say.replace(chr(34), "")}"',
            message=self.say,
            feedback=self.say,
            log=self.say,
            seconds=0.25,
            tokens=12,
            turns=({"messages": messages, "replies": replies},),
        )

    def decides(self, generation: int = 0) -> Story:
        about = {"reason": f"because {self.say}", "prediction": {"gain": 0.1, "where": self.say}, "parent": self.first}
        edit = {"lever": "harness", "name": f"edit {self.say}"[:80], "edits": [], **about}
        update = {"lever": "weights", "algorithm": "ppo", "config": {}, "training": {}, **about}
        self.ledger.record(f"generation/{generation}/decide", [edit, update])
        return self

    def trains(self, generation: int = 0, first: int = 0) -> Story:
        values = {"reward": 0.5, "kl": 0.01, "surprise": 1.2, "grad_norm": 1.0, "loss": 0.1, "flat_groups": 0.2}
        steps = [{"step": first + step, "rollouts": 8, "tokens": 9, **values} for step in range(3)]
        self.ledger.record(f"generation/{generation}/train/1/{first:05d}", {"steps": steps, "adapter": "a" * 64})
        return self

    def gates(
        self, generation: int = 0, index: int = 0, agent: str = "b" * 12, *, accepted: bool = True, **more: Any
    ) -> Story:
        lever = "weights" if index else "harness"
        self.ledger.record(f"generation/{generation}/diff/{index}", DIFF.replace('"b"', f'"{self.say}"'))
        self.rolls_out("search", agent, [1.0, 1.0, 0.0, 1.0])
        gate = {"incumbent": 0.5, "candidate": 0.8, "delta": 0.3, "ci95": [0.1, 0.5], "n": 20, "planned": 20}
        row: dict[str, Any] = {
            "generation": generation,
            "lever": lever,
            "name": f"change {self.say}",
            "algorithm": "ppo" if index else None,
            "parent": self.first,
            "agent": agent,
            "reason": f"because {self.say}",
            "predicted": 0.1,
            "outcome": "promoted" if accepted else "rejected",
            "why": f"better {self.say}",
            "gain": 0.5,
            "table": f"ppo {self.say}" if index else "",
            "accepted": accepted,
            "verdict": "better",
            "harness": self.harness,
            "adapter": None,
            "gate": {**gate, "wealth": 100.0, "threshold": 20.0},
            "estimate": {"rollouts": 10.0, "memory": 2.0**20} if index else {},
            "took": {"rollouts": 9.0} if index else {},
            "stopped": self.say if index else "",
            "against": self.first,
            "against_parent": None,
            **more,
        }
        self.ledger.record(f"generation/{generation}/gated/{index}", row)
        return self

    def ends(self) -> Story:
        self.ledger.record("closed", {"why": f"enough {self.say}"})
        self.rolls_out("sealed", self.first, [0.0, 1.0])
        score = {**beside(estimate([0.0, 1.0] * 20), estimate([0.0, 1.0] * 10)), "out_of_tokens": 0}
        for which in ("initial", "final"):
            self.ledger.record(f"sealed/{which}", score)
        history = [{"agent": self.first, "change": None, **score}]
        perturbed = [{"agent": self.first, **score, "change": score}]
        robustness = {
            "history": history,
            "taken_back": [],
            "perturbation": self.say,
            "perturbed": perturbed,
            "left_out": 0,
        }
        self.ledger.record("robustness", robustness)
        self.ledger.record("finished", {"spent": {"rollouts": 100.0, "seconds": 12.0, "dollars": 0.5}})
        return self

    def whole(self) -> Story:
        """A finished run with a candidate of each lever."""
        story = self.begins({"rollouts": 1000.0}).decides().trains().gates()
        return story.gates(index=1, agent="c" * 12, accepted=False).ends()


Tell = Callable[..., Story]


class LabelledTask(FakeTask):
    """A task whose cases are the ones of a story, with labels that no page may interpret."""

    def __init__(self, folder: Path, say: str) -> None:
        super().__init__()
        self._folder, self._say = folder, say

    def instances(self, split: Split) -> list[Instance]:
        return [Instance(f"case-{place}-{self._say}", split, {"text": f"asked {self._say}"}) for place in range(20)]

    def public_dir(self, splits: Sequence[Split]) -> Path:
        cases = [{"id": each.id, "answer": f"right {self._say}"} for each in self.instances("search")]
        (self._folder / "cases.jsonl").write_text("".join(json.dumps(each) + "\n" for each in cases))
        return self._folder
