"""Sampling in batches whose shape is fixed where rounding depends on it: company does not change what is sampled.

A lane is one prompt and up to W samples of it; a batch is at most as many lanes as fill
its R rows, or as many with empty ones among them. W follows from the request alone, and
a lane only meets lanes of the same bucket.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from sia_core.errors import UsageError
from sia_core.learning import Request, Sampled
from sia_torch.adapter import FEWEST, Map
from sia_torch.constrain import Constraint, Constraints
from sia_torch.decode import Decoder, Layout
from sia_torch.tokens import Tokens
from sia_torch.tree import bucket

PROMPT_BUCKET = 64
TAIL = 24
"""How many of the last tokens are looked at for a stop string."""
RUN = 256
"""Ids of the vocabulary whose probabilities are added up together."""


@dataclass
class _Row:
    """One sample under way."""

    request: Request
    index: tuple[int, int]
    chance: list[float]
    constraint: Constraint | None
    tokens: list[int] = field(default_factory=list)
    mask: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    allowed: list[Sequence[int] | None] = field(default_factory=list)
    bias: list[Sequence[float] | None] = field(default_factory=list)
    finish: Literal["stop", "length"] | None = None


@dataclass
class _Lane:
    prompt: Sequence[int]
    width: int
    rows: list[_Row] = field(default_factory=list)


@dataclass(frozen=True)
class Sampler:
    """Samples with one state of the weights: a decoder, the head, and the value head as a function."""

    decoder: Decoder
    head: Map
    value: Callable[[Tensor], Tensor]
    tokens: Tokens
    constraints: Constraints
    temperature: float
    rows: int

    def sample(self, requests: Sequence[Request]) -> list[list[Sampled]]:
        """For each request its continuations, in the order of its seeds."""
        samples: dict[tuple[int, int], Sampled] = {}
        for layout, lanes in self._batches(requests):
            self._run(layout, lanes)
            for row in (row for lane in lanes for row in lane.rows):
                samples[row.index] = self._sampled(row)
        return [
            [samples[number, each] for each in range(len(request.seeds))] for number, request in enumerate(requests)
        ]

    def _batches(self, requests: Sequence[Request]) -> Iterator[tuple[Layout, list[_Lane]]]:
        buckets: dict[tuple[int, int], list[_Lane]] = {}
        open_lanes: dict[tuple[tuple[int, ...], int], _Lane] = {}
        for number, request in enumerate(requests):
            if not request.prompt or not request.max_tokens:
                raise UsageError("sampling needs a prompt of at least one token, and room for one more")
            width = min(self.rows, 1 << (max(request.group or 0, len(request.seeds)) - 1).bit_length())
            rule = self.constraints.of(request.choices, request.schema)
            if request.prior and rule is None:
                raise UsageError("a prior weighs choices; a request without choices cannot have one")
            key = (tuple(request.prompt), width)
            for each, seed in enumerate(request.seeds):
                lane = open_lanes.get(key)
                if lane is None or len(lane.rows) == width:
                    lane = open_lanes[key] = _Lane(request.prompt, width)
                    buckets.setdefault((bucket(len(request.prompt), PROMPT_BUCKET), width), []).append(lane)
                start = rule.start(request.prior) if rule else None
                lane.rows.append(_Row(request, (number, each), _chance(seed, request.max_tokens), start))
        for (length, width), lanes in buckets.items():
            prompts = self.rows // width
            for first in range(0, len(lanes), prompts):
                some = lanes[first : first + prompts]
                new = max(row.request.max_tokens for lane in some for row in lane.rows)
                fewest = FEWEST if self.decoder.varies else prompts
                yield Layout(min(prompts, max(fewest, len(some))), length, width, new), some

    @torch.inference_mode()
    def _run(self, layout: Layout, lanes: Sequence[_Lane]) -> None:
        hidden_RD = self.decoder.prefill([lane.prompt for lane in lanes], layout)
        places = {
            number * layout.width + each: row for number, lane in enumerate(lanes) for each, row in enumerate(lane.rows)
        }
        temperatures = [1.0] * (layout.prompts * layout.width)
        for place, row in places.items():
            temperature = row.request.temperature
            temperatures[place] = self.temperature if temperature is None or temperature == 0 else temperature
        temperature_R1 = torch.tensor(temperatures, device=hidden_RD.device)[:, None]
        while True:
            tokens = self._choose(hidden_RD, temperature_R1, places)
            places = {place: row for place, row in places.items() if row.finish is None}
            if not places:
                return
            hidden_RD = self.decoder.step(tokens)

    def _choose(self, hidden_RD: Tensor, temperature_R1: Tensor, places: dict[int, _Row]) -> Tensor:
        """Sample the next token of every row that is under way; tokens (R,) to feed."""
        logits_RV = self.head(hidden_RD).float().div_(temperature_R1)
        values = self.value(functional.pad(hidden_RD, (0, 0, 0, self.rows - len(hidden_RD)))).tolist()
        alike: dict[tuple[int, ...] | None, list[int]] = {}
        for place, row in places.items():
            ids = tuple(row.constraint.allowed()) if row.constraint else None
            alike.setdefault(ids, []).append(place)
        chosen_R = torch.zeros(len(logits_RV), dtype=torch.long)
        for ids, some in alike.items():
            logits_NA = logits_RV if len(some) == len(logits_RV) else logits_RV[some]
            logits_NA = logits_NA if ids is None else logits_NA[:, list(ids)]
            biases = [rule.bias() if (rule := places[place].constraint) else None for place in some]
            if any(bias is not None for bias in biases):
                added = [[0.0] * logits_NA.shape[1] if bias is None else bias for bias in biases]
                logits_NA = logits_NA + torch.tensor(added, dtype=logits_NA.dtype, device=logits_NA.device)
            logprobs_NA = logits_NA.log_softmax(-1)
            columns_N = self._columns(logprobs_NA, [places[place] for place in some])
            picked = logprobs_NA.gather(-1, columns_N[:, None])[:, 0].tolist()
            for place, column, logprob, bias in zip(some, columns_N.tolist(), picked, biases, strict=True):
                token = column if ids is None else ids[column]
                chosen_R[place] = token
                self._append(places[place], token, logprob, values[place], ids, bias)
        return chosen_R.to(logits_RV.device)

    def _columns(self, logprobs_NA: Tensor, rows: Sequence[_Row]) -> Tensor:
        """Which of the A ids that it may choose each of N rows takes, (N,)."""
        chances = torch.tensor([row.chance[len(row.tokens)] for row in rows], dtype=torch.float64)
        columns_N = _inverse(_nuclei(logprobs_NA, [row.request.top_p for row in rows]), chances.to(logprobs_NA.device))
        for number, row in enumerate(rows):
            if row.request.temperature == 0:
                columns_N[number] = logprobs_NA[number].argmax()
            elif row.request.place is not None and row.constraint and not row.tokens:
                columns_N[number] = _without_replacement(logprobs_NA[number], row.request)
        return columns_N

    def _append(
        self,
        row: _Row,
        token: int,
        logprob: float,
        value: float,
        allowed: Sequence[int] | None,
        bias: Sequence[float] | None,
    ) -> None:
        free = allowed is None or len(allowed) > 1
        row.tokens.append(token)
        row.mask.append(int(free))
        row.logprobs.append(logprob if free else 0.0)
        row.values.append(value if free else 0.0)
        row.allowed.append(allowed if free else None)
        row.bias.append(bias if free else None)
        if row.constraint:
            row.constraint.advance(token)
            self._finish_forced(row, row.constraint.rest())
        if row.tokens[-1] in self.tokens.stops or self._stopped(row):
            row.finish = "stop"
        elif len(row.tokens) == row.request.max_tokens:
            row.finish = "length"

    def _finish_forced(self, row: _Row, rest: Sequence[int]) -> None:
        """Write the only end that is left without asking the model: most of a long label is."""
        rest = rest[: row.request.max_tokens - len(row.tokens)]
        row.tokens += rest
        row.mask += [0] * len(rest)
        row.logprobs += [0.0] * len(rest)
        row.values += [0.0] * len(rest)
        row.allowed += [None] * len(rest)
        row.bias += [None] * len(rest)

    def _stopped(self, row: _Row) -> bool:
        if not row.request.stop:
            return False
        # A stop string ends in the token just added; it cannot be longer than it has characters.
        tail = row.tokens[-max(map(len, row.request.stop)) * 4 - TAIL :]
        return any(each in self.tokens.decode(tail) for each in row.request.stop)

    def _sampled(self, row: _Row) -> Sampled:
        text = self.tokens.decode(row.tokens)
        for each in row.request.stop:
            text = text.split(each, 1)[0]
        return Sampled(
            tokens=row.tokens,
            mask=row.mask,
            logprobs=row.logprobs,
            values=row.values,
            allowed=row.allowed if row.constraint else None,
            bias=row.bias if row.request.prior else None,
            text=text,
            finish=row.finish or "length",
        )


def _chance(seed: int, count: int) -> list[float]:
    """Numbers in [0, 1), one a token: the sample's own, whatever else is sampled."""
    generator = random.Random(seed)
    return [generator.random() for _ in range(count)]


