"""Rollouts and seconds until SmolLM2's mean reward on sums in words is 0.8: TRL's trainer and ours.

    python plugins/torch/bench/learning_words.py [--seeds 1] [--sides float32 bfloat16 trl] [--steps 24]

The prompts are those of the task `reasoning` with its edit `calculator`: the model writes an expression, which is
computed. LoRA of rank 32 on attention, GRPO without a penalty, 16 prompts in groups of 8 a step, at most 12 new tokens
at a temperature of 0.7, a constant rate of 5e-4, the same questions in the same order. Done is whoever's mean over two
steps, 256 rollouts, is 0.8; loading is not counted. One side after the other, each in a process of two threads.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import time
import warnings
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from rl_step import GROUP, train
from transformers import AutoTokenizer, TrainerCallback

from sia_algorithms.grpo import Grpo
from sia_core.harness import apply_edits
from sia_core.learning import Request, Sample
from sia_core.types import Instance
from sia_reasoning.task import Reasoning
from sia_torch.engine import Torch
from sia_torch.pretrained import model_of

PROMPTS, NEW, RATE, TEMPERATURE, GOAL = 16, 12, 5e-4, 0.7, 0.8
MICRO = 32
"""Sequences of a forward pass of TRL's: all 128 at once take more memory than most laptops have."""


class Sums:
    """The questions, as prompts and with the reward of a reply."""

    def __init__(self, folder: Path, seed: int) -> None:
        task = Reasoning()
        edit = next(each for each in task.playbook().edit if each.name == "calculator")
        self._files = apply_edits(task.seed_harness(), edit.change)
        self._reading = self._module("about"), self._module("calculator"), self._module("reading")
        shown = self._module("shots").load(folder)
        words = AutoTokenizer.from_pretrained(folder)
        questions = list(task.instances("search"))
        random.Random(seed).shuffle(questions)
        self._right = {each.id: answer for each, answer in zip(questions, self._answers(task, questions), strict=True)}
        self.prompts: list[tuple[str, str]] = []
        for each in questions:
            messages = self._module("asking").messages(each.input["question"], shown)
            text = str(words.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
            self.prompts.append((each.id, text))

    def step(self, number: int) -> list[tuple[str, str]]:
        """The prompts of a step, by id and text; the order repeats."""
        places = range(number * PROMPTS, (number + 1) * PROMPTS)
        return [self.prompts[place % len(self.prompts)] for place in places]

    def reward(self, question: str, reply: str) -> float:
        return float(self._reading[-1].answer(reply) == self._right[question])

    def _module(self, name: str) -> ModuleType:
        module = ModuleType(name)
        sys.modules[name] = module  # the harness's files import one another by these names
        exec(compile(self._files.text(f"{name}.py"), f"{name}.py", "exec"), module.__dict__)
        return module

    def _answers(self, task: Reasoning, questions: list[Instance]) -> list[str]:
        labelled = task.public_dir(["search"]) / "cases.jsonl"
        rows = map(json.loads, labelled.read_text().splitlines())
        answers = {row["id"]: row["answer"] for row in rows}
        return [answers[each.id] for each in questions]


class Watch:
    """The rewards of each step, and the time that it took; says when the goal is reached."""

    def __init__(self) -> None:
        self.rewards: list[float] = []
        self.seconds, self.processor = 0.0, 0.0

    def start(self) -> None:
        self._wall, self._used = time.perf_counter(), time.process_time()

    def stop(self) -> None:
        self.seconds += time.perf_counter() - self._wall
        self.processor += time.process_time() - self._used

    @property
    def done(self) -> bool:
        return any(a + b >= 2 * GOAL for a, b in pairwise(self.rewards))


def ours(folder: Path, sums: Sums, dtype: str, steps: int, seed: int) -> Watch:
    """The engine and the learner as an update drives them, without a loop around."""
    engine = Torch(policy=f"hf:{folder}", dtype=dtype, temperature=TEMPERATURE, seed=seed)
    learner, watch = Grpo(), Watch()
    for step in range(steps):
        watch.start()
        asked = sums.step(step)
        first = (seed * steps + step) * PROMPTS * GROUP
        requests = [
            Request(engine.tokens.encode(text), list(range(first + GROUP * place, first + GROUP * (place + 1))), NEW)
            for place, (_, text) in enumerate(asked)
        ]
        replies = engine.sample(requests)
        groups = [
            [Sample(question, "a", sums.reward(question, each.text), [each.trace(request.prompt)]) for each in row]
            for (question, _), request, row in zip(asked, requests, replies, strict=True)
        ]
        engine.forward_backward(learner.credit(groups), learner.loss, learner.config.model_dump())
        engine.optim_step(lr=RATE)
        watch.stop()
        rewards = [sample.reward for group in groups for sample in group]
        watch.rewards.append(sum(rewards) / len(rewards))
        if watch.done:
            break
    return watch


class Until(TrainerCallback):
    """Times TRL's steps, and ends its training where the goal is reached."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._watch.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **__: Any) -> None:
        self._watch.stop()
        control.should_training_stop = self._watch.done


def trl(folder: Path, sums: Sums, steps: int, seed: int) -> Watch:
    """TRL's GRPOTrainer with the same settings, in float32."""
    watch = Watch()

    def rewarded(completions: list[str], question: list[str], **_: Any) -> list[float]:
        rewards = [sums.reward(each, reply) for each, reply in zip(question, completions, strict=True)]
        watch.rewards.append(sum(rewards) / len(rewards))
        return rewards

    asked = [pair for step in range(steps) for pair in sums.step(step)]
    train(
        folder,
        [{"prompt": text, "question": question} for question, text in asked],
        rewarded,
        Until(watch),
        per_device_train_batch_size=MICRO,
        gradient_accumulation_steps=PROMPTS * GROUP // MICRO,
        max_completion_length=NEW,
        max_steps=steps,
        learning_rate=RATE,
        lr_scheduler_type="constant",
        temperature=TEMPERATURE,
        seed=seed,
        shuffle_dataset=False,
    )
    return watch


def alone(side: str, seed: int, steps: int) -> None:
    """One run in this process, as a row of the table."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(2)
    folder = Path(model_of("smollm2") or "")
    sums = Sums(folder, seed)
    watch = trl(folder, sums, steps, seed) if side == "trl" else ours(folder, sums, side, steps, seed)
    rollouts = f"{'' if watch.done else 'not in '}{len(watch.rewards) * PROMPTS * GROUP:,}"
    name = "TRL, float32" if side == "trl" else f"SIA, {side}"
    means = ", ".join(f"{each:.2f}" for each in watch.rewards)
    print(f"| {name} | {seed} | {rollouts} | {watch.seconds:.0f} | {watch.processor:.0f} | {means} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument(
        "--sides", nargs="+", choices=["trl", "float32", "bfloat16"], default=["float32", "bfloat16", "trl"]
    )
    parser.add_argument("--steps", type=int, default=24, help="give up after this many steps")
    parser.add_argument("--only", nargs=2, metavar=("SIDE", "SEED"), help="one run, in this process")
    options = parser.parse_args()
    if options.only:
        alone(options.only[0], int(options.only[1]), options.steps)
        return
    print("| | seed | rollouts | seconds | processor seconds | mean reward by step |")
    print("| --- | --- | --- | --- | --- | --- |", flush=True)
    for seed in range(options.seeds):
        for side in options.sides:
            command = [sys.executable, __file__, "--only", side, str(seed), "--steps", str(options.steps)]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            print(output.splitlines()[-1], flush=True)


if __name__ == "__main__":
    main()
