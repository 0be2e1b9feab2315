"""The values and protocols of rollouts, learners and engines: the weight lever's half of the contract.

One alignment holds everywhere: entry t of a sequence speaks of token t given the tokens before it. So ``logprobs[t]``
is log p(token t | tokens < t), and ``values[t]`` is a critic's estimate of the state in which token t was chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from operator import eq
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from pydantic import BaseModel

from sia_core.decision import Training
from sia_core.errors import TrainingError
from sia_core.evidence import RewardStats


class Joined(Sequence[Any]):
    """A sequence behind another, without a copy of either: the rollouts of a group share their long prompt."""

    __slots__ = ("_head", "_tail")

    def __init__(self, head: Sequence[Any], tail: Sequence[Any]) -> None:
        self._head, self._tail = head, tail

    def __len__(self) -> int:
        return len(self._head) + len(self._tail)

    def __iter__(self) -> Iterator[Any]:
        return chain(self._head, self._tail)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return list(self)[place]
        before = len(self._head)
        at = place + len(self) if place < 0 else place
        if at < 0:
            raise IndexError(place)
        return self._head[at] if at < before else self._tail[at - before]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(eq, self, other))

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return repr(list(self))


@lru_cache(maxsize=1024, typed=True)
def _filled(value: Any, length: int) -> tuple[Any, ...]:
    return (value,) * length


@dataclass(frozen=True)
class Trace:
    """One exact sequence of T ``tokens``, by id, as the policy saw and sampled it; it may hold several turns.

    ``mask`` (T,) is 1 on tokens that the policy sampled and 0 on everything else; ``logprobs`` (T,) are the natural
    log-probabilities at sampling, 0 where the mask is. ``step_rewards`` are (token index, reward), each at a sampled
    token. ``values`` (T,) and ``reference`` (T,), a critic's estimates at sampling and the base model's
    log-probabilities, are there for learners that need them. ``allowed`` (T,) names, for tokens chosen under a
    constraint, the ids that they were chosen among; None stands for every id. ``bias`` (T,) holds what was added to the
    logits of those ids before the choice; None stands for nothing.
    """

    tokens: Sequence[int]
    mask: Sequence[int]
    logprobs: Sequence[float]
    step_rewards: Sequence[tuple[int, float]] = ()
    values: Sequence[float] | None = None
    reference: Sequence[float] | None = None
    allowed: Sequence[Sequence[int] | None] | None = None
    bias: Sequence[Sequence[float] | None] | None = None


@dataclass(frozen=True)
class Sample:
    """One scored rollout of an ``instance``, by id: the ``reward``, and the ``traces`` of its calls of the policy.

    ``agent`` names the harness and the weights that made it. A harness that calls the policy with unrelated prompts
    leaves several traces, one that did not call it none. ``truncated`` says that a limit of length cut it short.
    """

    instance: str
    agent: str
    reward: float
    traces: Sequence[Trace]
    truncated: bool = False


@dataclass(frozen=True)
class Datum:
    """One training sequence: a ``trace`` and the credit that its tokens get.

    ``advantages`` (T,) weigh its sampled tokens; ``returns`` (T,) are a critic's targets, None without a critic; data
    of one ``pair`` (the preferred side with advantages of +1, the other of -1) must meet in one micro-batch;
    ``normaliser``, above 0, is the one divisor of the whole batch's loss, so that a split into micro-batches changes no
    gradient.
    """

    trace: Trace
    advantages: Sequence[float]
    normaliser: float
    returns: Sequence[float] | None = None
    pair: int | None = None


@dataclass(frozen=True)
class Batch:
    """A micro-batch of data as padded tensors of the engine's library: each field is that of its data or traces.

    B sequences, padded on the right to T tokens, zero where padded. ``old_logprobs_BT`` and ``old_values_BT`` are those
    at sampling. ``pair_B`` is -1 where a sequence belongs to no pair. What no datum has is None.
    """

    tokens_BT: Any
    mask_BT: Any
    old_logprobs_BT: Any
    advantages_BT: Any
    normaliser: float
    reference_BT: Any = None
    old_values_BT: Any = None
    returns_BT: Any = None
    pair_B: Any = None

    @classmethod
    def of(
        cls,
        data: Sequence[Datum],
        ints: Callable[[list[Any]], Any],
        floats: Callable[[list[Any]], Any],
        length: int | None = None,
    ) -> Batch:
        """Pad data to ``length`` tokens (the longest, if None). ``ints`` and ``floats`` make tensors of nested lists.

        Raises TrainingError where data of different batches meet, or one side of a pair is missing.
        """
        if len({datum.normaliser for datum in data}) != 1:
            raise TrainingError("a micro-batch holds no data, or data of two batches: their normalisers differ")
        sides = {(datum.pair, max(datum.advantages) > 0) for datum in data if datum.pair is not None}
        if len(sides) != 2 * len({pair for pair, _ in sides}):
            raise TrainingError("a micro-batch splits a preference pair; keep the data of one pair together")
        traces = [datum.trace for datum in data]
        width = length or max(len(trace.tokens) for trace in traces)

        def padded(tensor: Callable[[list[Any]], Any], rows: Sequence[Sequence[float] | None]) -> Any:
            whole = [[*row, *[0] * (width - len(row))] for row in rows if row is not None]
            return tensor(whole) if len(whole) == len(rows) else None

        return cls(
            tokens_BT=padded(ints, [trace.tokens for trace in traces]),
            mask_BT=padded(floats, [trace.mask for trace in traces]),
            old_logprobs_BT=padded(floats, [trace.logprobs for trace in traces]),
            advantages_BT=padded(floats, [datum.advantages for datum in data]),
            normaliser=data[0].normaliser,
            reference_BT=padded(floats, [trace.reference for trace in traces]),
            old_values_BT=padded(floats, [trace.values for trace in traces]),
            returns_BT=padded(floats, [datum.returns for datum in data]),
            pair_B=ints([-1 if datum.pair is None else datum.pair for datum in data]) if sides else None,
        )


class Loss(Protocol):
    """A learner's loss: a pure function that an engine imports by name and calls once a micro-batch."""

    def __call__(
        self, logprobs_BT: Any, batch: Batch, values_BT: Any, settings: Mapping[str, Any]
    ) -> tuple[Any, Mapping[str, Any]]:
        """A scalar to minimise, and sums to watch.

        ``logprobs_BT`` are current; ``values_BT`` is None where the engine has no critic. Both are differentiable, and
        of any value where the mask is 0. The scalar is this micro-batch's share: shares add up to the batch's loss. So
        do the sums to watch; ``tokens`` among them is the count that others divide by.
        """


