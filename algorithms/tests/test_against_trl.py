"""Gradients agree with TRL's own trainers, asked through their own methods, in float64 on a small GPT-2.

TRL's fused head computes in float32, so the model's is replaced by an exact one; all
else is TRL's. Its advantages are in float32 too: they are compared as such, and both
losses are then given the same ones.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sia_algorithms.best_of_n import BestOfN
from sia_algorithms.dpo import Dpo
from sia_algorithms.grpo import Grpo
from sia_algorithms.reinforce import Reinforce
from sia_core.learning import Batch, Datum, Learner, Sample, Trace
from sia_testing.learners import named

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

PROMPTS = ["w1 w2 w3", "w4 w5 w6"]
GROUP, LENGTH, EOS = 4, 6, 1
RELATIVE = 1e-6


@pytest.fixture(scope="module")
def trl() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("trl")


@pytest.fixture(scope="module")
def oracle(trl: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Any]]:
    """Builds a trainer of TRL around a policy in float64, and a base that differs from it."""
    folder = tmp_path_factory.mktemp("trl")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tokenizer = _save_model(folder / "model")

        def build(kind: str, data: Mapping[str, Sequence[str]], **settings: Any) -> Any:
            return _trainer(trl, kind, folder / "model", tokenizer, data, settings)

        yield build


def _save_model(folder: Path) -> Any:
    """A tiny GPT-2 with dropout off, and a tokenizer of sixteen words. LayerNorm keeps float64; RMSNorm would not."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    words = ["<pad>", "<eos>", *[f"w{n}" for n in range(14)]]
    words_to_ids = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<pad>"))
    words_to_ids.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    torch.manual_seed(0)
    shape: dict[str, Any] = {"vocab_size": len(words), "n_positions": 32, "n_embd": 16, "n_layer": 2, "n_head": 2}
    still: dict[str, Any] = {"resid_pdrop": 0, "embd_pdrop": 0, "attn_pdrop": 0, "initializer_range": 0.3}
    GPT2LMHeadModel(GPT2Config(**shape, **still, bos_token_id=1, eos_token_id=1, pad_token_id=0)).save_pretrained(
        folder
    )
    return PreTrainedTokenizerFast(tokenizer_object=words_to_ids, pad_token="<pad>", eos_token="<eos>")


def _trainer(trl: Any, kind: str, model: Path, tokenizer: Any, data: Any, settings: Any) -> Any:
    from datasets import Dataset
    from transformers import GPT2LMHeadModel

    def load() -> Any:
        return GPT2LMHeadModel.from_pretrained(model, dtype=torch.float64, attn_implementation="eager")

    torch.manual_seed(1)
    common = {"output_dir": str(model / "out"), "bf16": False, "use_cpu": True, "report_to": "none"}
    args = getattr(trl, f"{kind}Config")(
        **common, per_device_train_batch_size=8, gradient_accumulation_steps=1, disable_tqdm=True, **settings
    )
    more: dict[str, Any] = {}
    if kind in ("GRPO", "RLOO"):
        more["reward_funcs"] = [lambda completions, **_: [float(len(set(each.split()))) for each in completions]]
    trainer = getattr(trl, f"{kind}Trainer")(
        model=load(), args=args, train_dataset=Dataset.from_dict(dict(data)), processing_class=tokenizer, **more
    )
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    if getattr(trainer, "ref_model", None) is not None:
        trainer.ref_model = load()
        _exact_head(trainer.ref_model)
    _exact_head(trainer.model)
    with torch.no_grad():  # the policy has moved on from the base
        for parameter in trainer.model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return trainer


def _exact_head(model: Any) -> None:
    """Have a model compute TRL's fused head in its own precision."""
    plain = type(model).forward

    def forward(*args: Any, fused_lm_head: bool = False, labels: Any = None, **kwargs: Any) -> Any:
        if not fused_lm_head:
            return plain(model, *args, **kwargs)
        distribution = plain(model, *args, **kwargs).logits[:, :-1].log_softmax(-1)
        labels = labels[:, 1:]
        mask = labels != -100
        log_probs = distribution.gather(-1, labels.clamp(min=0)[..., None])[..., 0].masked_fill(~mask, 0)
        nothing = torch.zeros_like(log_probs).detach()
        return SimpleNamespace(
            log_probs=log_probs, label_mask=mask, entropy=nothing, mean_logits=nothing, is_top1=nothing.bool()
        )

    model.forward = forward


def logprobs_of(model: nn.Module, tokens_BT: Tensor) -> Tensor:
    """log p of each token given those before it, (B, T), column 0 zero."""
    logits = model(input_ids=tokens_BT).logits[:, :-1]
    picked = logits.log_softmax(-1).gather(-1, tokens_BT[:, 1:, None])[..., 0]
    return torch.cat([picked.new_zeros(len(picked), 1), picked], 1)


