"""The engine ``vllm``: rollouts by vLLM servers, everything else by an engine that trains.

After a step the trainer's adapter is written for the servers and loaded there under a name of
its own. It is sampled from only when each server gives a few sequences the log-probabilities
that the trainer gives them: one that dropped the adapter would say nothing of it.
"""

from __future__ import annotations

import hashlib
import shutil
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from sia_core.errors import ModelError, SiaError, TrainingError, UsageError
from sia_core.learning import Datum, Engine, Request, Sampled, Tokens, Trace
from sia_core.plugins import Plugins
from sia_runtime.agreement import mean_gap
from sia_runtime.settings import checked
from sia_vllm.server import Completion, Server
from sia_vllm.settings import Settings

PROBES, LENGTH = 4, 64
"""Sequences by which an adapter is looked at, and their longest."""

_ROUNDING = "If the two only round differently, raise --engine-set tolerance"

CANNOT = frozenset({"values", "constrain"})
"""Figures that no server gives: a critic's estimates, and probabilities among allowed tokens."""


class Vllm:
    """Samples by servers, trains by ``trainer``; both hold the same base, and temperature is 1 in both."""

    def __init__(self, trainer: Engine, settings: Settings) -> None:
        if not settings.addresses:
            raise UsageError("the engine vllm needs at least one server: --engine-set servers=http://HOST:8000")
        self._trainer, self.settings = trainer, settings
        self.can = trainer.can - CANNOT
        self.tokens: Tokens = trainer.tokens
        self.learning_rate = trainer.learning_rate
        self.rollouts, self.about = getattr(trainer, "rollouts", 0), getattr(trainer, "about", {})
        self.at_once = settings.at_once
        self._servers = [Server(each, settings.timeout) for each in settings.addresses]
        self._threads = ThreadPoolExecutor(settings.at_once, thread_name_prefix="sia-vllm")
        self._name: str | None = None  # None where what the servers hold is of other weights
        self._loaded = ""
        self._prompts: list[list[int]] = []
        self._naming = threading.Lock()  # several threads sample, and one of them loads the adapter

    @cached_property
    def context(self) -> int | None:
        """The least of what the servers and the trainer can read at once."""
        limits = [getattr(self._trainer, "context", None)]
        limits += [server.context(self.settings.model) for server in self._servers]
        return min((each for each in limits if each), default=None)

    def sample(self, requests: Sequence[Request]) -> list[list[Sampled]]:
        """For each request its continuations; each seed is a separate request, of any server."""
        if any(each.choices or each.schema or each.prior for each in requests):
            raise TrainingError("the engine vllm cannot constrain what it samples")
        with self._naming:
            self._remember(requests)
            model = self._current()
        futures = [
            [
                self._threads.submit(server.complete, _body(model, request, seed, self.tokens), self.tokens.size)
                for seed in request.seeds
                for server in [self._servers[(number + seed) % len(self._servers)]]
            ]
            for number, request in enumerate(requests)
        ]
        return [
            [_sampled(request, each.result()) for each in row] for request, row in zip(requests, futures, strict=True)
        ]

    def logprobs(self, traces: Sequence[Trace], *, reference: bool = False) -> list[list[float]]:
        return self._trainer.logprobs(traces, reference=reference)

    def values(self, traces: Sequence[Trace]) -> list[list[float]]:
        return self._trainer.values(traces)

    def check(self, traces: Sequence[Trace]) -> float:
        """The mean difference of the servers' log-probabilities and the trainer's; TrainingError past ``tolerance``."""
        rows = self._trainer.logprobs(traces)
        gaps = [
            there - here
            for trace, row in zip(traces, rows, strict=True)
            for there, here, entry in zip(trace.logprobs, row, trace.mask, strict=True)
            if entry
        ]
        try:
            return mean_gap(gaps, self.settings.tolerance)
        except TrainingError as error:
            raise TrainingError(
                f"the servers and the trainer disagree: {error}; were these traces sampled with other weights or "
                f"another base? {_ROUNDING}"
            ) from None

    def forward_backward(
        self, data: Sequence[Datum], loss: str, settings: Mapping[str, Any] | None = None
    ) -> Mapping[str, float]:
        return self._trainer.forward_backward(data, loss, settings)

    def optim_step(self, *, lr: float | None = None) -> Mapping[str, float]:
        figures = self._trainer.optim_step(lr=lr)
        self._name = None
        return figures

    def digest(self) -> str:
        return self._trainer.digest()

    def memory(self) -> Mapping[str, float]:
        return self._trainer.memory()

    def save(self, folder: Path) -> str:
        return self._trainer.save(folder)

    def load(self, folder: Path) -> None:
        self._trainer.load(folder)
        self._name = None

    def close(self) -> None:
        """Have the servers forget their adapter."""
        if self._loaded:
            self._forget(self._loaded)
            self._loaded, self._name = "", None
        self._threads.shutdown()

    def _current(self) -> str:
        """The name under which the servers hold the weights of the moment.

        ModelError where one does not load them, or computes something else with them: no agent is to blame for it.
        """
        if self._name is None:
            name = f"sia-{self._trainer.digest()[:24]}"
            folder = self.settings.adapters / name
            self._trainer.save(folder)
            try:
                for server in self._servers:
                    server.load(name, folder)
                for server in self._servers:
                    self._compare(server, name)
            except SiaError:
                self._forget(name)  # the next run would find it loaded, and take it for its own
                raise
            if self._loaded not in ("", name):
                self._forget(self._loaded)
            self._name = self._loaded = name
        return self._name

    def _compare(self, server: Server, name: str) -> None:
        """ModelError where a server gives sequences other log-probabilities than the trainer."""
        traces = [Trace(row, [0, *[1] * (len(row) - 1)], [0.0] * len(row)) for row in self._prompts]
        gaps: list[float] = []
        for trace, here in zip(traces, self._trainer.logprobs(traces), strict=True):
            there = server.logprobs(name, trace.tokens)
            gaps += (a - b for a, b in zip(here[1:], there[1:], strict=True))
        try:
            mean_gap(gaps, self.settings.tolerance)
        except TrainingError as error:
            raise ModelError(
                f"{server.address} and the trainer disagree: {error}; is its base the trainer's, and did it load all "
                f"of {name}? {_ROUNDING}"
            ) from None

    def _remember(self, requests: Sequence[Request]) -> None:
        """The beginnings of a few prompts, to compare servers by."""
        for request in requests:
            beginning = list(request.prompt[:LENGTH])
            if len(self._prompts) < PROBES and len(beginning) > 1 and beginning not in self._prompts:
                self._prompts.append(beginning)

    def _forget(self, name: str) -> None:
        for server in self._servers:
            with suppress(ModelError):  # one that does not answer is found out when it is sampled from
                server.unload(name)
        shutil.rmtree(self.settings.adapters / name, ignore_errors=True)


def open_engine(**settings: Any) -> Vllm:
    """The factory of the offer ``vllm``, which takes :class:`sia_vllm.settings.Settings`' fields and the trainer's."""
    options = checked(Settings, settings, "--engine-set")
    trainer: Engine = Plugins.discover().create("engine", options.trainer, **options.for_trainer)
    return Vllm(trainer, options)


def _body(model: str, request: Request, seed: int, tokens: Tokens) -> dict[str, Any]:
    return {
        "model": model,
        "prompt": list(request.prompt),
        "max_tokens": request.max_tokens,
        "seed": int.from_bytes(hashlib.sha256(str(seed).encode()).digest()[:4]) // 2,
        "temperature": 1.0 if request.temperature is None else request.temperature,
        "top_p": request.top_p,
        "stop": list(request.stop),
        "stop_token_ids": list(tokens.stops),
        "skip_special_tokens": True,
    }


def _sampled(request: Request, reply: Completion) -> Sampled:
    text, count = reply.text, len(reply.tokens)
    for each in request.stop:
        text = text.split(each, 1)[0]
    return Sampled(reply.tokens, [1] * count, reply.logprobs, [0.0] * count, None, text, reply.finish)
