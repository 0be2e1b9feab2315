"""One RL step (rollout, reward, update) against TRL's GRPOTrainer: the same model, prompts and settings, interleaved.

    python plugins/torch/bench/rl_step.py [--policy toy|smollm2] [--prompt 250] [--new 64] [--steps 5] [--threads 2]

A Llama of 3.3 M parameters, or SmolLM2-135M; LoRA of rank 32 on attention, 4 prompts, groups
of 8. Each round runs one step of TRL's in float32 and one of ours in each of ``--dtypes``; the
table has medians over the rounds after the first two, which warm up. Peaks of memory are of
one process each.
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
from torch.nn import functional
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    TrainerCallback,
)

from sia_algorithms.grpo import Grpo
from sia_core.learning import Request, Sample
from sia_torch.engine import Torch
from sia_torch.pretrained import model_of
from sia_torch.tree import pack, plan

PROMPTS, GROUP, VOCABULARY, WARM = 4, 8, 1024, 2
DTYPES = ["float32", "bfloat16"]


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
    # The engine takes none without a template; here all prompts are plain texts.
    template = "{% for each in messages %}{{ each['content'] }}{% endfor %}"
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<end>", chat_template=template)


def prompts(folder: Path, length: int) -> list[str]:
    """Texts of about ``length`` tokens, each a little shorter than the one before."""
    rng, words = random.Random(0), AutoTokenizer.from_pretrained(folder)
    plain = sorted(word for word in words.get_vocab() if word.isalnum() and word.isascii() and len(word) > 1)
    wide = " ".join if len(plain) < VOCABULARY else "\n".join
    texts = [[rng.choice(plain) for _ in range(length)] for _ in range(PROMPTS)]
    return [
        words.decode(words.encode(wide(text), add_special_tokens=False)[: length - 2 * number])
        for number, text in enumerate(texts)
    ]


def reward(tokens: Sequence[int]) -> float:
    return sum(token % 2 for token in tokens) / len(tokens)


class Ours:
    """Our step, timed by part."""

    def __init__(self, folder: Path, length: int, new: int, dtype: str) -> None:
        self.engine = Torch(policy=f"hf:{folder}", micro_tokens=16384, dtype=dtype, temperature=1.0)
        # Both sample ``new`` tokens: a step's length must not depend on chance.
        self.engine.tokens.stops = ()
        self.prompts = [self.engine.tokens.encode(text) for text in prompts(folder, length)]
        self.new, self.learner, self.step = new, Grpo(), 0
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
        self.timed("floor of sampling: linear maps and head of each new token", self.decoding_floor)
        self.timed("floor of the update: bare forward and backward, prompts shared", lambda: self.update_floor(traces))

    @torch.inference_mode()
    def decoding_floor(self) -> None:
        """The least that sampling computes for its new tokens: the products with the model's weights."""
        named = self.engine.policy.model.named_modules()
        maps = [each.weight for name, each in named if isinstance(each, torch.nn.Linear) and "lora" not in name]
        states = {width: maps[0].new_zeros(PROMPTS * GROUP, width) for width in {each.shape[1] for each in maps}}
        for _ in range(self.new):
            for each in maps:
                states[each.shape[1]] @ each.T

    def update_floor(self, traces: Sequence[Any]) -> None:
        """An update of shared prompts by itself: the model's forward and backward, all logits at once."""
        policy = self.engine.policy
        for rows in plan(traces, [[index] for index in range(len(traces))], self.engine.settings.micro_tokens):
            some = [[traces[index] for index in row] for row in rows]
            packed = pack(some, 0, policy.features, policy.device, rooted=True)
            hidden = functional.embedding(packed.read_N, policy.hidden(packed).flatten(0, 1))
            functional.cross_entropy(hidden @ policy.head().T, packed.targets_N).backward()
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