@runtime_checkable
class Learner(Protocol):
    """An RL algorithm: turns groups of scored rollouts into a training signal."""

    @property
    def Config(self) -> type[BaseModel]:
        """The pydantic model of its settings. The factory takes the model's fields as keywords."""

    @property
    def loss(self) -> str:
        """The name of its :class:`Loss`, ``"module:attribute"``."""

    @property
    def config(self) -> BaseModel:
        """The settings that it was made with. As JSON they are the loss's ``settings``."""

    @property
    def needs(self) -> frozenset[str]:
        """Abilities that its engine must have, or it is refused: train, values, reference, custom_loss, constrain."""

    @property
    def epochs(self) -> int:
        """How many optimizer steps one batch is good for, each over all of its data."""

    def training(self, stats: RewardStats) -> Training:
        """How long and in what batches it is best trained on rewards like these."""

    def objections(self, stats: RewardStats) -> list[str]:
        """Why it would learn nothing from rewards like these; empty if it would."""

    def credit(self, groups: Sequence[Sequence[Sample]]) -> list[Datum]:
        """Training data from groups of scored rollouts, each of one instance.

        Pure; the order of groups and of their members changes no gradient. Raises NoSignal where there is nothing to
        learn, TrainingError where rollouts must not be trained on.
        """


LARGEST_CREDIT = 1e15
"""How far from 0 credit may be: engines square it in single precision, and add up many of these squares."""


def credited(learner: Learner, groups: Sequence[Sequence[Sample]]) -> list[Datum]:
    """A learner's credit; TrainingError where an engine could not compute with it, before anything is trained on."""
    try:
        data = learner.credit(groups)
    except ArithmeticError as error:
        raise TrainingError(f"the algorithm cannot compute with these rewards: {error}. {_SCALE}") from error
    for datum in data:
        check_credit(datum)
    return data


def check_credit(datum: Datum) -> None:
    """TrainingError where a figure of a datum is no number, or too large to be computed with."""
    rows = {"advantage": datum.advantages, "return": datum.returns or ()}
    for name, row in rows.items():
        wrong = next((value for value in row if not abs(value) <= LARGEST_CREDIT), None)
        if wrong is not None:
            raise TrainingError(f"the {name} {wrong:g} cannot be trained on: the rewards are too large. {_SCALE}")
    if not 0 < datum.normaliser <= LARGEST_CREDIT:
        raise TrainingError(f"the divisor {datum.normaliser:g} of a loss is not a positive number. {_SCALE}")


_SCALE = "Have the verifier give rewards that are some 1 or 100 apart"


@dataclass(frozen=True)
class Request:
    """Continuations of one ``prompt``, token ids, one for each of ``seeds``.

    What is sampled depends on the prompt, the seed, the weights and ``group``, and on nothing else that is asked for at
    the same time. ``group`` is how many samples of this prompt there will be in all, over several requests; they are
    decoded side by side, and if it is None are this request's own. Sampling ends with a token of ``tokens.stops``, one
    of ``stop`` in the text, or ``max_tokens``. ``choices`` and ``schema`` constrain it to one of these strings, or to
    JSON of that schema; ``prior``, one a choice, are log-weights that multiply the policy's own probabilities of the
    choices. ``temperature`` None is the engine's, which is what training computes with; 0 takes the likeliest token,
    with its log-probability at the engine's temperature. ``top_p`` below 1 draws from the likeliest tokens alone that
    have so much probability together, with their log-probabilities among all; a rollout that is trained on is never
    asked so. With a ``place``, samples of the same seed are drawn from the ``choices`` without replacement, and this is
    the one at that place, from 0.
    """

    prompt: Sequence[int]
    seeds: Sequence[int]
    max_tokens: int = 256
    group: int | None = None
    stop: Sequence[str] = ()
    choices: Sequence[str] = ()
    prior: Sequence[float] = ()
    schema: Mapping[str, Any] | None = None
    temperature: float | None = None
    place: int | None = None
    top_p: float = 1.0


