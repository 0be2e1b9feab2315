"""Policies by transformers: Llama, Qwen and GptOss of toy size, their adapters, and PEFT on its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from toy_policies import gradients, some_data
from transformers import AutoModelForCausalLM, Qwen3Config

from sia_core.errors import TrainingError, UsageError
from sia_core.learning import Datum, Request, Trace
from sia_torch.decode import Fused, Layout, Through, fusable
from sia_torch.engine import Torch
from sia_torch.policy import limit_of

ModelFolder = Callable[[str], Path]
KINDS = ["llama", "qwen3", "gpt_oss"]


def trained(engine: Torch) -> Torch:
    engine.forward_backward(some_data(engine, members=2), "toy_losses:weighted")
    engine.optim_step(lr=1e-2)
    engine.forward_backward(some_data(engine, members=2, seed=1), "toy_losses:weighted")
    engine.optim_step(lr=1e-2)
    return engine


@pytest.mark.parametrize("kind", KINDS)
def test_sampler_and_trainer_agree(kind: str, model_folder: ModelFolder) -> None:
    engine = trained(Torch(policy=f"hf:{model_folder(kind)}", rank=4, dtype="float32", temperature=1.0))
    assert fusable(engine.policy) == (kind != "gpt_oss")
    prompts = [[5, 6, 7], list(range(30)), list(range(50))]
    out = engine.sample([Request(prompt, [1, 2, 3], max_tokens=20) for prompt in prompts])
    traces = [each.trace(prompt) for prompt, row in zip(prompts, out, strict=True) for each in row]
    assert engine.check(traces) < 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_a_shared_prompt_changes_no_gradient(kind: str, model_folder: ModelFolder) -> None:
    engine = trained(Torch(policy=f"hf:{model_folder(kind)}", rank=4, dtype="float32", temperature=1.0))
    data = some_data(engine)
    engine.forward_backward(data, "toy_losses:weighted")
    shared = gradients(engine)
    engine.settings = engine.settings.model_copy(update={"micro_tokens": 1})
    engine.forward_backward(data, "toy_losses:weighted")
    for name, alone in gradients(engine).items():
        assert torch.allclose(shared[name], alone, atol=1e-5 * float(alone.abs().max()) + 1e-7), name


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_the_decode_loop_by_hand_is_the_models_own(kind: str, model_folder: ModelFolder) -> None:
    engine = trained(Torch(policy=f"hf:{model_folder(kind)}", rank=4, dtype="float32", temperature=1.0))
    layout = Layout(prompts=2, length=32, width=2, new=4)
    prompts = [list(range(20)), [9, 8, 7]]
    ours, theirs = Fused(engine.policy, 2), Through(engine.policy)
    assert torch.allclose(ours.prefill(prompts, layout), theirs.prefill(prompts, layout), atol=1e-4)
    for token in range(4):
        tokens = torch.arange(4) + token
        assert torch.allclose(ours.step(tokens), theirs.step(tokens), atol=1e-4)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`")  # PEFT 0.21 asks transformers for an old name
@pytest.mark.parametrize(("kind", "experts"), [("llama", False), ("gpt_oss", False), ("gpt_oss", True)])
def test_peft_loads_the_adapter_by_itself(kind: str, experts: bool, model_folder: ModelFolder, tmp_path: Path) -> None:
    folder = model_folder(kind)
    engine = trained(Torch(policy=f"hf:{folder}", rank=4, experts=experts, dtype="float32", temperature=1.0))
    engine.save(tmp_path / "adapter")
    base = AutoModelForCausalLM.from_pretrained(folder)
    alone = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    tokens = list(range(40, 60))
    with torch.no_grad():
        scores = alone(input_ids=torch.tensor([tokens])).logits[0].log_softmax(-1)
    row = engine.logprobs([Trace(tokens, [0, *[1] * 19], [0.0] * 20)])[0]
    assert row[1:] == pytest.approx([float(scores[t, tokens[t + 1]]) for t in range(19)], abs=1e-4)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`")
@pytest.mark.parametrize("experts", [False, True])
def test_gpt_oss_says_the_same_with_its_adapter_merged(
    experts: bool, model_folder: ModelFolder, tmp_path: Path
) -> None:
    folder = model_folder("gpt_oss")
    engine = trained(Torch(policy=f"hf:{folder}", rank=4, experts=experts, dtype="float32", temperature=1.0))
    engine.save(tmp_path / "adapter")
    tokens = torch.tensor([list(range(40, 70))])
    alone: Any = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), tmp_path / "adapter").eval()
    with torch.no_grad():
        base = AutoModelForCausalLM.from_pretrained(folder).eval()(input_ids=tokens).logits.log_softmax(-1)
        apart = alone(input_ids=tokens).logits.log_softmax(-1)
        merged = alone.merge_and_unload()(input_ids=tokens).logits.log_softmax(-1)
    assert float((apart - merged).abs().max()) < 1e-4
    assert float((apart - base).abs().max()) > 1e-3  # there is something to merge


def test_experts_learn_only_when_asked(model_folder: ModelFolder) -> None:
    folder = model_folder("gpt_oss")
    attention = set(Torch(policy=f"hf:{folder}", rank=4)._learning)
    both = set(Torch(policy=f"hf:{folder}", rank=4, experts=True)._learning)
    assert all("self_attn" in name for name in attention if "lora_" in name)
    assert {name for name in both - attention if "experts" in name}
    assert attention <= both


def test_names_that_fit_nothing_are_refused(model_folder: ModelFolder) -> None:
    with pytest.raises(UsageError, match=r"nothing named mlp\.experts"):
        Torch(policy=f"hf:{model_folder('llama')}", experts=True)
    with pytest.raises(UsageError, match="nothing named qproj"):
        Torch(policy=f"hf:{model_folder('llama')}", targets=("qproj",))
    with pytest.raises(UsageError, match="unknown policy"):
        Torch(policy="gpt")
    with pytest.raises(UsageError, match="there is no folder /nothing/here"):
        Torch(policy="hf:/nothing/here")


def test_messages_choices_and_schema_with_a_byte_tokenizer(model_folder: ModelFolder) -> None:
    engine = Torch(policy=f"hf:{model_folder('llama')}", dtype="float32", temperature=1.0)
    prompt = engine.tokens.render([{"role": "user", "content": "罪 <end>?"}])
    assert engine.tokens.decode(prompt) == "user: 罪 <\u200bend>?\nassistant:"
    assert 256 not in prompt
    out = engine.sample([Request(prompt, [1, 2, 3, 4], max_tokens=40, choices=["盗窃", "抢劫"])])[0]
    assert {each.text for each in out} <= {"盗窃", "抢劫"}
    schema = {"type": "object", "properties": {"a": {"type": "integer", "maximum": 99}}, "required": ["a"]}
    out = engine.sample([Request(prompt, [1], max_tokens=60, schema={**schema, "additionalProperties": False})])[0]
    assert out[0].text.startswith('{"a":')
    assert engine.check([out[0].trace(prompt)]) < 1e-4


@pytest.mark.filterwarnings("ignore:fan_in_fan_out")
@pytest.mark.parametrize("kind", ["gpt2", "opt", "short"])
def test_a_policy_reads_and_learns_up_to_its_last_position_and_refuses_more(
    kind: str, model_folder: ModelFolder
) -> None:
    engine = Torch(policy=f"hf:{model_folder(kind)}", rank=4, dtype="float32", temperature=1.0)
    assert engine.context == 70
    assert engine.about["pretrained"]
    assert engine.about["parameters"] > engine.about["trained_parameters"] > 0
    requests = [
        Request([100 + at for at in range(length)], [1, 2], max_tokens=70 - length) for length in (66, 68, 69, 10)
    ]
    traces = [
        each.trace(request.prompt)
        for request, row in zip(requests, engine.sample(requests), strict=True)
        for each in row
    ]
    assert engine.check(traces) < 1e-4
    data = [Datum(trace, trace.mask, 1.0, returns=trace.mask) for trace in traces]
    engine.forward_backward(data, "toy_losses:weighted")
    engine.optim_step()
    with pytest.raises(UsageError, match="71 tokens of prompt and reply are more than the policy's context of 70"):
        engine.sample([Request([1] * 70, [1], max_tokens=1)])
    with pytest.raises(TrainingError, match="a trace of 71 tokens is longer"):
        engine.logprobs([Trace([1] * 71, [0, *[1] * 70], [0.0] * 71)])


def test_yarn_reads_further_than_the_positions_that_a_model_was_trained_on() -> None:
    rope = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 100}
    assert limit_of(Qwen3Config(max_position_embeddings=100, rope_scaling=rope)) == 400
    assert limit_of(Qwen3Config(max_position_embeddings=100)) == 100


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_prompts_begin_with_alike_is_computed_once_and_changes_no_sample(
    dtype: str, model_folder: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = [7 * at % 200 for at in range(100)]
    requests = [Request([*shared, *[at + 1] * (at + 1)], [at, 50 + at], max_tokens=6) for at in range(9)]
    blocks: list[int] = []
    add = Fused._add_chunks

    def watched(self: Fused, names: Sequence[Any], start: int) -> None:
        blocks.extend(start + at * self._chunks.size for at in range(len(names)))
        add(self, names, start)

    monkeypatch.setattr(Fused, "_add_chunks", watched)

    def fresh() -> Torch:
        return Torch(policy=f"hf:{model_folder('llama')}", rank=4, dtype=dtype, temperature=1.0)

    engine = fresh()
    together = engine.sample(requests)
    assert [blocks.count(at) for at in (0, 32, 64)] == [1, 1, 1]
    assert engine.sample(list(reversed(requests))) == together[::-1]
    assert [fresh().sample([each])[0] for each in requests] == together
    assert engine.check([each.trace(requests[0].prompt) for each in together[0]]) < (
        1e-4 if dtype == "float32" else 0.06
    )
    engine.forward_backward(some_data(engine, members=2), "toy_losses:weighted")
    engine.optim_step(lr=1e-2)
    blocks.clear()
    engine.sample(requests)
    assert blocks.count(0) == 1  # of the new weights
