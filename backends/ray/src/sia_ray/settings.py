"""The backend's settings."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from sia_runtime.settings import checked

HEALTH = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_failure_threshold": 3,
}
"""A node that is gone is noticed after 1.6 s instead of 14.7 s; for ``ray start --head --system-config``."""


class Settings(BaseModel):
    """Settings of the backend ``ray``.

    Attributes
    ----------
    address : of a running cluster, such as ``auto`` or ``10.0.0.1:6379``; empty starts one on this machine.
    workers : how many; 0 is as many as the cluster has room for at the start.
    cpus, gpus : of each worker. One with a GPU has it to itself and runs one job at a time.
    accelerator : the kind of GPU, such as ``H100``; empty takes any.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    address: str = ""
    workers: int = Field(default=0, ge=0)
    cpus: float = Field(default=1.0, ge=0)
    gpus: int = Field(default=0, ge=0)
    accelerator: str = ""

    @classmethod
    def of(cls, values: dict[str, object]) -> Settings:
        """The settings, from text as a command line gives it; UsageError where one cannot be."""
        return checked(cls, values, "--backend-set")

    @property
    def at_once(self) -> int:
        """Jobs on one worker: one solves while another is verified, but never two on a GPU."""
        return 1 if self.gpus else 2
