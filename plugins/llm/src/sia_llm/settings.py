"""Settings of an improver that is a language model, as ``--improver-set KEY=VALUE`` gives them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from sia_core.errors import UsageError
from sia_llm.choosing import Choice, parsed
from sia_llm.models import Prices
from sia_llm.parents import Rule
from sia_runtime.settings import checked


class Settings(BaseModel):
    """``model`` proposes, or one of ``models``, and decides where there is no ``decider``.

    Prices are dollars for a million tokens. ``replay`` is a file of recorded replies, which are
    then all that is asked.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(min_length=1)
    base_url: str = ""
    max_tokens: int = Field(default=16_000, ge=256, le=128_000)
    replies: int = Field(default=60, ge=2, le=1000, description="of the model in one conversation")
    timeout: float = Field(default=600.0, gt=0, description="seconds without a byte from the server")
    tries: int = Field(default=6, ge=1, le=100)
    first_wait: float = Field(default=2.0, ge=0, description="seconds before a call is tried again; they double")
    input_price: float | None = Field(default=None, ge=0)
    output_price: float | None = Field(default=None, ge=0)
    cache_read_price: float | None = Field(default=None, ge=0)
    cache_write_price: float | None = Field(default=None, ge=0)
    parents: Rule | None = Field(default=None, description="what a generation starts from; by the kind of task")
    models: dict[str, float] = Field(default_factory=dict, description="several that propose, with their weights")
    choose: Choice = Field(default="weights", description="which of them proposes: weights or ucb")
    decider: str = Field(default="", description="a stronger model that confirms or sends back what is proposed")
    parallel: int = Field(default=1, ge=1, le=16, description="conversations of a generation at once")
    conversation_seconds: float = Field(
        default=3600.0, gt=0, description="of each of several at once, after which the others go on without it"
    )
    replay: str = ""

    @field_validator("models", mode="before")
    @classmethod
    def _weighed(cls, value: Any) -> Any:
        return parsed(value) if isinstance(value, str) else value

    @property
    def every_model(self) -> list[str]:
        """Each model that may be asked, once."""
        return list(dict.fromkeys(filter(None, (self.model, *self.models, self.decider))))

    @model_validator(mode="after")
    def _prices_come_together(self) -> Settings:
        if (self.input_price is None) != (self.output_price is None):
            raise ValueError("input_price and output_price belong together")
        if urlsplit(self.base_url).password or urlsplit(self.base_url).username:
            raise ValueError("base_url: no user and no password in it; keys come from the environment")
        return self

    @classmethod
    def of(cls, model: str, settings: Mapping[str, Any], option: str = "--improver-set") -> Settings:
        """Read settings; UsageError, with what there is, where one is unknown or out of bounds."""
        if secret := next((name for name in settings if "key" in name or "token" in name.split("_")), None):
            raise UsageError(f"{option} {secret}: keys come from the environment only, and are never recorded")
        if "draft_model" in settings:
            raise UsageError(
                f"{option} draft_model: there is no such setting any more, as a run begins with the agent as given and "
                "a model's first harness is a candidate like others. Leave it out; a run that was started with it "
                "cannot go on, so start a new one"
            )
        return checked(cls, {"model": model, **settings}, option)

    @property
    def prices(self) -> Prices | None:
        """The models' prices by the user's settings, or None."""
        if self.input_price is None or self.output_price is None:
            return None
        cache_read, cache_write = self.cache_read_price, self.cache_write_price
        return Prices(
            self.input_price,
            self.output_price,
            self.input_price if cache_read is None else cache_read,
            self.input_price if cache_write is None else cache_write,
        )
