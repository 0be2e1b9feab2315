"""Training: the sampler's numbers, and the same gradients however the work is divided."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from toy_policies import gradients, small_tiny, some_data

from sia_core.errors import TrainingError, UsageError
from sia_core.learning import Datum, Request, Trace
from sia_torch.engine import Torch
from sia_torch.head import Allowed, token_logprobs
from sia_torch.memory import activations
from sia_torch.settings import Settings
from sia_torch.store import digest_of
from sia_torch.tree import Shape, pack, plan, units

WEIGHTED = "toy_losses:weighted"


def as_double(engine: Torch) -> Torch:
    engine.policy.model.double()
    engine.policy.value_head.double()
    return engine


def largest_difference(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    assert first.keys() == second.keys()
    assert first
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def stirred(engine: Torch) -> Torch:
    """The engine after a few steps, so that no part of the adapter is at its start."""
    for seed in range(3):
        engine.forward_backward(some_data(engine, seed=seed), WEIGHTED)
        engine.optim_step(lr=1e-2)
    return engine


def test_log_probabilities_at_sampling_are_the_trainers() -> None:
    engine = stirred(small_tiny())
    prompts = [[1, 2, 3], list(range(40)), [7] * 33]
    out = engine.sample([Request(prompt, [5, 6, 7], max_tokens=20) for prompt in prompts])
    traces = [each.trace(prompt) for prompt, row in zip(prompts, out, strict=True) for each in row]
    assert engine.check(traces) < 1e-4
    for trace, row in zip(traces, engine.values(traces), strict=True):
        assert list(trace.values or ()) == pytest.approx(row, abs=1e-4)


def test_a_shared_prompt_and_micro_batches_change_no_gradient() -> None:
    engine = as_double(stirred(small_tiny()))
    data = some_data(engine)
    together = engine.forward_backward(data, WEIGHTED)
    shared = gradients(engine)
    for budget in (1, 200):
        engine.settings = engine.settings.model_copy(update={"micro_tokens": budget})
        apart = engine.forward_backward(data, WEIGHTED)
        assert apart == pytest.approx(together, rel=1e-6)
        assert largest_difference(shared, gradients(engine)) < 1e-7  # its RMSNorm computes in float32
    assert all(bool(each.any()) for name, each in shared.items() if "value_head" in name)


@pytest.mark.parametrize(("alike", "root"), [(31, 0), (32, 32), (45, 40), (64, 64)])
def test_what_all_prompts_begin_with_is_computed_once_and_changes_no_gradient(alike: int, root: int) -> None:
    engine = as_double(stirred(small_tiny()))
    data = some_data(engine, begins=[number % 23 for number in range(alike)])
    traces = [each.trace for each in data]
    ((*rows,),) = plan(traces, units(data), 8192)
    policy = engine.policy
    packed = pack(
        [[traces[index] for index in row] for row in rows],
        policy.context,
        policy.features,
        policy.device,
        rooted=policy.tree,
    )
    assert packed.tree.shape.root == root
    assert packed.positions_BS.numel() == root + len(rows) * packed.tree.shape.tokens
    together, logprobs = engine.forward_backward(data, WEIGHTED), engine.logprobs(traces)
    shared = gradients(engine)
    engine.settings = engine.settings.model_copy(update={"micro_tokens": 1})  # each sequence for itself
    assert engine.forward_backward(data, WEIGHTED) == pytest.approx(together, rel=1e-6)
    assert largest_difference(shared, gradients(engine)) < 1e-7
    for row, alone in zip(logprobs, engine.logprobs(traces), strict=True):
        assert row == pytest.approx(alone, abs=1e-6)


def test_the_packed_forward_is_the_models_own() -> None:
    engine = as_double(stirred(small_tiny()))
    for datum, row in zip(data := some_data(engine), engine.logprobs([each.trace for each in data]), strict=True):
        with torch.no_grad():
            states = engine.policy.trunk(input_ids=torch.tensor([datum.trace.tokens]), use_cache=False)
            scores = (states.last_hidden_state @ engine.policy.head().T)[0].log_softmax(-1)
        expected = [
            float(scores[t - 1, token]) if entry else 0.0
            for t, (token, entry) in enumerate(zip(datum.trace.tokens, datum.trace.mask, strict=True))
        ]
        assert row == pytest.approx(expected, abs=1e-6)


def test_checkpointing_changes_no_gradient() -> None:
    plain, saving = small_tiny(), small_tiny(checkpointing=True)
    data = some_data(plain)
    results = []
    for engine in (plain, saving):
        engine.forward_backward(data, WEIGHTED)
        results.append(gradients(engine))
    assert largest_difference(*results) < 1e-6


@pytest.mark.parametrize("learns", [True, False], ids=["weights-learn", "weights-stay"])
@pytest.mark.parametrize("chunk", [1, 7, 40, 100])
def test_a_chunked_vocabulary_equals_the_whole(chunk: int, learns: bool) -> None:
    torch.manual_seed(0)
    hidden = torch.randn(9, 8, dtype=torch.double, requires_grad=True)
    weight = torch.randn(40, 8, dtype=torch.double, requires_grad=learns)
    learning = (hidden, weight) if learns else (hidden,)
    targets = torch.randint(40, (9,))
    sets: list[list[int] | None] = [
        sorted({int(target), 3, 39}) if row % 2 else None for row, target in enumerate(targets)
    ]
    biases: list[list[float] | None] = [
        [float(each) for each in torch.randn(len(ids))] if ids is not None and row % 4 == 1 else None
        for row, ids in enumerate(sets)
    ]
    outer = torch.randn(9, dtype=torch.double)

    added = torch.zeros(9, 40, dtype=torch.double)
    for row, (ids, bias) in enumerate(zip(sets, biases, strict=True)):
        if ids is not None:
            added[row] = float("-inf")
            added[row, ids] = torch.tensor(bias or [0.0] * len(ids), dtype=torch.double)
    logits = hidden @ weight.T / 0.7 + added
    whole = logits.log_softmax(-1).gather(-1, targets[:, None])[:, 0]
    expected = torch.autograd.grad((whole * outer).sum(), learning)
    logprobs = token_logprobs(hidden, weight, targets, 0.7, Allowed.of(sets, biases, hidden.device), chunk)
    assert torch.allclose(logprobs, whole, atol=1e-12)
    for ours, theirs in zip(torch.autograd.grad((logprobs * outer).sum(), learning), expected, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-12)


def test_pairs_are_never_split() -> None:
    engine = small_tiny()
    data = [replace(datum, pair=index // 2) for index, datum in enumerate(some_data(engine))]
    for rows in plan([datum.trace for datum in data], units(data), budget=1):
        met = {index for row in rows for index in row}
        assert {index ^ 1 for index in met} == met


def test_training_resumes_bit_identically(tmp_path: Path) -> None:
    first = stirred(small_tiny())
    assert first.save(tmp_path / "snapshot") == first.save(tmp_path / "again")
    second = small_tiny(seed=0)
    second.load(tmp_path / "snapshot")
    assert second.digest() == first.digest()
    data = some_data(first, seed=9)
    for engine in (first, second):
        for _ in range(2):
            engine.forward_backward(data, WEIGHTED)
            engine.optim_step(lr=1e-2)
    assert second.digest() == first.digest()
    assert second.save(tmp_path / "snapshot") == first.save(tmp_path / "again")
    prompt = Request([1, 2, 3], [0, 1], max_tokens=9)
    assert first.sample([prompt]) == second.sample([prompt])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "snapshot"]


def test_a_changed_snapshot_is_refused(tmp_path: Path) -> None:
    engine = small_tiny()
    engine.save(tmp_path / "snapshot")
    stirred(engine).save(tmp_path / "other")
    (tmp_path / "other" / "adapter_model.safetensors").rename(tmp_path / "snapshot" / "adapter_model.safetensors")
    with pytest.raises(UsageError, match="not what was saved"):
        engine.load(tmp_path / "snapshot")
    stirred(engine).save(tmp_path / "own")
    with pytest.raises(UsageError, match="another base"):
        small_tiny(seed=1).load(tmp_path / "own")
    with pytest.raises(UsageError, match="no snapshot"):
        engine.load(tmp_path / "nothing")


def test_a_snapshot_that_was_replaced_by_another_whole_one_is_refused_by_its_name(tmp_path: Path) -> None:
    engine = small_tiny()
    snapshot = tmp_path / engine.save(tmp_path / "first")
    stirred(engine).save(snapshot)
    with pytest.raises(UsageError, match=r"engine\.json is not what was saved there"):
        engine.load(snapshot)
    honest = tmp_path / engine.save(tmp_path / "second")
    (tmp_path / "second").rename(honest)
    engine.load(honest)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *(("engine.json", text) for text in ("[]", "{}", '{"policy": 1, "digests": 1, "steps": 0}', "[" * 10**5)),
        ("engine.json", '{"policy": "p", "digests": {}, "steps": Infinity}'),
        ("adapter_model.safetensors", "nonsense"),
    ],
)
def test_what_is_no_snapshot_is_an_error_and_no_traceback(tmp_path: Path, name: str, content: str) -> None:
    engine = small_tiny()
    engine.save(tmp_path / "snapshot")
    (tmp_path / "snapshot" / name).write_text(content)
    with pytest.raises(UsageError, match="is no snapshot of this engine"):
        engine.load(tmp_path / "snapshot")


def shorter(name: str) -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    """With fewer numbers in the first tensor of this name."""
    return lambda state: {
        each: value.flatten()[:1] if name in each and value.ndim else value for each, value in state.items()
    }


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("optimizer", shorter("exp_avg_sq")),
        ("optimizer", shorter("lora_A")),
        ("optimizer", lambda state: {each: value for each, value in state.items() if not each.endswith("step")}),
        ("optimizer", lambda state: {f"other.{each}": value for each, value in state.items()}),
        ("optimizer", lambda state: {each: value.to(torch.int64) for each, value in state.items()}),
        ("adapter_model", shorter("lora_A")),
        ("value_head", shorter("weight")),
    ],
    ids=["a moment", "a weight's", "no steps", "of no weight", "whole numbers", "the adapter", "the value head"],
)
def test_a_snapshot_that_somebody_else_made_puts_no_tensor_of_another_size_anywhere(
    tmp_path: Path, name: str, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]
) -> None:
    """Its digests are right. Adam's fused kernel does not compare sizes: it would write past a moment's end."""
    engine = stirred(small_tiny())
    engine.save(tmp_path / "made")
    state = {
        each: value.contiguous() for each, value in change(load_file(tmp_path / "made" / f"{name}.safetensors")).items()
    }
    save_file(state, tmp_path / "made" / f"{name}.safetensors")
    record = json.loads((tmp_path / "made" / "engine.json").read_text())
    record["digests"][f"{name}.safetensors"] = digest_of(state)
    text = json.dumps(record)
    (tmp_path / "made" / "engine.json").write_text(text)
    before, foreign = engine.digest(), tmp_path / hashlib.sha256(text.encode()).hexdigest()
    (tmp_path / "made").rename(foreign)
    with pytest.raises(UsageError, match="holds another adapter than this engine's"):
        engine.load(foreign)
    assert engine.digest() == before


@pytest.mark.parametrize("name", ["adapter_model", "value_head", "optimizer"])
def test_no_tensor_of_a_snapshot_that_somebody_else_made_is_read_before_all_shapes_are_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A sparse file takes no room on disk, and as much memory as its header claims."""
    engine = stirred(small_tiny())
    engine.save(tmp_path / "made")
    header = json.dumps({"w": {"dtype": "U8", "shape": [2**27], "data_offsets": [0, 2**27]}}).encode()
    with (tmp_path / "made" / f"{name}.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + 2**27)
    monkeypatch.setattr(
        "sia_torch.store.digest_of", lambda state: pytest.fail("it was hashed") if "w" in state else digest_of(state)
    )
    with pytest.raises(UsageError, match="holds another adapter than this engine's"):
        engine.load(tmp_path / "made")


def test_a_file_of_weights_whose_header_has_no_end_is_no_snapshot(tmp_path: Path) -> None:
    engine = small_tiny()
    engine.save(tmp_path / "made")
    (tmp_path / "made" / "optimizer.safetensors").write_bytes((2**25).to_bytes(8, "little"))
    with pytest.raises(UsageError, match=r"no snapshot of this engine: .* more than 16,777,216 bytes"):
        engine.load(tmp_path / "made")


def test_the_reference_is_the_policy_without_its_adapter() -> None:
    engine = small_tiny()
    traces = [datum.trace for datum in some_data(engine)]
    start = engine.logprobs(traces)
    stirred(engine)
    assert engine.logprobs(traces, reference=True) == start
    assert engine.logprobs(traces) != start


def test_nonsense_fails_loudly() -> None:
    engine = small_tiny()
    data = some_data(engine)
    with pytest.raises(TrainingError, match="loss of toy_losses:broken is nan"):
        engine.forward_backward(data, "toy_losses:broken")
    engine.forward_backward(data, "toy_losses:flat")
    with pytest.raises(TrainingError, match="moved nothing"):
        engine.optim_step(lr=1e-2)
    with pytest.raises(TrainingError, match="moved nothing"):
        engine.optim_step(lr=1e-2)
    with pytest.raises(TrainingError, match="no loss"):
        engine.forward_backward(data, "toy_losses:missing")
    stale = [replace(datum.trace, logprobs=[each - 0.5 for each in datum.trace.logprobs]) for datum in data]
    with pytest.raises(TrainingError, match="disagree"):
        engine.check(stale)
    with pytest.raises(TrainingError, match="nothing precedes"):
        engine.logprobs([Trace([1, 2], [1, 1], [0.0, 0.0])])


def test_training_needs_at_least_the_memory_that_is_held_before_it() -> None:
    memory = Torch(policy="tiny", seed=0).memory()
    assert memory["needed"] >= memory["peak"] > 0


def test_memory_is_estimated_by_what_was_computed_and_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """An update that peaked at 6 GB was said to need 12 GB of the next, and 27 GB by a setting that nothing filled."""
    monkeypatch.setattr("sia_torch.engine.resource.getrusage", lambda _: SimpleNamespace(ru_maxrss=1))
    engine = small_tiny(micro_tokens=10**6)
    full = engine.memory()["needed"]
    data = some_data(engine)
    engine.forward_backward(data, WEIGHTED)
    engine.optim_step(lr=1e-2)
    estimate = engine.memory()["needed"]
    assert estimate < full / 3
    engine.forward_backward(data, WEIGHTED)
    assert engine.memory()["needed"] == estimate


@pytest.mark.parametrize(
    ("size", "groups", "width", "measured"),
    # SmolLM2-135M, groups of 8, 100 tokens of prompt: bytes over those that were held before.
    [(2, 4, 48, 2.95e9), (2, 8, 48, 5.84e9), (2, 8, 24, 3.51e9), (4, 4, 48, 4.61e9), (4, 8, 48, 9.62e9)],
)
def test_the_estimate_is_within_a_third_of_what_was_measured(
    size: int, groups: int, width: int, measured: float
) -> None:
    config = SimpleNamespace(
        hidden_size=576, intermediate_size=1536, num_attention_heads=9, num_hidden_layers=30, vocab_size=49152
    )
    estimate = activations(config, Settings(), size, Shape(prefix=128, branches=8, width=width), groups)
    assert 2 / 3 < estimate / measured < 4 / 3


@pytest.fixture
def crowded() -> Iterator[None]:
    """More threads than cores, which therefore come in another order each time."""
    before = torch.get_num_threads()
    torch.set_num_threads(8)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("crowded")
def test_a_gradient_is_the_same_to_the_bit_each_time() -> None:
    # Samples that read the state after one prompt fall to several threads, which must not add up as they come.
    engine = Torch(policy="tiny", seed=0)
    prompts = [engine.tokens.encode(f"case {number}") for number in range(115)]
    requests = [Request(prompt, range(32), 8, choices=["red", "green", "blue"]) for prompt in prompts]
    data = [
        Datum(trace := each.trace(prompt), credit := [place / 7] * len(trace.tokens), 3680.0, credit)
        for prompt, row in zip(prompts, engine.sample(requests), strict=True)
        for place, each in enumerate(row)
    ]
    engine.forward_backward(data, WEIGHTED)
    first = gradients(engine)
    for _ in range(4):
        engine.forward_backward(data, WEIGHTED)
        assert largest_difference(gradients(engine), first) == 0.0
