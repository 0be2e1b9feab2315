"""What passes between rollouts, learners and engines.

Stands here until ``sia_core.types`` holds it; strangers' learners will import it from there.

One alignment holds everywhere: entry t of a sequence speaks of token t given the
tokens before it. So ``logprobs[t]`` is log p(token t | tokens < t), and ``values[t]``
is a critic's estimate of the state in which token t was chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from pydantic import BaseModel

from sia_core.errors import SiaError
from sia_core.evidence import RewardStats


class TrainingError(SiaError):
    """Rollouts that must not be trained on: malformed, from several agents, or not of one instance."""


class NoSignal(TrainingError):
    """Nothing to learn in these rollouts: all rewards of a group alike, no pair, no positive sample."""


@dataclass(frozen=True)
class Trace:
    """One exact sequence of T tokens as the policy saw and sampled it; it may hold several turns.

    ``mask`` (T,) is 1 on tokens that the policy sampled and 0 on everything else;
    ``logprobs`` (T,) are the natural log-probabilities at sampling, 0 where the
    mask is. ``step_rewards`` are (token index, reward), each at a sampled token.
    ``values`` (T,) and ``reference`` (T,), a critic's estimates at sampling and the
    base model's log-probabilities, are there for learners that need them.
    ``allowed`` (T,) names, for tokens chosen under a constraint, the ids that they
    were chosen among; None stands for every id.
    """

    tokens: Sequence[int]
    mask: Sequence[int]
    logprobs: Sequence[float]
    step_rewards: Sequence[tuple[int, float]] = ()
    values: Sequence[float] | None = None
    reference: Sequence[float] | None = None
    allowed: Sequence[Sequence[int] | None] | None = None


@dataclass(frozen=True)
class Sample:
    """One scored rollout: the verifier's reward, and the traces of its calls of the policy, in order.

    ``agent`` is the digest of the harness and adapter that made it. A harness that
    calls the policy with unrelated prompts leaves several traces, one that did not
    call it none. ``truncated`` says that a limit of length cut it short.
    """

    instance: str
    agent: str
    reward: float
    traces: Sequence[Trace]
    truncated: bool = False


@dataclass(frozen=True)
class Datum:
    """One training sequence: a trace and the credit that its tokens get.

    ``advantages`` (T,) weigh its sampled tokens; ``returns`` (T,) are a critic's
    targets; data of one ``pair`` (the preferred side with advantages of +1, the
    other of -1) must meet in one micro-batch; ``normaliser`` is the one divisor of
    the whole batch's loss, so that a split into micro-batches changes no gradient.
    """

    trace: Trace
    advantages: Sequence[float]
    normaliser: float
    returns: Sequence[float] | None = None
    pair: int | None = None


@dataclass(frozen=True)
class Batch:
    """A micro-batch of data as padded tensors of the engine's library.

    B sequences, padded on the right to T tokens, zero where padded. ``pair_B`` is
    -1 where a sequence belongs to no pair. What no datum has is None.
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

        ``logprobs_BT`` are current; ``values_BT`` is None where the engine has no
        critic. Both are differentiable, and of any value where the mask is 0. The
        scalar is this micro-batch's share: shares add up to the batch's loss. So do
        the sums to watch; ``tokens`` among them is the count that others divide by.
        """


@runtime_checkable
class Learner(Protocol):
    """An RL algorithm: turns groups of scored rollouts into a training signal.

    Attributes
    ----------
    Config : what it can be told, a pydantic model; the factory takes its fields as keywords.
    config : what it was told; as JSON it is the loss's ``settings``.
    loss : the name of its :class:`Loss`, ``"module:attribute"``.
    needs : what it asks of an engine, out of train, values, reference, custom_loss and
        constrain; a need that the engine lacks is refused before anything is spent.
    epochs : how many optimizer steps one batch is good for, each over all of its data.
    """

    @property
    def Config(self) -> type[BaseModel]: ...

    @property
    def loss(self) -> str: ...

    @property
    def config(self) -> BaseModel: ...

    @property
    def needs(self) -> frozenset[str]: ...

    @property
    def epochs(self) -> int: ...

    def objections(self, stats: RewardStats) -> list[str]:
        """Why it would learn nothing from rewards like these; empty if it would."""

    def credit(self, groups: Sequence[Sequence[Sample]]) -> list[Datum]:
        """Training data from groups of scored rollouts, each of one instance.

        Pure; the order of groups and of their members changes no gradient. Raises
        NoSignal where there is nothing to learn, TrainingError where rollouts must
        not be trained on.
        """
