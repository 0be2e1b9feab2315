"""Measures edits of the catalogue with a model from a folder, on search questions; never looks at the sealed ones.

    python tasks/reasoning/bench/measure.py FOLDER                              # the seed and each edit alone, on words
    python tasks/reasoning/bench/measure.py FOLDER calculator worked-examples+eight-examples
    python tasks/reasoning/bench/measure.py FOLDER seed calculator --dataset chain_sum

Replies are greedy and the model is in bfloat16. Harnesses run in this process, without a sandbox.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sia_core.harness import HarnessTree, applies, apply_edits
from sia_core.types import Instance
from sia_reasoning.task import Reasoning
from sia_reasoning.verifier import ReasoningVerifier
from sia_testing.verifiers import context

SEED = "seed"
ROWS = 32

Request = tuple[str, int]


class Model:
    """Replies to many requests at once: a prompt as text, and how many new tokens there may be."""

    def __init__(self, folder: Path) -> None:
        self._tokens = AutoTokenizer.from_pretrained(folder, padding_side="left")
        self._tokens.pad_token = self._tokens.pad_token or self._tokens.eos_token
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()

    def prompt(self, messages: Sequence[dict[str, str]]) -> str:
        """A conversation as the text that the model continues."""
        text: str = self._tokens.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return text

    def replies(self, requests: Sequence[Request]) -> list[str]:
        """The greedy reply to each."""
        found: list[str] = []
        for start in range(0, len(requests), ROWS):
            rows = requests[start : start + ROWS]
            asked = [prompt for prompt, _ in rows]
            given = self._tokens(asked, return_tensors="pt", padding=True, add_special_tokens=False)
            with torch.inference_mode():
                ids = self._model.generate(**given, max_new_tokens=rows[0][1], do_sample=False)
            width = given.input_ids.shape[1]
            found += self._tokens.batch_decode(ids[:, width:], skip_special_tokens=True)
        return found


def score(task: Reasoning, tree: HarnessTree, model: Model, asked: Sequence[Instance]) -> float:
    """The mean score of a harness that asks once a question: first its questions are gathered, then answered."""
    verifier = ReasoningVerifier(**task.verifier.settings)
    with tempfile.TemporaryDirectory() as folder:
        tree.write_to(Path(folder))
        sys.path.insert(0, folder)
        importlib.invalidate_caches()
        try:
            harness = importlib.import_module("harness")
            state = harness.setup(SimpleNamespace(public=task.public_dir(("public",))))
            requests: list[Request] = []

            def gather(messages: list[dict[str, str]], max_tokens: int, **settings: Any) -> dict[str, Any]:
                requests.append((model.prompt(messages), max_tokens))
                return completion("")

            def solve(instance: Instance, ask: Callable[..., dict[str, Any]]) -> Any:
                return harness.solve(instance, SimpleNamespace(has_model=True, state=state, model=ask))

            for instance in asked:
                solve(instance, gather)
            rewards = [
                verifier.score(instance, solve(instance, lambda *a, said=text, **k: completion(said)), context()).reward
                for instance, text in zip(asked, model.replies(requests), strict=True)
            ]
        finally:
            sys.path.remove(folder)
            for path in tree.files:
                sys.modules.pop(path.removesuffix(".py"), None)
    return fmean(rewards)


def completion(text: str) -> dict[str, Any]:
    """A reply in the shape of chat completions."""
    return {"choices": [{"message": {"content": text}}]}


def main() -> None:
    """Print one line a harness."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a Hugging Face folder with a chat model")
    parser.add_argument("compositions", nargs="*", help="edits joined by +, or 'seed'; default: each that asks once")
    parser.add_argument("--dataset", default="words")
    parser.add_argument("--difficulty", default="{}")
    parser.add_argument("--questions", type=int, default=96)
    options = parser.parse_args()
    task, model = Reasoning(options.dataset, options.difficulty), Model(options.folder)
    edits = {entry.name: entry.change for entry in task.playbook().edit}
    seed, asked = task.seed_harness(), task.instances("search")[: options.questions]
    alone = [SEED, *(name for name, change in edits.items() if applies(seed, change) and name != "vote")]
    for name in options.compositions or alone:
        tree = seed
        for part in name.split("+"):
            tree = tree if part == SEED else apply_edits(tree, edits[part])
        start = time.perf_counter()
        print(f"| {name} | {score(task, tree, model, asked):.3f} | {time.perf_counter() - start:.0f} s |", flush=True)


if __name__ == "__main__":
    main()
