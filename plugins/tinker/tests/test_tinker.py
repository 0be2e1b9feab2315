"""The engine against a stand-in of the service: a table of logits that samples, trains and is saved."""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tinker
import torch
from tinker import types

from sia_core.errors import ModelError, SiaError, TrainingError, UsageError
from sia_core.learning import Datum, Engine, Request, Trace
from sia_runtime.worker.gateway import Gateway
from sia_tinker.engine import Tinker, open_engine
from sia_tinker.settings import Settings

SIZE = 12
END = 11


class Done:
    """A future whose result is there, or is an error."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._work = work

    def result(self, timeout: float | None = None) -> Any:
        return self._work()


class Tokenizer:
    eos_token_id = END
    chat_template = "contents alone"
    added_tokens_decoder: dict[int, str] = {END: "<end>"}  # noqa: RUF012

    def __len__(self) -> int:
        return SIZE

    def encode(self, text: str, **_: Any) -> list[int]:
        return [int(each) if each.isdigit() else 0 for each in text.split()]

    def decode(self, ids: list[int], **_: Any) -> str:
        return " ".join(str(each) for each in ids if each != END)

    def apply_chat_template(self, messages: list[dict[str, Any]], **_: Any) -> list[int]:
        return [token for each in messages for token in self.encode(each["content"])]


class Sampler:
    def __init__(self, table: torch.Tensor) -> None:
        self._table = table.detach().clone()

    def sample(self, prompt: Any, num_samples: int, sampling_params: Any) -> Done:
        def work() -> Any:
            generator = torch.Generator().manual_seed(sampling_params.seed)
            last, tokens, logprobs, reason = prompt.to_ints()[-1], [], [], "length"
            while len(tokens) < sampling_params.max_tokens and reason == "length":
                row = self._table[last].log_softmax(-1)
                last = int(torch.multinomial(row.exp(), 1, generator=generator))
                tokens.append(last)
                logprobs.append(float(row[last]))
                reason = "stop" if last in sampling_params.stop else "length"
            return SimpleNamespace(sequences=[SimpleNamespace(tokens=tokens, logprobs=logprobs, stop_reason=reason)])

        assert num_samples == 1
        return Done(work)

    def compute_logprobs(self, prompt: Any) -> Done:
        ids = prompt.to_ints()
        rows = self._table.log_softmax(-1)
        return Done(lambda: [None, *(float(rows[a, b]) for a, b in pairwise(ids))])


class Trainer:
    def __init__(self, states: dict[str, torch.Tensor]) -> None:
        self.table = torch.zeros(SIZE, SIZE, requires_grad=True)
        self.states, self.drift = states, 0.0

    def get_tokenizer(self) -> Tokenizer:
        return Tokenizer()

    def _rows(self, data: list[Any]) -> list[torch.Tensor]:
        rows = self.table.log_softmax(-1) + self.drift
        return [rows[each.model_input.to_ints(), each.loss_fn_inputs["target_tokens"].tolist()] for each in data]

    def forward(self, data: list[Any], loss_fn: str) -> Done:
        outputs = [{"logprobs": types.TensorData.from_torch(row.detach())} for row in self._rows(data)]
        return Done(lambda: SimpleNamespace(loss_fn_outputs=outputs))

    def forward_backward_custom(self, data: list[Any], loss_fn: Any) -> Done:
        def work() -> None:
            loss, _ = loss_fn(data, self._rows(data))
            loss.backward()

        return Done(work)

    def optim_step(self, params: Any) -> Done:
        def work() -> None:
            with torch.no_grad():
                self.table -= params.learning_rate * self.table.grad
            self.table.grad = None

        return Done(work)

    def save_state(self, name: str, overwrite: bool = False) -> Done:
        self.states[f"tinker://{name}"] = self.table.detach().clone()
        return Done(lambda: SimpleNamespace(path=f"tinker://{name}"))

    def load_state_with_optimizer(self, path: str) -> Done:
        self.table = self.states[path].clone().requires_grad_()
        return Done(lambda: None)

    def save_weights_and_get_sampling_client(self) -> Any:
        return Sampler(self.table)


class Service:
    """The SDK's from 0.38 on, but for clients: it gives those themselves, as earlier ones did."""

    def __init__(self) -> None:
        self.states: dict[str, torch.Tensor] = {}
        self.ended: list[str] = []

    def close(self, status: str) -> Done:
        return Done(lambda: self.ended.append(status))

    def create_lora_training_client(self, base_model: str, **_: Any) -> Any:
        return Trainer(self.states)

    def get_server_capabilities(self) -> types.GetServerCapabilitiesResponse:
        models = [types.SupportedModel(model_name="toy", max_context_length=30)]
        return types.GetServerCapabilitiesResponse(supported_models=models)

    def create_sampling_client(self, base_model: str) -> Any:
        return Sampler(torch.zeros(SIZE, SIZE))


