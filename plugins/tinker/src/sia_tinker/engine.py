"""The engine ``tinker``: weights, sampling and gradients are the service's; losses are computed here.

A loss of SIA's is a function of log-probabilities, which the service takes as a custom loss: it
sends them, gets the gradient with respect to each, and goes back through the model by itself.
"""

from __future__ import annotations

import hashlib
import json
import os
import pkgutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from tinker import TinkerError, types
from torch import Tensor

from sia_core.errors import ModelError, SiaError, TrainingError, UsageError
from sia_core.learning import Batch, Datum, Request, Sampled, Trace
from sia_llm.models import REFUSED
from sia_llm.server_replies import is_logprob, sampled_tokens, token_limit
from sia_runtime.agreement import mean_gap
from sia_runtime.settings import checked
from sia_tinker.settings import Settings
from sia_tinker.tokens import Tokens

KEY = "TINKER_API_KEY"
STATE = "tinker.json"
MOST = 2**20
"""Characters of that file."""


class Tinker:
    """A policy that a service samples from and trains; ``service`` is the SDK's ServiceClient, or stands in for one.

    Constrained turns and value heads are not to be had there. The sampler is made anew
    from the trainer's weights at the first sample after a step.
    """

    can: ClassVar[frozenset[str]] = frozenset({"train", "reference", "custom_loss"})
    about: ClassVar[Mapping[str, Any]] = {"pretrained": True}
    learning_rate = 4e-5

    def __init__(self, service: Any, settings: Settings) -> None:
        self._service, self.settings = service, settings
        with _sorted():
            self._trainer = self._client(
                service.create_lora_training_client(
                    base_model=settings.policy,
                    rank=settings.rank,
                    seed=settings.seed,
                    train_mlp=settings.mlp,
                    train_attn=settings.attention,
                    train_unembed=settings.unembed,
                )
            )
            self.tokens = Tokens(self._trainer.get_tokenizer(), settings.policy)
        self.context = _context(service, settings.policy)
        self._sampler: Any = None
        self._base: Any = None
        self._steps = 0
        self._pending = False
        self._state = f"{settings.policy}/{settings.seed}/{settings.rank}"

    def sample(self, requests: Sequence[Request]) -> list[list[Sampled]]:
        """For each request its continuations, one call of the service each, all under way at once."""
        refused = next((each for each in requests if each.choices or each.schema or each.prior), None)
        if refused is not None:
            raise TrainingError("the engine tinker cannot constrain what it samples")
        sampler = self._sampling()
        with _sorted():
            futures = [[self._asked(sampler, request, seed) for seed in request.seeds] for request in requests]
            replies = [[self._wait(each) for each in row] for row in futures]
        return [[self._sampled(request, each) for each in row] for request, row in zip(requests, replies, strict=True)]

    def logprobs(self, traces: Sequence[Trace], *, reference: bool = False) -> list[list[float]]:
        """For each trace (T,) the sampler's log-probabilities, 0 where its mask is; of the base, if ``reference``."""
        sampler = self._reference() if reference else self._sampling()
        with _sorted():
            futures = [sampler.compute_logprobs(types.ModelInput.from_ints(list(each.tokens))) for each in traces]
            rows = [self._wait(each) for each in futures]
        return [_aligned(row, trace) for row, trace in zip(rows, traces, strict=True)]

    def values(self, traces: Sequence[Trace]) -> list[list[float]]:
        """There is no critic."""
        return [[0.0] * len(trace.tokens) for trace in traces]

    def check(self, traces: Sequence[Trace]) -> float:
        """The mean difference of the sampler's log-probabilities and the trainer's; TrainingError past rounding."""
        with _sorted():
            result = self._wait(self._trainer.forward([_datum(each) for each in traces], "cross_entropy"))
        gaps: list[float] = []
        with _understood():
            for trace, output in zip(traces, result.loss_fn_outputs, strict=True):
                now = [0.0, *output["logprobs"].tolist()]
                gaps += (a - b for a, b, entry in zip(trace.logprobs, now, trace.mask, strict=True) if entry)
        try:
            return mean_gap(gaps, self.settings.tolerance)
        except TrainingError as error:
            raise TrainingError(
                f"the service's sampler and trainer disagree: {error}; were these traces sampled with other weights or "
                "another temperature?"
            ) from None

    def forward_backward(
        self, data: Sequence[Datum], loss: str, settings: Mapping[str, Any] | None = None
    ) -> dict[str, float]:
        """Add the gradient of a loss, ``"module:attribute"``, over data; sums to watch, and the ``loss``."""
        try:
            function = pkgutil.resolve_name(loss)
        except (ImportError, AttributeError, ValueError) as error:
            raise TrainingError(f"there is no loss {loss}: {error}") from None
        figures: dict[str, float] = {}
        faults: list[Exception] = []

        def custom(_: Any, rows: list[Tensor]) -> tuple[Tensor, dict[str, float]]:
            try:
                width = max(len(datum.trace.tokens) for datum in data)
                first = rows[0].new_zeros(1)  # nothing comes before the first token
                padded = [torch.nn.functional.pad(torch.cat([first, row]), (0, width - 1 - len(row))) for row in rows]
                batch = Batch.of(data, torch.tensor, torch.tensor, width)
                scalar, watched = function(torch.stack(padded), batch, None, settings or {})
            except Exception as error:
                faults.append(error)
                raise
            figures.update({"loss": float(scalar.detach())}, **{name: float(value) for name, value in watched.items()})
            return scalar, {}

        try:
            with _sorted():
                self._wait(self._trainer.forward_backward_custom([_datum(each.trace) for each in data], custom))
        except Exception:
            if faults:  # the loss's own, which the SDK only passed on
                raise faults[0] from None
            raise
        if not all(map(_finite, figures.values())):
            raise TrainingError(f"the loss of {loss} is {figures['loss']}; lower the learning rate, or load a snapshot")
        self._pending = True
        return figures

    def optim_step(self, *, lr: float | None = None) -> dict[str, float]:
        """A step of Adam with the gradients added up so far; TrainingError where there are none."""
        if not self._pending:
            raise TrainingError("an optimizer step without a gradient moves nothing")
        rate = self.learning_rate if lr is None else lr
        adam = types.AdamParams(learning_rate=rate, beta1=0.9, beta2=0.95, eps=1e-8, grad_clip_norm=1.0)
        with _sorted():
            self._wait(self._trainer.optim_step(adam))
        self._steps, self._pending, self._sampler = self._steps + 1, False, None
        return {"lr": rate}

    def digest(self) -> str:
        """Of where the weights come from, and how many steps ago: they are the service's, and never here."""
        return hashlib.sha256(f"{self._state}+{self._steps}".encode()).hexdigest()

    def memory(self) -> dict[str, float]:
        """Nothing of this machine's."""
        return {"needed": 0.0, "peak": 0.0}

    def save(self, folder: Path) -> str:
        """Have the service keep weights and optimizer, and write where; a digest of that."""
        name = self.digest()[:32]
        with _sorted():
            path = self._wait(self._trainer.save_state(name, overwrite=True)).path
        text = json.dumps({"path": path, "policy": self.settings.policy, "steps": self._steps}, sort_keys=True)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / STATE).open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        return hashlib.sha256(text.encode()).hexdigest()

    def load(self, folder: Path) -> None:
        """Go on from a snapshot, optimizer included."""
        try:
            with (folder / STATE).open() as file:
                record = json.loads(file.read(MOST))
            policy, path, steps = str(record["policy"]), str(record["path"]), int(record["steps"])
        except (OSError, ValueError, LookupError, TypeError, ArithmeticError, RecursionError) as error:
            raise UsageError(f"{folder} is no snapshot of this engine: {error}") from None
        if policy != self.settings.policy:
            raise UsageError(f"{folder} holds an adapter of {policy[:200]}, not of {self.settings.policy}")
        with _sorted():
            # What the SDK wants instead is another trainer, which takes another of a server's few places.
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "DEPRECATED: TrainingClient.load_state", FutureWarning)
                loading = self._trainer.load_state_with_optimizer(path)
            self._wait(loading)
        self._state, self._steps, self._pending, self._sampler = path, steps, False, None

    def close(self) -> None:
        """Give back the adapter's place on the server, which has few; those of killed runs it frees later."""
        with suppress(SiaError), _sorted():
            if hasattr(self._service, "close"):
                self._wait(self._service.close("success"))
            else:  # the SDK before 0.38
                self._wait(self._trainer.holder.run_coroutine_threadsafe(_unload(self._trainer)))

    def _sampling(self) -> Any:
        if self._sampler is None:
            with _sorted():
                self._sampler = self._client(self._trainer.save_weights_and_get_sampling_client())
        return self._sampler

    def _reference(self) -> Any:
        if self._base is None:
            with _sorted():
                self._base = self._client(self._service.create_sampling_client(base_model=self.settings.policy))
        return self._base

    def _client(self, client: Any) -> Any:
        """A client of the SDK, which from 0.38 on makes a future of it."""
        return self._wait(client) if hasattr(client, "result") else client

    def _asked(self, sampler: Any, request: Request, seed: int) -> Any:
        parameters = types.SamplingParams(
            max_tokens=request.max_tokens,
            seed=seed % 2**31,
            stop=list(request.stop) or list(self.tokens.stops),
            temperature=1.0 if request.temperature is None else request.temperature,
            top_p=request.top_p,
        )
        return sampler.sample(types.ModelInput.from_ints(list(request.prompt)), 1, parameters)

    def _sampled(self, request: Request, reply: Any) -> Sampled:
        with _understood():
            sequence = reply.sequences[0]
            # The model's vocabulary may be larger than its tokenizer's, so its size is not known here.
            tokens, logprobs = sampled_tokens(sequence.tokens, sequence.logprobs, request.max_tokens)
            finish: Literal["stop", "length"] = sequence.stop_reason
            if finish not in ("stop", "length"):
                raise ValueError("it did not end")
        text = self.tokens.decode(tokens)
        for each in request.stop:
            text = text.split(each, 1)[0]
        return Sampled(tokens, [1] * len(tokens), logprobs, [0.0] * len(tokens), None, text, finish)

    def _wait(self, future: Any) -> Any:
        return future.result(timeout=self.settings.timeout)