def _without_replacement(logprobs_A: Tensor, request: Request) -> int:
    """Which of the allowed is drawn at the request's place, by perturbed log-probabilities in descending order.

    Kool, van Hoof, Welling 2019, "Stochastic Beams and Where to Find Them" (arXiv 1903.06059).
    """
    perturbed_A = logprobs_A.double().cpu() + _gumbel(request.seeds[0], len(logprobs_A))
    order: list[int] = perturbed_A.argsort(descending=True, stable=True).tolist()
    return order[(request.place or 0) % len(order)]


@lru_cache(maxsize=64)
def _gumbel(seed: int, count: int) -> Tensor:
    generator = random.Random(seed)
    noise = [-math.log(-math.log(generator.random() or 0.5)) for _ in range(count)]
    return torch.tensor(noise, dtype=torch.float64)


def _nuclei(logprobs_RV: Tensor, top_p: Sequence[float]) -> Tensor:
    """Log-probabilities, where a row is cut, of the likeliest ids alone that have its ``top_p`` together."""
    if min(top_p) >= 1:
        return logprobs_RV
    sorted_RV, order_RV = logprobs_RV.double().sort(dim=-1, descending=True, stable=True)
    before_RV = sorted_RV.exp().cumsum(-1) - sorted_RV.exp()
    limit_R1 = torch.tensor(top_p, dtype=torch.float64, device=logprobs_RV.device)[:, None]
    beyond_RV = (before_RV >= limit_R1) & (limit_R1 < 1)
    return logprobs_RV.masked_fill(torch.empty_like(beyond_RV).scatter(-1, order_RV, beyond_RV), float("-inf"))


