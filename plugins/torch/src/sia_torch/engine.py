"""The engine ``torch``: samples from a policy and trains it, in one process.

The verbs are those of the Tinker API: :meth:`Torch.sample`, :meth:`Torch.logprobs`,
:meth:`Torch.forward_backward`, :meth:`Torch.optim_step`, :meth:`Torch.save` and
:meth:`Torch.load`. Entry t of a sequence speaks of token t given the tokens before it.
"""

from __future__ import annotations

import contextlib
import math
import pkgutil
import resource
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from sia_core.errors import TrainingError, UsageError
from sia_core.learning import Batch, Datum, Request, Sampled, Trace
from sia_runtime.agreement import mean_gap
from sia_runtime.settings import checked
from sia_torch import memory, store
from sia_torch.adapter import Map
from sia_torch.constrain import Constraints
from sia_torch.decode import Decoder, Fused, Through, fusable
from sia_torch.defaults import learning_rate_of, rollouts_of
from sia_torch.head import Allowed, token_logprobs
from sia_torch.policy import Policy, build
from sia_torch.precision import tolerance_of
from sia_torch.sampler import Sampler
from sia_torch.settings import Settings
from sia_torch.tree import BRANCH_BUCKET, bucket, pack, plan, units


class Torch:
    """A policy that samples and learns; the factory of the offer ``torch``, which takes :class:`Settings`' fields."""

    can: ClassVar[frozenset[str]] = frozenset({"train", "values", "reference", "custom_loss", "constrain"})

    def __init__(self, **settings: Any) -> None:
        options, resident = checked(Settings, settings, "--engine-set"), memory.resident()
        self._take(build(options), options, resident)

    @classmethod
    def of(cls, policy: Policy, settings: Settings) -> Torch:
        """An engine around a policy that is there already."""
        engine = cls.__new__(cls)
        engine._take(policy, settings, memory.resident())
        return engine

    def _take(self, policy: Policy, settings: Settings, resident: float) -> None:
        self._resident, self._largest = resident, 0.0
        self.policy, self.settings, self.tokens = policy, settings, policy.tokens
        self.context, self.about = policy.limit, policy.about
        self.learning_rate = learning_rate_of(policy.name, policy.config.hidden_size)
        self.rollouts, self.rows = rollouts_of(policy.name), settings.rows
        self._learning = self.policy.learning()
        self._optimizer = torch.optim.AdamW(list(self._learning.values()), fused=True)
        self._steps = 0
        self._constraints = Constraints(self.tokens)
        self._sampler: Sampler | None = None

    def sample(self, requests: Sequence[Request]) -> list[list[Sampled]]:
        """For each request its continuations, in the order of its seeds."""
        longest = max((len(each.prompt) + each.max_tokens for each in requests), default=0)
        if self.context is not None and longest > self.context:
            raise UsageError(
                f"{longest} tokens of prompt and reply are more than the policy's context of {self.context}"
            )
        if self._sampler is None:
            policy, settings = self.policy, self.settings
            decoder: Decoder = Fused(policy, settings.prefill_rows) if fusable(policy) else Through(policy)
            self._sampler = Sampler(
                decoder=decoder,
                head=Map(policy.head().detach(), None),
                value=self._value,
                tokens=self.tokens,
                constraints=self._constraints,
                temperature=settings.temperature,
                rows=settings.rows,
            )
        return self._sampler.sample(requests)

    def logprobs(self, traces: Sequence[Trace], *, reference: bool = False) -> list[list[float]]:
        """For each trace (T,) current log-probabilities, 0 where its mask is; of the base model, if ``reference``."""
        return self._read(traces, reference, values=False)

    def values(self, traces: Sequence[Trace]) -> list[list[float]]:
        """For each trace (T,) the value head's estimates of the states in which its tokens were chosen."""
        return self._read(traces, reference=False, values=True)

    def drop_gradients(self) -> None:
        """Forget what was added up for a step."""
        self._optimizer.zero_grad()

    def forget_sampler(self) -> None:
        """Make it anew for the next sample: the weights were changed from outside."""
        self._sampler = None

    def _read(self, traces: Sequence[Trace], reference: bool, values: bool) -> list[list[float]]:
        result: list[list[float]] = [[] for _ in traces]
        alone = [[index] for index in range(len(traces))]
        with torch.inference_mode(), self._base() if reference else contextlib.nullcontext():
            for rows in plan(traces, alone, self.settings.micro_tokens):
                logprobs_BT, values_BT = self._forward(
                    [[traces[index] for index in row] for row in rows], not reference
                )
                order = [index for row in rows for index in row]
                numbers = (values_BT if values else logprobs_BT).tolist()
                for index, row in zip(order, numbers, strict=True):
                    result[index] = row[: len(traces[index].tokens)]
        return result

    def check(self, traces: Sequence[Trace]) -> float:
        """The mean difference between log-probabilities at sampling and now; TrainingError where rounding is not why.

        For the first batch after a sync of weights: what was sampled elsewhere or by
        other kernels may not be what is trained here.
        """
        now = self.logprobs(traces)
        gaps = [
            then - current
            for trace, row in zip(traces, now, strict=True)
            for then, current, entry in zip(trace.logprobs, row, trace.mask, strict=True)
            if entry
        ]
        try:
            return mean_gap(gaps, tolerance_of(self.settings, self.policy.head().dtype))
        except TrainingError as error:
            raise TrainingError(
                f"sampler and trainer disagree: {error}; were these traces sampled with other weights, another base, "
                "tokenizer or temperature?"
            ) from None

    def forward_backward(
        self, data: Sequence[Datum], loss: str, settings: Mapping[str, Any] | None = None
    ) -> dict[str, float]:
        """Add the gradient of a loss, ``"module:attribute"``, over data; sums to watch, and the ``loss``.

        TrainingError where the loss is not finite; the gradients are dropped then.
        """
        try:
            function = pkgutil.resolve_name(loss)
        except (ImportError, AttributeError, ValueError) as error:
            raise TrainingError(f"there is no loss {loss}: {error}") from None
        traces = [datum.trace for datum in data]
        sums: dict[str, float] = {"loss": 0.0}
        for rows in plan(traces, units(data), self.settings.micro_tokens):
            some = [data[index] for row in rows for index in row]
            logprobs_BT, values_BT = self._forward([[traces[index] for index in row] for row in rows], True)
            batch = Batch.of(some, self._ints, self._floats, logprobs_BT.shape[1])
            scalar, watched = function(logprobs_BT, batch, values_BT, settings or {})
            if not torch.isfinite(scalar):
                self._optimizer.zero_grad()
                raise TrainingError(
                    f"the loss of {loss} is {float(scalar.detach())}; lower the learning rate, or load a snapshot"
                )
            with self.policy.passing():
                scalar.backward()
            for name, value in {"loss": scalar.detach(), **watched}.items():
                sums[name] = sums.get(name, 0.0) + float(value)
        return sums

    def optim_step(
        self,
        *,
        lr: float | None = None,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        max_grad_norm: float = 1.0,
    ) -> dict[str, float]:
        """One step of AdamW with the gradients added up so far, which it clears; TrainingError if nothing moved."""
        weights = [weight for weight in self._learning.values() if weight.grad is not None]
        norm = float(torch.nn.utils.clip_grad_norm_(weights, max_grad_norm))
        if not math.isfinite(norm):
            self._optimizer.zero_grad()
            raise TrainingError(f"the gradient's norm is {norm}; lower the learning rate, or load a snapshot")
        rate = self.learning_rate if lr is None else lr
        for group in self._optimizer.param_groups:
            group.update(lr=rate, betas=betas, eps=eps, weight_decay=weight_decay)
        before = [weight.detach().clone() for weight in weights]
        self._optimizer.step()
        self._optimizer.zero_grad()
        if all(torch.equal(old, new) for old, new in zip(before, weights, strict=True)):
            raise TrainingError(f"an optimizer step moved nothing: gradient norm {norm:g}, learning rate {rate:g}")
        self._steps += 1
        self._sampler = None
        return {"grad_norm": norm, "lr": rate}

    def memory(self) -> dict[str, float]:
        """Bytes: ``needed``, about what training takes at most, and ``peak``, of the device, or of this whole process.

        What was held before, weights, the decode loop's copy of them, for what learns also
        gradient and Adam's two moments, and the largest micro-batch: of those that were
        computed, trained on or not, or a full one before there was any.
        """
        policy = self.policy
        weights = sum(map(memory.local_size, policy.model.parameters()))
        learning = sum(map(memory.local_size, self._learning.values()))
        gathered = policy.shards.gathered if policy.shards else 0
        largest = self._largest or memory.at_most(policy.config, self.settings, policy.head().element_size())
        total = weights * (2 if fusable(policy) else 1) + gathered + 3 * learning + largest
        if policy.device.type == "cuda":
            peak = float(torch.cuda.max_memory_allocated(policy.device))
        else:
            peak = 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            total += self._resident
        return {"needed": max(total, peak), "peak": peak}

    def digest(self) -> str:
        """A digest of the adapter's weights alone: the name of what samples."""
        return store.digest_of(store.adapter_state(self.policy))

    def save(self, folder: Path) -> str:
        """Write adapter, value head and optimizer, whole or not at all; a digest of all of it."""
        moments = {
            f"{name}/{key}": value.detach().cpu()
            for name, weight in self._learning.items()
            for key, value in self._optimizer.state.get(weight, {}).items()
        }
        return store.save(folder, self.policy, moments, {"steps": self._steps})

    def load(self, folder: Path) -> None:
        """Go on from a snapshot as if training had never stopped."""
        moments, steps = store.load(folder, self.policy)
        self._optimizer.zero_grad()
        self._optimizer.state.clear()
        for name, value in moments.items():
            weight, key = name.rsplit("/", 1)
            parameter = self._learning[weight]
            # Adam's count of steps stays where the fused kernel reads it, with the weight.
            kind = torch.float32 if key == "step" else parameter.dtype
            self._optimizer.state[parameter][key] = value.to(parameter.device, kind)
        self._steps = steps
        self._sampler = None

    def idle(self, training: bool) -> None:
        """A pass that nothing is learnt from, back too if ``training``, for processes that still have work."""
        with torch.set_grad_enabled(training):
            logprobs_BT, _ = self._forward([[Trace([0, 0], [0, 1], [0.0, 0.0])]], True)
        if training:
            with self.policy.passing():
                torch.autograd.backward(0 * logprobs_BT.sum())

    def _forward(self, rows: Sequence[Sequence[Trace]], adapted: bool) -> tuple[Tensor, Tensor]:
        """Log-probabilities and values (B, T) of traces in the order of ``rows``, 0 where nothing was sampled."""
        policy, settings = self.policy, self.settings
        longest = max(len(trace.tokens) for row in rows for trace in row)
        if self.context is not None and longest > self.context:
            raise TrainingError(f"a trace of {longest} tokens is longer than the policy's context of {self.context}")
        packed = pack(rows, policy.context, policy.features, policy.device, rooted=policy.tree)
        size = policy.head().element_size()
        activations = memory.activations(policy.config, settings, size, packed.tree.shape, len(rows))
        self._largest = max(self._largest, activations)
        # By ``embedding``, whose gradient adds up in one order: several samples read the state after a shared prompt.
        hidden_ND = functional.embedding(packed.read_N, policy.hidden(packed).flatten(0, 1))
        logprobs_N = token_logprobs(
            hidden_ND,
            policy.head(adapted),
            packed.targets_N,
            settings.temperature,
            Allowed.of(packed.allowed, packed.bias, policy.device),
            settings.vocabulary_chunk,
        )
        count = sum(map(len, rows))
        width = bucket(max(len(trace.tokens) for row in rows for trace in row), BRANCH_BUCKET)
        place = (packed.row_N, packed.column_N)
        logprobs_BT = logprobs_N.new_zeros(count, width).index_put(place, logprobs_N)
        return logprobs_BT, logprobs_N.new_zeros(count, width).index_put(
            place, self._value(hidden_ND).to(logprobs_N.dtype)
        )

    def _value(self, hidden_ND: Tensor) -> Tensor:
        value_N: Tensor = self.policy.value_head(hidden_ND.to(self.policy.value_head.weight.dtype))[:, 0]
        return value_N

    @contextlib.contextmanager
    def _base(self) -> Iterator[None]:
        with self.policy.model.disable_adapter():
            yield

    def _ints(self, rows: list[Any]) -> Tensor:
        return torch.tensor(rows, dtype=torch.long, device=self.policy.device)

    def _floats(self, rows: list[Any]) -> Tensor:
        return torch.tensor(rows, dtype=self._precision, device=self.policy.device)

    @cached_property
    def _precision(self) -> torch.dtype:
        return torch.promote_types(self.policy.head().dtype, torch.float32)
