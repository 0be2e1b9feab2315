"""The engine's settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


class Settings(BaseModel):
    """Settings of the engine ``vllm``; unknown ones go to the engine that trains.

    Attributes
    ----------
    servers : addresses of vLLM servers of the same base model, such as ``http://10.0.0.2:8000``, by commas.
    model : the base's name there, as ``--served-model-name`` or ``--model`` say.
    trainer : the engine that trains, by its name.
    adapters : a folder that this machine writes and every server reads, under the same path; made absolute.
    at_once : requests under way at once, over all servers.
    timeout : seconds that one request may take.
    tolerance : the largest mean difference of log-probabilities between a server and the trainer, in nats.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    policy: str
    seed: int = 0
    servers: str
    model: str
    trainer: str = "torch"
    adapters: Annotated[Path, AfterValidator(Path.absolute)]
    at_once: int = Field(default=256, ge=1)
    timeout: float = Field(default=600.0, gt=0)
    tolerance: float = Field(default=0.06, gt=0)

    @property
    def addresses(self) -> tuple[str, ...]:
        """The servers, in order."""
        return tuple(each.strip().rstrip("/") for each in self.servers.split(",") if each.strip())

    @property
    def for_trainer(self) -> dict[str, Any]:
        """The arguments of the trainer's factory."""
        # The servers report log-probabilities at temperature 1, so the trainer computes them there.
        same = {"temperature": 1.0} if self.trainer == "torch" else {}
        return {"policy": self.policy, "seed": self.seed, **same, **(self.model_extra or {})}
