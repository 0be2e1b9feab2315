"""The typed decisions of an improver: which lever to pull on which agent, and what it expects of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, JsonValue, Tag, TypeAdapter, field_validator

from sia_core.harness import Edit, Frozen


class Prediction(Frozen):
    """A decision as a hypothesis: what it should change, and by how much.

    ``gain`` is the expected change of the mean reward on search against the parent; ``where`` says in words which
    instances should change.
    """

    gain: float = Field(allow_inf_nan=False)
    where: str = Field(default="", max_length=2000)


class RewriteHarness(Frozen):
    """Change the harness of ``parent`` (the incumbent, if None) by ``edits``, in order; its weights are kept.

    ``name`` is what reports call it, and ``reason`` what later decisions are shown of it.
    """

    algorithm: ClassVar[None] = None
    gives: ClassVar[str] = "the edits give"
    lever: Literal["harness"] = "harness"
    name: str = Field(min_length=1, max_length=80)
    edits: tuple[Edit, ...] = Field(min_length=1)
    reason: str = Field(min_length=1, max_length=8000)
    prediction: Prediction
    parent: str | None = None

    @property
    def title(self) -> str:
        """A few words for people."""
        return f"edit {self.name}"


class Training(Frozen):
    """How long and how fast a weight update trains.

    Each of its ``steps`` rolls out ``prompts`` search instances (at most all), ``group`` times each, in the first step
    ``first_group`` times if that is set. It learns from them at once, in optimizer steps of ``minibatch`` traces each
    (all of them, if None), as many times over as the learner says. Rollouts of a group that are ``distinct`` are drawn
    from their choices without replacement: they find a rare success sooner, and suit learners that imitate, for they
    would bias a policy gradient. Every ``durable`` steps are one step of the ledger. ``learning_rate`` is the first
    step's, by default the engine's own. ``max_kl`` bounds how far one step may move the policy, in nats per token.
    After ``seconds`` the update ends with the step that it is at; if None, after all steps.
    """

    steps: int = Field(default=48, ge=1, le=100_000)
    prompts: int = Field(default=128, ge=1, le=100_000)
    group: int = Field(default=8, ge=1, le=4096)
    first_group: int | None = Field(default=None, ge=1, le=4096)
    learning_rate: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    minibatch: int | None = Field(default=None, ge=1)
    distinct: bool = False
    durable: int = Field(default=10, ge=1)
    max_kl: float = Field(default=5.0, gt=0, allow_inf_nan=False)
    seconds: float | None = Field(default=None, gt=0, allow_inf_nan=False)

    def group_of(self, step: int) -> int:
        """The rollouts of an instance in a step."""
        return self.first_group or self.group if step == 0 else self.group

    def rollouts(self, instances: int) -> int:
        """The rollouts of the whole update, on this many instances."""
        return min(self.prompts, instances) * sum(map(self.group_of, range(self.steps)))


class UpdateWeights(Frozen):
    """Train the adapter of ``parent`` (the incumbent, if None) with a learner; its harness is kept.

    ``algorithm`` is the learner's name, ``config`` its own settings, ``training`` how long and how fast.
    """

    gives: ClassVar[str] = "the update gives"
    lever: Literal["weights"] = "weights"
    algorithm: str = Field(min_length=1, max_length=80)
    config: Mapping[str, Any] = Field(default_factory=dict)
    training: Training = Training()
    reason: str = Field(min_length=1, max_length=8000)
    prediction: Prediction
    parent: str | None = None

    @property
    def name(self) -> str:
        """The name of its candidate: the algorithm's."""
        return self.algorithm

    @property
    def title(self) -> str:
        """A few words for people."""
        return f"{self.algorithm} update"


class PullLever(Frozen):
    """Pull a ``lever`` of a plugin on ``parent`` (the incumbent, if None). ``settings`` are the lever's own, JSON."""

    algorithm: ClassVar[None] = None
    gives: ClassVar[str] = "the lever gives"
    lever: str = Field(min_length=1, max_length=80)
    name: str = Field(min_length=1, max_length=80)
    settings: Mapping[str, JsonValue] = Field(default_factory=dict)
    reason: str = Field(min_length=1, max_length=8000)
    prediction: Prediction
    parent: str | None = None

    @field_validator("lever")
    @classmethod
    def _general(cls, lever: str) -> str:
        if lever in _TYPED:
            raise ValueError(f"{lever} has its own type of decision")
        return lever

    @property
    def title(self) -> str:
        """A few words for people."""
        return f"{self.lever} {self.name}"


class Stop(Frozen):
    """Nothing more is worth its cost: close the run."""

    lever: Literal["stop"] = "stop"
    reason: str = Field(min_length=1, max_length=8000)


_TYPED = ("harness", "weights", "stop")

Change = RewriteHarness | UpdateWeights | PullLever
"""A decision that makes a candidate."""

Decision = Change | Stop


def _type_of(decision: Any) -> str | None:
    lever = decision.get("lever") if isinstance(decision, Mapping) else getattr(decision, "lever", None)
    if not isinstance(lever, str):
        return None
    return lever if lever in _TYPED else "lever"


DECISIONS: TypeAdapter[list[Decision]] = TypeAdapter(
    list[
        Annotated[
            Annotated[RewriteHarness, Tag("harness")]
            | Annotated[UpdateWeights, Tag("weights")]
            | Annotated[PullLever, Tag("lever")]
            | Annotated[Stop, Tag("stop")],
            Discriminator(_type_of, custom_error_type="lever", custom_error_message="a decision names its lever"),
        ]
    ]
)
"""Validates and serialises what ``decide`` returns."""