def _inverse(logprobs_RV: Tensor, chance_R: Tensor) -> Tensor:
    """The id at which the cumulated probability passes each row's number, (R,).

    Of runs of ids first, then within one: of a large vocabulary not all is cumulated, which has to be in double.
    """
    missing = -logprobs_RV.shape[1] % RUN
    probs_RV = functional.pad(logprobs_RV.exp(), (0, missing)) if missing else logprobs_RV.exp()
    probs_RNC = probs_RV.view(len(probs_RV), -1, RUN)
    runs_RN = probs_RNC.sum(-1).double()
    cumulated_RN = runs_RN.cumsum(-1)
    point_R = chance_R * cumulated_RN[:, -1]
    run_R = _passing(cumulated_RN, point_R)
    here = (torch.arange(len(run_R), device=run_R.device), run_R)
    point_R = point_R - (cumulated_RN[here] - runs_RN[here])
    return run_R * RUN + _passing(probs_RNC[here].double().cumsum(-1), point_R)


def _passing(cumulated_RN: Tensor, point_R: Tensor) -> Tensor:
    """The first of N that passes each row's point, (R,): never one that adds nothing, whatever was rounded."""
    total_R = cumulated_RN[:, -1]
    point_R = torch.minimum(point_R.clamp(min=0), torch.nextafter(total_R, torch.zeros_like(total_R)))
    return torch.searchsorted(cumulated_RN, point_R[:, None], right=True)[:, 0]
