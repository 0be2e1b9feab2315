"""A setting that is unknown or wrong is one readable line, with the names that there are."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, ConfigDict, Field

from sia_core.errors import UsageError
from sia_runtime.settings import checked


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid")

    policy: str
    rank: int = Field(default=32, ge=1)
    device: str = ""


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"foo": "1"}, "--engine-set foo: there is no such setting. The settings are rank, device"),
        ({"rank": "many"}, "--engine-set rank=many: should be a valid integer, unable to parse string as an integer. "),
        ({"rank": "0", "bar": "1"}, "rank=0: should be greater than or equal to 1; bar: there is no such setting. "),
    ],
)
def test_a_wrong_setting_is_one_line_with_the_names_that_there_are(settings: dict[str, str], says: str) -> None:
    with pytest.raises(UsageError) as failure:
        checked(Settings, {"policy": "tiny", **settings}, "--engine-set")
    assert says in str(failure.value)
    assert "\n" not in str(failure.value)
    assert "pydantic" not in str(failure.value)


def test_settings_are_read_from_text() -> None:
    assert checked(Settings, {"policy": "tiny", "rank": "8"}, "--engine-set") == Settings(policy="tiny", rank=8)