def open_engine(**settings: Any) -> Tinker:
    """The factory of the offer ``tinker``, which takes :class:`sia_tinker.settings.Settings`' fields."""
    from tinker import ServiceClient

    options = checked(Settings, settings, "--engine-set")
    if not os.environ.get(KEY):
        raise UsageError(f"the engine tinker needs a key in the environment: {KEY} (for a server of your own, tml-any)")
    with _sorted():
        return Tinker(ServiceClient(base_url=options.base_url or None), options)


def _context(service: Any, model: str) -> int | None:
    """How many tokens of prompt and reply together a model may have; None where the service does not say."""
    try:
        models = service.get_server_capabilities().supported_models
    except (TinkerError, TimeoutError, ValueError):  # a self-hosted server may not support the request
        return None
    return next((token_limit(each.max_context_length) for each in models if each.model_name == model), None)


async def _unload(trainer: Any) -> None:
    from tinker.lib.client_connection_pool_type import ClientConnectionPoolType

    with trainer.holder.aclient(ClientConnectionPoolType.TRAIN) as client:
        await client.models.unload(request=types.UnloadModelRequest(model_id=trainer.model_id))


def _aligned(row: Any, trace: Trace) -> list[float]:
    """(T,) log-probabilities of what was sampled, else 0. Of the first token servers say None, or leave it out."""
    with _understood():
        missing = len(trace.tokens) - len(row)
        if missing not in (0, 1):
            raise ValueError(f"it gave {len(row)} log-probabilities of {len(trace.tokens)} tokens")
        pairs = list(zip([*[None] * missing, *row], trace.mask, strict=True))
        if not all(is_logprob(value) for value, entry in pairs if entry):
            raise ValueError("a log-probability is none")
    return [float(value) if entry else 0.0 for value, entry in pairs]


def _datum(trace: Trace) -> types.Datum:
    """Inputs are all tokens but the last, targets all but the first."""
    tokens, mask = list(trace.tokens), list(trace.mask)
    inputs: Any = {"target_tokens": tokens[1:], "weights": [float(each) for each in mask[1:]]}
    return types.Datum(model_input=types.ModelInput.from_ints(tokens[:-1]), loss_fn_inputs=inputs)


def _finite(value: float) -> bool:
    return value - value == 0.0


@contextmanager
def _sorted() -> Iterator[None]:
    """Errors of the service as errors of the run."""
    try:
        yield
    except (TinkerError, TimeoutError, ValueError) as error:  # the SDK raises the last where a reply is none
        # What is wrong with one request is that request's; anything else is no fault of who asked.
        kind = SiaError if getattr(error, "status_code", None) in REFUSED else ModelError
        raise kind(f"Tinker: {type(error).__name__}: {error}. Go on with `sia resume` when it answers") from error


@contextmanager
def _understood() -> Iterator[None]:
    """ModelError where a reply came and is none: no agent is to blame for it."""
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ModelError(
            f"Tinker: the service sent what is no reply ({error}); is it of a version that sia-tinker knows? "
            "Go on with `sia resume` when it answers as it should"
        ) from None
