"""One RL step (rollout, reward, update) against TRL's GRPOTrainer: the same model, prompts and settings, interleaved.

    python plugins/torch/bench/rl_step.py [--prompt 250] [--new 64] [--steps 5] [--threads 2]

A Llama of 3.3 M parameters, LoRA of rank 32 on attention, 4 prompts, groups of 8. Each
round runs one step of TRL's and one of ours; the table has medians over the rounds after
the first two, which warm up. Peaks of memory are of one process each.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from peft import LoraConfig
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, TrainerCallback

from sia_algorithms.grpo import Grpo
from sia_core.learning import Request, Sample
from sia_torch.engine import Torch
from sia_torch.tree import pack, plan

PROMPTS, GROUP, VOCABULARY, WARM = 4, 8, 1024, 2


def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=256,
            intermediate_size=640,
            num_hidden_layers=4,
            num_attention_heads=8,
            num_key_value_heads=8,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=1,
            pad_token_id=0,
        )
    )


def tokenizer() -> PreTrainedTokenizerFast:
    words = {"<pad>": 0, "<end>": 1, **{f"w{number}": number for number in range(2, VOCABULARY)}}
    inner = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<end>")


def prompts(length: int) -> list[list[int]]:
    rng = random.Random(0)
    return [[rng.randrange(2, VOCABULARY) for _ in range(length - 2 * number)] for number in range(PROMPTS)]


def reward(tokens: Sequence[int]) -> float:
    return sum(token % 2 for token in tokens) / len(tokens)


class Ours:
    """Our step, timed by part."""

    def __init__(self, folder: Path, length: int, new: int) -> None:
        self.engine = Torch(policy=f"hf:{folder}", micro_tokens=16384, dtype="float32", temperature=1.0)
        # Both sample ``new`` tokens: a step's length must not depend on chance.
        self.engine.tokens.stops = ()
        self.prompts, self.new, self.learner, self.step = prompts(length), new, Grpo(), 0
        self.times: dict[str, list[float]] = {}

    def timed(self, name: str, work: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = work()
        self.times.setdefault(name, []).append(time.perf_counter() - start)
        return result

    def run(self) -> None:
        start = time.perf_counter()
        seeds = [
            range(self.step * 1000 + GROUP * each, self.step * 1000 + GROUP * (each + 1)) for each in range(PROMPTS)
        ]
        asked = [Request(prompt, list(some), self.new) for prompt, some in zip(self.prompts, seeds, strict=True)]
        out = self.timed("sampling", lambda: self.engine.sample(asked))
        groups = [
            [Sample(str(number), "a", reward(each.tokens), [each.trace(prompt)]) for each in row]
            for number, (prompt, row) in enumerate(zip(self.prompts, out, strict=True))
        ]
        data = self.timed("reward and credit", lambda: self.learner.credit(groups))

        def update() -> None:
            self.engine.forward_backward(data, self.learner.loss, self.learner.config.model_dump())
            self.engine.optim_step(lr=4e-5)

        self.timed("update", update)
        self.times.setdefault("step", []).append(time.perf_counter() - start)
        self.step += 1
        traces = [each.trace for each in data]
        self.timed("  of it log-probabilities (forward alone)", lambda: self.engine.logprobs(traces))
        self.timed("floor: bare forward and backward, prompts shared", lambda: self.floor(traces))

    def floor(self, traces: Sequence[Any]) -> None:
        """What no update of shared prompts can be faster than: the model's forward and backward, and no more."""
        policy = self.engine.policy
        for rows in plan(traces, [[index] for index in range(len(traces))], self.engine.settings.micro_tokens):
            packed = pack([[traces[index] for index in row] for row in rows], 0, policy.features, policy.device)
            policy.hidden(packed).sum().backward()
        self.engine._optimizer.zero_grad()


class Between(TrainerCallback):
    """Times TRL's steps and runs something between them."""

    def __init__(self, between: Callable[[], None]) -> None:
        self.between, self.times = between, [0.0]

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.start = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.times.append(time.perf_counter() - self.start)
        self.between()


def trl(folder: Path, length: int, new: int, steps: int, between: Callable[[], None]) -> list[float]:
    """The seconds of TRL's steps, with ``between`` run after each."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    words = tokenizer()
    watch = Between(between)
    with tempfile.TemporaryDirectory() as out:
        settings = GRPOConfig(
            output_dir=out,
            per_device_train_batch_size=PROMPTS * GROUP,
            num_generations=GROUP,
            max_completion_length=new,
            max_steps=steps,
            learning_rate=4e-5,
            beta=0.0,
            bf16=False,
            use_cpu=True,
            gradient_checkpointing=False,
            generation_kwargs={"min_new_tokens": new},
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        trainer = GRPOTrainer(
            model=LlamaForCausalLM.from_pretrained(folder),
            reward_funcs=lambda completion_ids, **_: [reward(ids) for ids in completion_ids],
            args=settings,
            train_dataset=Dataset.from_dict({"prompt": [words.decode(each) for each in prompts(length)]}),
            processing_class=words,
            peft_config=LoraConfig(r=32, lora_alpha=32, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"]),
            callbacks=[watch],
        )
        trainer.train()
    return watch.times[1:]


def peak(which: str, options: argparse.Namespace) -> float:
    """The most memory, in MB, of a process that runs a few steps of one side alone."""
    command = [sys.executable, __file__, "--only", which, "--steps", "3"]
    command += ["--prompt", str(options.prompt), "--new", str(options.new), "--threads", str(options.threads)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("prompt", 250), ("new", 64), ("steps", 5), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--only", choices=["ours", "trl"], help="run one side and print its peak memory in MB")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        whole = model()
        whole.save_pretrained(path)
        tokenizer().save_pretrained(path)
        if options.only == "trl":
            trl(path, options.prompt, options.new, options.steps, lambda: None)
        ours = Ours(path, options.prompt, options.new)
        if options.only == "ours":
            for _ in range(options.steps):
                ours.run()
        if options.only:
            # Not ru_maxrss: a child inherits its parent's.
            print(int(re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[0]) / 1024)
            return
        theirs = trl(path, options.prompt, options.new, options.steps + WARM, ours.run)
    report(options, sum(weight.numel() for weight in whole.parameters()), theirs, ours.times)


def report(options: argparse.Namespace, size: int, theirs: Sequence[float], ours: dict[str, list[float]]) -> None:
    print(
        f"{size / 1e6:.1f} M parameters, {PROMPTS} prompts of {options.prompt}, groups of {GROUP}, {options.new} new,"
    )
    print(f"{options.threads} threads, medians of {options.steps} interleaved rounds; load {os.getloadavg()[0]:.1f}")
    step = median(ours["step"][WARM:])
    slow = median(theirs[WARM:])
    print(
        f"{'TRL step':<52}{slow * 1000:8.0f} ms  ({min(theirs[WARM:]) * 1000:.0f} to {max(theirs[WARM:]) * 1000:.0f})"
    )
    print(f"{'our step':<52}{step * 1000:8.0f} ms  {slow / step:.1f} times as fast")
    for name in (name for name in ours if name != "step"):
        print(f"  {name:<50}{median(ours[name][WARM:]) * 1000:8.0f} ms")
    print(f"peak memory: TRL {peak('trl', options):.0f} MB, ours {peak('ours', options):.0f} MB")


if __name__ == "__main__":
    main()