def train(
    folder: Path,
    rows: list[dict[str, str]],
    rewarded: Callable[..., list[float]],
    watch: TrainerCallback,
    **settings: Any,
) -> None:
    """TRL's GRPOTrainer in float32, without a penalty, with LoRA of rank 32 on attention."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    with tempfile.TemporaryDirectory() as out:
        trainer = GRPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
            reward_funcs=rewarded,
            args=GRPOConfig(
                output_dir=out,
                num_generations=GROUP,
                beta=0.0,
                bf16=False,
                use_cpu=True,
                gradient_checkpointing=False,
                report_to="none",
                save_strategy="no",
                logging_strategy="no",
                disable_tqdm=True,
                **settings,
            ),
            train_dataset=Dataset.from_list(rows),
            processing_class=AutoTokenizer.from_pretrained(folder),
            peft_config=LoraConfig(r=32, lora_alpha=32, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"]),
            callbacks=[watch],
        )
        trainer.train()


def trl(folder: Path, length: int, new: int, steps: int, between: Callable[[], None]) -> list[float]:
    """The seconds of TRL's steps, with ``between`` run after each."""
    watch = Between(between)
    train(
        folder,
        [{"prompt": each} for each in prompts(folder, length)],
        lambda completion_ids, **_: [reward(ids) for ids in completion_ids],
        watch,
        per_device_train_batch_size=PROMPTS * GROUP,
        max_completion_length=new,
        max_steps=steps,
        learning_rate=4e-5,
        generation_kwargs={"min_new_tokens": new},
    )
    return watch.times[1:]


def peak(which: str, options: argparse.Namespace) -> float:
    """The most memory, in MB, of a process that runs a few steps of one side alone."""
    command = [sys.executable, __file__, "--only", which, "--steps", "3", "--policy", options.policy]
    command += ["--prompt", str(options.prompt), "--new", str(options.new), "--threads", str(options.threads)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("prompt", 250), ("new", 64), ("steps", 5), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--policy", choices=["toy", "smollm2"], default="toy")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=["float32"])
    parser.add_argument("--only", choices=["trl", *DTYPES], help="run one side and print its peak memory in MB")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(model_of("smollm2") or "") if options.policy == "smollm2" else toy(Path(scratch))
        if options.only:
            alone(folder, options)
            return
        ours = {dtype: Ours(folder, options.prompt, options.new, dtype) for dtype in options.dtypes}

        def between() -> None:
            for each in ours.values():
                each.run()

        theirs = trl(folder, options.prompt, options.new, options.steps + WARM, between)
    size = sum(weight.numel() for weight in ours[options.dtypes[0]].engine.policy.model.parameters())
    report(options, size, theirs, {dtype: each.times for dtype, each in ours.items()})


def toy(folder: Path) -> Path:
    model().save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def alone(folder: Path, options: argparse.Namespace) -> None:
    """Run one side for a few steps, and print its peak of memory in MB."""
    if options.only == "trl":
        trl(folder, options.prompt, options.new, options.steps, lambda: None)
    else:
        ours = Ours(folder, options.prompt, options.new, options.only)
        for _ in range(options.steps):
            ours.run()
    # Not ru_maxrss: a child inherits its parent's.
    print(int(re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[0]) / 1024)


def report(
    options: argparse.Namespace, size: int, theirs: Sequence[float], ours: dict[str, dict[str, list[float]]]
) -> None:
    about = f"{PROMPTS} prompts of {options.prompt}, groups of {GROUP}, {options.new} new"
    print(f"{size / 1e6:.1f} M parameters, {about},")
    print(f"{options.threads} threads, medians of {options.steps} interleaved rounds; load {os.getloadavg()[0]:.1f}")
    slow, spread = median(theirs[WARM:]), (min(theirs[WARM:]), max(theirs[WARM:]))
    print(f"{'TRL step, float32':<66}{slow * 1000:8.0f} ms  ({spread[0] * 1000:.0f} to {spread[1] * 1000:.0f})")
    for dtype, times in ours.items():
        step = median(times["step"][WARM:])
        print(f"{f'our step, {dtype}':<66}{step * 1000:8.0f} ms  {slow / step:.1f} times as fast")
        for name in (name for name in times if name != "step"):
            print(f"  {name:<64}{median(times[name][WARM:]) * 1000:8.0f} ms")
    peaks = ", ".join(f"{which} {peak(which, options):.0f} MB" for which in ("trl", *ours))
    print(f"peak memory: {peaks}")


if __name__ == "__main__":
    main()