class Promising(Service):
    """A service that gives futures of clients, which must not be used as the clients themselves."""

    def create_lora_training_client(self, base_model: str, **_: Any) -> Any:
        class PromisingTrainer(Trainer):
            def save_weights_and_get_sampling_client(self) -> Done:
                return Done(partial(Sampler, self.table))

        return Done(lambda: PromisingTrainer(self.states))

    def create_sampling_client(self, base_model: str) -> Any:
        return Done(lambda: Sampler(torch.zeros(SIZE, SIZE)))


@pytest.fixture(params=[Service, Promising], ids=["clients", "futures of clients"])
def engine(request: pytest.FixtureRequest) -> Tinker:
    return Tinker(request.param(), Settings(policy="toy"))


def sampled(engine: Tinker, seeds: int = 8) -> list[Trace]:
    (row,) = engine.sample([Request([1, 2], list(range(seeds)), max_tokens=5)])
    return [each.trace([1, 2]) for each in row]


def pushed(logprobs_BT: Any, batch: Any, values_BT: Any, settings: Any) -> Any:
    """A loss: make what was sampled likelier."""
    assert values_BT is None
    scalar = -(logprobs_BT * batch.advantages_BT * batch.mask_BT).sum() / batch.normaliser
    return scalar, {"tokens": batch.mask_BT.sum()}


def learn(engine: Tinker, traces: list[Trace]) -> dict[str, float]:
    data = [Datum(each, [float(place) for place in each.mask], normaliser=4.0) for each in traces]
    return engine.forward_backward(data, f"{__name__}:pushed")


@pytest.fixture(autouse=True)
def _losses_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or SimpleNamespace(pushed=pushed))


def test_it_is_an_engine(engine: Tinker) -> None:
    assert isinstance(engine, Engine)
    assert engine.can == {"train", "reference", "custom_loss"}
    assert engine.context == 30
    assert Tinker(Service(), Settings(policy="another")).context is None


def test_a_sample_depends_on_its_seed_alone_and_has_the_log_probabilities_of_the_moment(engine: Tinker) -> None:
    traces = sampled(engine)
    assert traces[3] == sampled(engine)[3]
    assert len({tuple(each.tokens) for each in traces}) > 1
    assert engine.check(traces) < 1e-6
    assert engine.logprobs(traces)[0] == pytest.approx(list(traces[0].logprobs))


def test_a_loss_by_name_moves_the_sampler_and_not_the_base(engine: Tinker) -> None:
    traces = sampled(engine)
    before = sum(map(sum, engine.logprobs(traces)))
    figures = learn(engine, traces)
    assert figures["tokens"] == sum(sum(each.mask) for each in traces)
    engine.optim_step(lr=1.0)
    assert sum(map(sum, engine.logprobs(traces))) > before
    assert sum(map(sum, engine.logprobs(traces, reference=True))) == pytest.approx(before)


def test_a_trainer_that_is_not_the_sampler_is_noticed(engine: Tinker) -> None:
    traces = sampled(engine)
    engine._trainer.drift = 0.2
    with pytest.raises(TrainingError, match=r"trainer disagree: log-probabilities differ by 0\.2 nats"):
        engine.check(traces)


def test_a_step_without_a_gradient_is_refused(engine: Tinker) -> None:
    with pytest.raises(TrainingError, match="without a gradient"):
        engine.optim_step()


def test_a_snapshot_is_gone_on_from(engine: Tinker, tmp_path: Path) -> None:
    traces = sampled(engine)
    learn(engine, traces)
    engine.optim_step(lr=1.0)
    digest, then = engine.save(tmp_path / "one"), engine.logprobs(traces)
    learn(engine, traces)
    engine.optim_step(lr=1.0)
    assert engine.save(tmp_path / "two") != digest
    engine.load(tmp_path / "one")
    assert engine.logprobs(traces) == then
    for text in (None, "[]", "[" * 10**5, '{"policy": 1}', '{"policy": "p", "path": "x", "steps": Infinity}'):
        if text is not None:
            (tmp_path / "tinker.json").write_text(text)
        with pytest.raises(UsageError, match="no snapshot"):
            engine.load(tmp_path)


def test_a_constraint_is_refused(engine: Tinker) -> None:
    with pytest.raises(TrainingError, match="cannot constrain"):
        engine.sample([Request([1], [0], choices=["1", "2"])])


def test_a_service_that_fails_says_so(engine: Tinker) -> None:
    def fail() -> None:
        raise TimeoutError("no answer")

    engine._trainer.optim_step = lambda params: Done(fail)
    learn(engine, sampled(engine))
    with pytest.raises(SiaError, match="Tinker: TimeoutError: no answer"):
        engine.optim_step()


def test_log_probabilities_may_leave_out_the_first_tokens_or_say_none_of_it(
    engine: Tinker, monkeypatch: pytest.MonkeyPatch
) -> None:
    traces = sampled(engine)
    expected, plain = engine.logprobs(traces), Sampler.compute_logprobs
    monkeypatch.setattr(
        Sampler, "compute_logprobs", lambda self, prompt: Done(lambda: plain(self, prompt).result()[1:])
    )
    assert engine.logprobs(traces) == expected
    monkeypatch.setattr(Sampler, "compute_logprobs", lambda self, prompt: Done(list))
    with pytest.raises(ModelError, match="gave 0 log-probabilities"):
        engine.logprobs(traces)


