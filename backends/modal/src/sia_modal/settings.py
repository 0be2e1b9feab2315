"""The backend's settings."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from sia_runtime.settings import checked

LARGEST = 86400
"""Seconds that Modal lets a function run."""


class Settings(BaseModel):
    """Settings of the backend ``modal``.

    Attributes
    ----------
    app : the name under which Modal shows it.
    containers : the most at once.
    gpu : kind and count, such as ``H100`` or ``H100:8``; empty is none. Such a container runs one job at a time.
    cpus, memory : of a container; memory in MiB.
    timeout : seconds that one job may take.
    retries : how often Modal runs a job again whose container was lost.
    python : the container's version.
    wheels : a folder with wheels of SIA's distributions, where the image is not to have released ones.
    secret : the name of a secret of yours that containers get as environment, such as one with ``HF_TOKEN``.
    cache : the name of a volume for models and data, kept between runs.
    connect : seconds that Modal has to accept the token and build the image.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    app: str = "sia"
    containers: int = Field(default=8, ge=1)
    gpu: str = ""
    cpus: float = Field(default=2.0, gt=0)
    memory: int = Field(default=8192, ge=128)
    timeout: int = Field(default=3600, ge=1, le=LARGEST)
    retries: int = Field(default=3, ge=0, le=10)
    python: str = "3.11"
    wheels: str = ""
    secret: str = ""
    cache: str = "sia-cache"
    connect: float = Field(default=600.0, gt=0)

    @classmethod
    def of(cls, values: dict[str, Any]) -> Settings:
        """The settings, from text as a command line gives it; UsageError where one cannot be."""
        return checked(cls, values, "--backend-set")

    @property
    def at_once(self) -> int:
        """Jobs in one container: one solves while another is verified, but never two on a GPU."""
        return 1 if self.gpu else 2