def gradient(model: nn.Module, scalar: Tensor) -> Tensor:
    grads = torch.autograd.grad(scalar, list(model.parameters()), allow_unused=True)
    return torch.cat([g.flatten() for g in grads if g is not None])


def ours(model: nn.Module, learner: Learner, data: Sequence[Datum]) -> Tensor:
    batch = Batch.of(data, torch.tensor, lambda rows: torch.tensor(rows, dtype=torch.float64))
    scalar, sums = named(learner.loss)(logprobs_of(model, batch.tokens_BT), batch, None, learner.config.model_dump())
    assert sums.get("clipped", 1) > 0, "no ratio is clipped: the clip is not compared"
    return gradient(model, scalar)


def agree(mine: Tensor, theirs: Tensor) -> None:
    difference = float((mine - theirs).norm() / theirs.norm())
    print(f"relative difference of the gradients: {difference:.1e}")
    assert difference < RELATIVE


def rollouts(trainer: Any) -> tuple[dict[str, Any], list[list[Sample]], Tensor]:
    """A batch that TRL generated and scored, the same as groups of ours, and the sampler's log-probabilities.

    The sampler lies between base and policy, so that ratios are off 1 and some are clipped.
    """
    inputs = trainer._generate_and_score_completions([{"prompt": p} for p in PROMPTS for _ in range(GROUP)])
    tokens_BT = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
    start = inputs["prompt_ids"].shape[1]
    with torch.no_grad():
        torch.manual_seed(2)
        old_BT = logprobs_of(trainer.model, tokens_BT)
        old_BT = old_BT + 0.15 * torch.randn_like(old_BT)
        base = getattr(trainer, "ref_model", None)
        reference_BT = torch.zeros_like(old_BT) if base is None else logprobs_of(base, tokens_BT)
    samples = []
    for row, tokens in enumerate(tokens_BT.tolist()):
        completion = tokens[start:]
        length = completion.index(EOS) + 1 if EOS in completion else len(completion)
        mask = [0] * start + [1] * length
        words = trainer.processing_class.decode(completion[:length], skip_special_tokens=True)
        old, reference = old_BT[row, : len(mask)].tolist(), reference_BT[row, : len(mask)].tolist()
        trace = Trace(tokens[: len(mask)], mask, old, reference=reference)
        reward, truncated = float(len(set(words.split()))), EOS not in completion
        samples.append(Sample(PROMPTS[row // GROUP], "agent", reward, [trace], truncated))
    inputs["ref_per_token_logps"] = reference_BT[:, start:]
    return inputs, [samples[:GROUP], samples[GROUP:]], old_BT[:, start:]


GRPO: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "grpo": ({"loss_type": "grpo"}, {}),
    "grpo with k3": (
        {"loss_type": "grpo", "beta": 0.1, "use_bias_correction_kl": False},
        {"kl_weight": 0.1},
    ),
    "grpo with unbiased k3": ({"loss_type": "grpo", "beta": 0.1}, {"kl_weight": 0.1, "unbiased_kl": True}),
    "dapo": ({"loss_type": "dapo", "epsilon_high": 0.28}, {"aggregate": "token_mean", "clip_high": 0.28}),
    "bnpo with k3": (
        {"loss_type": "bnpo", "beta": 0.05, "use_bias_correction_kl": False},
        {"aggregate": "token_mean", "kl_weight": 0.05},
    ),
    "dapo, truncated masked": (
        {"loss_type": "dapo", "mask_truncated_completions": True},
        {"aggregate": "token_mean", "mask_truncated": True},
    ),
    "grpo, truncated masked": (
        {"loss_type": "grpo", "mask_truncated_completions": True},
        {"mask_truncated": True},
    ),
    "dr_grpo": (
        {"loss_type": "dr_grpo", "scale_rewards": "none"},
        {"aggregate": "constant", "max_tokens": LENGTH, "divide_by_std": False},
    ),
    "gspo": (
        {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 3e-2, "epsilon_high": 4e-2},
        {"ratio": "sequence", "clip_low": 3e-2, "clip_high": 4e-2},
    ),
}


@pytest.mark.parametrize("name", GRPO)
def test_grpo_and_its_variants(name: str, oracle: Any) -> None:
    theirs, settings = GRPO[name]
    trainer = oracle("GRPO", {"prompt": PROMPTS}, num_generations=GROUP, max_completion_length=LENGTH, **theirs)
    inputs, groups, old = rollouts(trainer)
    learner = Grpo(**settings)
    data = learner.credit(groups)
    truncated = [sample.truncated for group in groups for sample in group]
    assert any(truncated)
    assert not all(truncated)

    ours_B = torch.tensor([_advantage_of(sample, data) for group in groups for sample in group], dtype=torch.float64)
    sent_B = ours_B != 0
    torch.testing.assert_close(ours_B[sent_B], inputs["advantages"][sent_B].double(), rtol=1e-5, atol=1e-6)

    inputs["advantages"], inputs["old_per_token_logps"] = ours_B, old
    agree(ours(trainer.model, learner, data), gradient(trainer.model, trainer._compute_loss(trainer.model, inputs)))


def _advantage_of(sample: Sample, data: Sequence[Datum]) -> float:
    """A sample's advantage of largest size; 0 where it was not sent."""
    return next((max(d.advantages, key=abs) for d in data if d.trace is sample.traces[0]), 0.0)


@pytest.mark.parametrize("weight", [0.0, 0.05])
def test_reinforce_with_k1_in_the_reward_is_rloo(weight: float, oracle: Any) -> None:
    trainer = oracle(
        "RLOO", {"prompt": PROMPTS}, num_generations=GROUP, max_completion_length=LENGTH, beta=weight, num_iterations=2
    )
    inputs, groups, old = rollouts(trainer)
    learner = Reinforce(kl_weight=weight)

    # TRL's KL is that of TRL's sampler, the policy as it stands: give ours the same one for the advantages.
    with torch.no_grad():
        now = [_with_logprobs(sample, trainer.model) for group in groups for sample in group]
    advantages = [max(datum.advantages, key=abs) for datum in learner.credit([now[:GROUP], now[GROUP:]])]
    assert advantages == pytest.approx(inputs["advantages"].tolist(), rel=1e-5, abs=1e-6)

    data = learner.credit(groups)
    inputs["advantages"] = torch.tensor([max(d.advantages, key=abs) for d in data], dtype=torch.float64)
    inputs["old_logps"] = (old * inputs["completion_mask"]).sum(1)
    agree(ours(trainer.model, learner, data), gradient(trainer.model, trainer._compute_loss(trainer.model, inputs)))


def _with_logprobs(sample: Sample, model: nn.Module) -> Sample:
    (trace,) = sample.traces
    logprobs = logprobs_of(model, torch.tensor([list(trace.tokens)]))[0]
    return replace(sample, traces=[replace(trace, logprobs=(logprobs * torch.tensor(trace.mask)).tolist())])


def test_dpo(oracle: Any) -> None:
    words = {"prompt": PROMPTS, "chosen": ["w7 w8", "w9 w1 w2 w3"], "rejected": ["w3 w2 w1", "w5"]}
    trainer = oracle("DPO", words, beta=0.1)
    inputs = trainer.data_collator([trainer.train_dataset[n] for n in range(2)])
    rows = []
    for row in range(4):
        length = int(inputs["attention_mask"][row].sum())
        tokens = inputs["input_ids"][row, :length].tolist()
        with torch.no_grad():
            reference = logprobs_of(trainer.ref_model, torch.tensor([tokens]))[0].tolist()
        mask = inputs["completion_mask"][row, :length].tolist()
        rows.append(Trace(tokens, mask, [0.0] * length, reference=reference))
    groups = [  # TRL's rows are the chosen, then the rejected
        [Sample(PROMPTS[n], "agent", 1.0, [rows[n]]), Sample(PROMPTS[n], "agent", 0.0, [rows[n + 2]])] for n in range(2)
    ]
    learner = Dpo(beta=0.1)
    theirs = trainer._compute_loss(trainer.model, dict(inputs), return_outputs=False)
    agree(ours(trainer.model, learner, learner.credit(groups)), gradient(trainer.model, theirs))


def test_best_of_n_is_sft_on_what_it_keeps(oracle: Any) -> None:
    trainer = oracle("SFT", {"prompt": PROMPTS, "completion": ["w7 w8", "w9 w1 w2 w3"]}, completion_only_loss=True)
    inputs = trainer.data_collator([trainer.train_dataset[n] for n in range(2)])
    groups = []
    for row in range(2):
        length = int(inputs["attention_mask"][row].sum())
        tokens = inputs["input_ids"][row, :length].tolist()
        mask = [int(label != -100) for label in inputs["labels"][row, :length].tolist()]
        best = Sample(PROMPTS[row], "agent", 1.0, [Trace(tokens, mask, [-1.0] * length)])
        worse = Sample(PROMPTS[row], "agent", 0.5, [Trace([*tokens[:-1], 2], mask, [-1.0] * length)])
        groups.append([worse, best])
    learner = BestOfN()
    theirs = trainer.compute_loss(trainer.model, dict(inputs))
    agree(ours(trainer.model, learner, learner.credit(groups)), gradient(trainer.model, theirs))
