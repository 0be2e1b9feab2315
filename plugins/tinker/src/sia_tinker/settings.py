"""The engine's settings."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Settings(BaseModel):
    """Settings of the engine ``tinker``.

    Attributes
    ----------
    policy : the name of the base model, such as ``openai/gpt-oss-120b``.
    seed : of the fresh adapter.
    rank : of LoRA.
    base_url : of a server that speaks the protocol; empty is the service, or ``TINKER_BASE_URL``.
    attention, mlp, unembed : which linear maps learn.
    timeout : seconds that one call may take.
    tolerance : the largest mean difference of log-probabilities between sampler and trainer.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    policy: str
    seed: int = 0
    rank: int = Field(default=32, ge=1)
    base_url: str = ""
    attention: bool = True
    mlp: bool = True
    unembed: bool = False
    timeout: float = Field(default=1800.0, gt=0)
    tolerance: float = Field(default=0.06, gt=0)