@dataclass(frozen=True)
class Sampled:
    """One continuation of n ``tokens``, among them the one that ended it; ``text`` is what they spell.

    ``mask`` is 0 where a constraint left only one token: the policy chose nothing there. ``values`` are the value
    head's estimates of the state in which each token was chosen; ``logprobs``, ``allowed`` and ``bias`` are as in a
    :class:`Trace`. ``finish`` is ``length`` where ``max_tokens`` cut it.
    """

    tokens: Sequence[int]
    mask: Sequence[int]
    logprobs: Sequence[float]
    values: Sequence[float]
    allowed: Sequence[Sequence[int] | None] | None
    text: str
    finish: Literal["stop", "length"]
    bias: Sequence[Sequence[float] | None] | None = None

    def trace(self, prompt: Sequence[int]) -> Trace:
        """The prompt and this continuation, to train on."""
        length = len(prompt)
        nothing = _filled(None, length)
        return Trace(
            tokens=Joined(prompt, self.tokens),
            mask=Joined(_filled(0, length), self.mask),
            logprobs=Joined(_filled(0.0, length), self.logprobs),
            values=Joined(_filled(0.0, length), self.values),
            allowed=None if self.allowed is None else Joined(nothing, self.allowed),
            bias=None if self.bias is None else Joined(nothing, self.bias),
        )


class Tokens(Protocol):
    """An engine's tokenizer of ``size`` ids. ``stops`` are those that end a turn, the first of them the usual one."""

    size: int
    stops: tuple[int, ...]

    def encode(self, text: str) -> list[int]:
        """The ids of a text; markup of turns in it is text like any other."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids without markup; a character that is cut off becomes U+FFFD."""

    def render(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()) -> list[int]:
        """The prompt that asks for the next turn after ``messages``, in the shape of chat completions."""


@runtime_checkable
class Engine(Protocol):
    """Samples from a policy and trains it. The methods are named as in the Tinker API.

    ``can`` is a set out of {train, values, reference, custom_loss, constrain}; ``tokens`` is its tokenizer. Numbers
    depend on what is asked for and on the weights, not on the order of arrival. Used by one thread at a time.
    ``learning_rate`` is what suits this policy. Its factory is called with the run's ``policy``, a name that the engine
    knows, its ``seed``, and the engine's own settings. One that knows how many tokens of prompt and reply its policy
    can have together says so in a further attribute, ``context``; what asks for more is refused before it is sampled.
    One whose policy is slow, or learns from few rollouts, says how many suit an update in ``rollouts``, to which a
    learner's advice is cut. One that samples sequences side by side says how many in ``rows``: as many rollouts ask at
    once. One whose server goes on with another request whenever a reply ends says in ``at_once`` by how many threads it
    may be asked. One that knows says in ``about``, as JSON, its policy's ``parameters`` and whether it is
    ``pretrained``.
    """

    can: frozenset[str]
    tokens: Tokens
    learning_rate: float

    def sample(self, requests: Sequence[Request]) -> list[list[Sampled]]:
        """For each request its continuations, in the order of its seeds."""

    def logprobs(self, traces: Sequence[Trace], *, reference: bool = False) -> list[list[float]]:
        """For each trace (T,) log-probabilities now, 0 where its mask is; of the base, if ``reference``."""

    def values(self, traces: Sequence[Trace]) -> list[list[float]]:
        """For each trace (T,) the critic's estimates of the states in which its tokens were chosen."""

    def check(self, traces: Sequence[Trace]) -> float:
        """A difference between log-probabilities at sampling and now, in nats; TrainingError past a tolerance."""

    def forward_backward(
        self, data: Sequence[Datum], loss: str, settings: Mapping[str, Any] | None = None
    ) -> Mapping[str, float]:
        """Add the gradient of a :class:`Loss`, ``"module:attribute"``, over data; the sums to watch, added up.

        Split as the engine likes, but data of one pair stay in one micro-batch.
        Log-probabilities are renormalised over ``trace.allowed`` where a trace has it.
        """

    def optim_step(self, *, lr: float | None = None) -> Mapping[str, float]:
        """A step with the gradients added up so far, which it clears; TrainingError if nothing moved.

        Without a learning rate, the engine's own for this policy.
        """

    def digest(self) -> str:
        """A digest of the adapter's weights alone: the name of what samples."""

    def memory(self) -> Mapping[str, float]:
        """Bytes: ``needed``, an estimate of what training takes at most, and ``peak``, what was taken so far."""

    def save(self, folder: Path) -> str:
        """Write a snapshot (adapter, critic, optimizer) whole or not at all; its SHA-256 in hexadecimal."""

    def load(self, folder: Path) -> None:
        """Go on from a snapshot as if training had never stopped."""
