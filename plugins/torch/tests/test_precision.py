"""Number types: half precision beside float32, adapters that go from one to the other, noise told from harm."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from toy_policies import small_tiny, some_data, write_model
from transformers import AutoModelForCausalLM

from sia_core.errors import TrainingError, UsageError
from sia_core.learning import Request, Trace
from sia_torch import precision, store
from sia_torch.adapter import FEWEST, Map, by_onednn, fused, merged
from sia_torch.decode import Fused, Layout, Through, fusable
from sia_torch.engine import Torch
from sia_torch.settings import Settings

ModelFolder = Callable[[str], Path]
CPU = torch.device("cpu")


def engine_of(folder: Path, dtype: str, **settings: Any) -> Torch:
    return Torch(**{"policy": f"hf:{folder}", "rank": 4, "dtype": dtype, "temperature": 1.0, **settings})


def trained(engine: Torch, lr: float = 1e-2) -> Torch:
    for seed in (0, 1, 2):
        engine.forward_backward(some_data(engine, members=2, seed=seed), "toy_losses:weighted")
        engine.optim_step(lr=lr)
    return engine


def sampled(engine: Torch, count: int = 4) -> list[Trace]:
    rng = random.Random(3)
    prompts = [[rng.randrange(200) for _ in range(length)] for length in (9, 20, 33)]
    out = engine.sample([Request(prompt, list(range(count)), max_tokens=20) for prompt in prompts])
    return [each.trace(prompt) for prompt, row in zip(prompts, out, strict=True) for each in row]


def gap(engine: Torch, other: Torch) -> float:
    traces = sampled(other, count=1)
    rows = zip(engine.logprobs(traces), other.logprobs(traces), strict=True)
    return max(abs(a - b) for ours, theirs in rows for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("flags", ["flags : fpu avx512_bf16", "flags\t\t: amx_bf16 amx_tile", "Features : fp bf16"])
def test_half_precision_is_taken_where_the_processor_multiplies_it(
    flags: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "_CPUINFO", tmp_path / "cpuinfo")
    assert precision.dtype_of(Settings(), CPU) == torch.float32
    (tmp_path / "cpuinfo").write_text(f"processor : 0\n{flags}\n")
    assert precision.dtype_of(Settings(), CPU) == torch.bfloat16
    assert precision.dtype_of(Settings(dtype="float32"), CPU) == torch.float32
    (tmp_path / "cpuinfo").write_text("processor : 0\nflags : avx512f avx2\n")
    assert precision.dtype_of(Settings(), CPU) == torch.float32
    assert precision.dtype_of(Settings(dtype="bfloat16"), CPU) == torch.bfloat16


def test_what_learns_is_in_full_precision_and_tiny_is_so_as_a_whole(model_folder: ModelFolder) -> None:
    engine = trained(engine_of(model_folder("llama"), "bfloat16"))
    assert engine.policy.head().dtype == torch.bfloat16
    assert {weight.dtype for weight in engine._learning.values()} == {torch.float32}
    moments = [each for state in engine._optimizer.state.values() for each in state.values()]
    assert {each.dtype for each in moments} == {torch.float32}
    assert small_tiny(dtype="bfloat16").policy.head().dtype == torch.float32


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_the_decode_loop_by_hand_is_the_models_own_in_half_precision(kind: str, model_folder: ModelFolder) -> None:
    engine = trained(engine_of(model_folder(kind), "bfloat16"))
    assert fusable(engine.policy)
    layout = Layout(prompts=2, length=32, width=2, new=3)
    prompts = [list(range(20)), [9, 8, 7]]
    ours, theirs = Fused(engine.policy, 2), Through(engine.policy)
    pairs = [(ours.prefill(prompts, layout), theirs.prefill(prompts, layout))]
    pairs += [(ours.step(tokens), theirs.step(tokens)) for tokens in (torch.arange(4), torch.arange(4) + 7)]
    for first, second in pairs:
        assert first.dtype == torch.bfloat16
        assert float((first - second).float().abs().mean()) < 0.02


def test_a_small_adapter_counts_in_half_precision(model_folder: ModelFolder) -> None:
    """Merged into its weight it would be rounded away, and the sampler would go on sampling from the base."""
    trunk: Any = engine_of(model_folder("llama"), "bfloat16").policy.trunk
    module = trunk.layers[0].self_attn.o_proj
    states = torch.tensor([(-1.0) ** at for at in range(32)], dtype=torch.bfloat16)
    torch.nn.init.ones_(module.get_base_layer().weight)  # so that of the base nothing is left of these states
    module.lora_A["default"].weight.data.copy_(states.float().expand(4, -1) / 100)
    torch.nn.init.constant_(module.lora_B["default"].weight, 1e-3)
    assert torch.equal(merged(module), module.get_base_layer().weight)
    exact = module.scaling["default"] * 4 * 0.32 * 1e-3
    assert fused([module])(states).float().tolist() == pytest.approx([exact] * 32, rel=0.02)


@torch.inference_mode()
def test_a_row_is_rounded_alike_however_many_there_are() -> None:
    torch.manual_seed(0)
    weight, up = (torch.randn(shape).bfloat16() / 32 for shape in ((192, 1536), (32, 160)))
    if not by_onednn(weight):
        pytest.skip("oneDNN does not multiply bfloat16 here")
    states, layer = torch.randn(2048, 1536).bfloat16(), Map(weight, None, up)
    whole = layer(states)
    for count in (FEWEST, 3, 8, 32, 500):
        assert torch.equal(torch.cat([layer(some) for some in states[: 4 * count].split(count)]), whole[: 4 * count])


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`")  # PEFT 0.21 asks transformers for an old name
def test_an_adapter_trained_in_one_number_type_loads_in_the_other_and_with_peft(
    model_folder: ModelFolder, tmp_path: Path
) -> None:
    folder = model_folder("llama")
    half = trained(engine_of(folder, "bfloat16"))
    half.save(tmp_path / "half")
    full = engine_of(folder, "float32")
    full.load(tmp_path / "half")
    assert full.digest() == half.digest()
    alone = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), tmp_path / "half").eval()
    tokens = list(range(40, 60))
    with torch.no_grad():
        scores = alone(input_ids=torch.tensor([tokens])).logits[0].log_softmax(-1)
    row = full.logprobs([Trace(tokens, [0, *[1] * 19], [0.0] * 20)])[0]
    assert row[1:] == pytest.approx([float(scores[t, tokens[t + 1]]) for t in range(19)], abs=1e-4)
    full.save(tmp_path / "full")
    again = engine_of(folder, "bfloat16")
    again.load(tmp_path / "full")
    assert again.digest() == half.digest()
    trained(again)


def test_a_snapshot_of_the_first_release_still_loads_in_either_number_type(
    model_folder: ModelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It named its base by a digest of the configuration, number type included, and of small bases' weights."""
    folder = model_folder("llama")
    old = trained(engine_of(folder, "float32"))
    former = next(store._former_identities(old.policy))
    old.save(tmp_path / "old")
    record = json.loads((tmp_path / "old" / "engine.json").read_text())
    (tmp_path / "old" / "engine.json").write_text(json.dumps({**record, "policy": former}))
    engine_of(folder, "float32").load(tmp_path / "old")
    monkeypatch.setattr(store, "SMALL", 0)  # a base whose weights were not read, as all but toys
    for name in ("float32", "bfloat16"):
        (tmp_path / "old" / "engine.json").write_text(
            json.dumps({**record, "policy": next(store._former_identities(old.policy))})
        )
        engine_of(folder, name).load(tmp_path / "old")