GOOD = {"tokens": [1, 2], "logprobs": [-1.0, 0.0], "stop_reason": "stop"}


@pytest.mark.parametrize(
    "change",
    [
        None,
        *({"logprobs": each} for each in (None, [-1.0], [None, -1.0], [7.0, -1.0], [float("nan"), 0.0])),
        *({"tokens": each} for each in (None, [], [1], [-1, 1], [1, 10**20], ["a", "b"])),
        {"tokens": [1] * 9, "logprobs": [-1.0] * 9},
        {"stop_reason": None},
    ],
    ids=str,
)
def test_a_reply_that_the_service_did_not_sample_so_stops_the_run_and_is_never_an_answer(
    engine: Tinker, monkeypatch: pytest.MonkeyPatch, change: Any
) -> None:
    sequences = [] if change is None else [SimpleNamespace(**{**GOOD, **change})]
    monkeypatch.setattr(Sampler, "sample", lambda *_: Done(lambda: SimpleNamespace(sequences=sequences)))
    gateway = Gateway(engine)
    question = {"messages": [{"role": "user", "content": "1"}], "max_tokens": 8}
    gateway.begin("r", 1)
    assert "error" in gateway.answer("r", question)
    with pytest.raises(ModelError, match="no reply"):
        gateway.finish("r")
    sequences[:] = [SimpleNamespace(**GOOD)]
    gateway.begin("r", 1)
    assert gateway.answer("r", question)["choices"][0]["message"]["content"] == "1 2"
    gateway.close()


@pytest.mark.parametrize("value", [None, "x", float("nan"), 7.0])
def test_a_log_probability_that_is_none_is_the_services_fault(
    engine: Tinker, monkeypatch: pytest.MonkeyPatch, value: Any
) -> None:
    traces = sampled(engine)
    monkeypatch.setattr(Sampler, "compute_logprobs", lambda self, prompt: Done(lambda: [value] * len(prompt.to_ints())))
    with pytest.raises(ModelError, match="no reply"):
        engine.logprobs(traces)


def test_outputs_of_a_pass_that_are_not_of_its_traces_are_the_services_fault(engine: Tinker) -> None:
    traces = sampled(engine)
    for outputs in ([], [{}] * len(traces), None):
        engine._trainer.forward = lambda data, loss, outputs=outputs: Done(
            lambda: SimpleNamespace(loss_fn_outputs=outputs)
        )
        with pytest.raises(ModelError, match="no reply"):
            engine.check(traces)


def test_a_reply_that_the_sdk_cannot_read_is_told_as_the_services(engine: Tinker) -> None:
    def fail() -> None:
        raise ValueError("Proto deserialization not supported")

    engine._trainer.save_state = lambda name, overwrite: Done(fail)
    with pytest.raises(ModelError, match="Tinker: ValueError: Proto"):
        engine.save(Path("nowhere"))


def test_an_error_of_a_loss_is_the_losss(engine: Tinker) -> None:
    data = [Datum(each, [1.0] * len(each.tokens), normaliser=4.0) for each in sampled(engine)]
    with pytest.raises(ValueError, match="not this one"):
        engine.forward_backward(data, f"{__name__}:refused")


def refused(logprobs_BT: Any, batch: Any, values_BT: Any, settings: Any) -> Any:
    raise ValueError("not this one")


def test_the_place_of_an_adapter_is_given_back(engine: Tinker) -> None:
    engine.close()
    assert engine._service.ended == ["success"]


def test_the_place_of_an_adapter_is_given_back_through_an_sdk_that_cannot_end_a_session(
    engine: Tinker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(Service, "close")
    unloaded: list[str] = []

    class Holder:
        @contextmanager
        def aclient(self, pool: Any) -> Iterator[Any]:
            async def unload(request: types.UnloadModelRequest) -> None:
                unloaded.append(request.model_id)

            yield SimpleNamespace(models=SimpleNamespace(unload=unload))

        def run_coroutine_threadsafe(self, work: Any) -> Done:
            return Done(lambda: asyncio.run(work))

    engine._trainer.holder, engine._trainer.model_id = Holder(), "model_1"
    engine.close()
    assert unloaded == ["model_1"]


def test_without_a_key_the_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TINKER_API_KEY", raising=False)
    with pytest.raises(UsageError, match="TINKER_API_KEY"):
        open_engine(policy="openai/gpt-oss-120b")


@pytest.mark.parametrize(
    ("real", "stand_in"),
    [(tinker.ServiceClient, Service), (tinker.TrainingClient, Trainer), (tinker.SamplingClient, Sampler)],
    ids=lambda each: each.__name__,
)
def test_what_is_asked_of_the_stand_in_can_be_asked_of_the_sdk(real: Any, stand_in: Any) -> None:
    for name, method in inspect.getmembers(stand_in, inspect.isfunction):
        if not name.startswith("_"):
            parameters = [each for each in inspect.signature(method).parameters if each not in ("self", "_", "params")]
            assert set(parameters) <= set(inspect.signature(getattr(real, name)).parameters), name