def test_an_adapter_of_another_base_is_refused(model_folder: ModelFolder, tmp_path: Path) -> None:
    folder = model_folder("llama")
    trained(engine_of(folder, "bfloat16")).save(tmp_path / "adapter")
    other = tmp_path / "other"
    write_model("llama", other)
    model = AutoModelForCausalLM.from_pretrained(other)
    torch.nn.init.normal_(model.model.layers[1].mlp.up_proj.weight, std=0.3)
    model.save_pretrained(other)
    with pytest.raises(UsageError, match="another base"):
        engine_of(other, "float32").load(tmp_path / "adapter")
    scramble(folder, tmp_path / "scrambled")
    with pytest.raises(UsageError, match="another base"):
        engine_of(tmp_path / "scrambled", "float32").load(tmp_path / "adapter")


def scramble(folder: Path, target: Path) -> None:
    """The model with another tokenizer: the same ids stand for other letters."""
    target.mkdir()
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    tokenizer = json.loads((target / "tokenizer.json").read_text())
    words = sorted(tokenizer["model"]["vocab"])
    tokenizer["model"]["vocab"] = dict(zip(words, reversed(range(len(words))), strict=True))
    (target / "tokenizer.json").write_text(json.dumps(tokenizer))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_rounding_passes_the_check(dtype: str, temperature: float, model_folder: ModelFolder) -> None:
    engine = trained(engine_of(model_folder("llama"), dtype, temperature=temperature))
    assert engine.check(sampled(engine)) < (1e-4 if dtype == "float32" else 0.06)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_other_weights_tokens_or_temperatures_fail_the_check(
    dtype: str, model_folder: ModelFolder, tmp_path: Path
) -> None:
    folder = model_folder("llama")
    engine = trained(engine_of(folder, dtype))
    traces = sampled(engine)
    renamed = [replace(each, tokens=[(7 * token + 3) % 200 for token in each.tokens]) for each in traces]
    harms: dict[str, tuple[Torch, Sequence[Trace]]] = {
        "no adapter": (engine_of(folder, dtype), traces),
        "another adapter": (trained(engine_of(folder, dtype, seed=1), lr=2e-2), traces),
        "another base": (engine_of(other_base(tmp_path / "base"), dtype), traces),
        "another temperature": (engine_of(folder, dtype, temperature=0.7), sampled(engine_of(folder, dtype))),
        "other tokens": (engine, renamed),
    }
    for harm, (trainer, others) in harms.items():
        with pytest.raises(TrainingError, match="sampler and trainer disagree"):
            pytest.fail(f"{harm}: {trainer.check(others)}")


def other_base(target: Path) -> Path:
    write_model("llama", target)
    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_pretrained(target)
    torch.nn.init.normal_(model.model.layers[0].mlp.up_proj.weight, std=0.3)
    model.save_pretrained(target)
    return target


def test_what_is_tolerated_is_a_setting(model_folder: ModelFolder) -> None:
    engine = engine_of(model_folder("llama"), "bfloat16", tolerance=1e-6)
    with pytest.raises(TrainingError, match="at most 1e-06"):
        engine.check(sampled(engine))
