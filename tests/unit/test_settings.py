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


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"rank": "many" * 10**6}, "--engine-set rank=manymany"),
        ({"r" * 10**6: "8"}, "--engine-set rrrr"),
        ({f"r{number}": "8" for number in range(10**4)}, "--engine-set r0: there is no such setting"),
    ],
    ids=["value", "name", "number"],
)
def test_what_is_wrong_at_any_length_is_shortened(settings: dict[str, str], says: str) -> None:
    with pytest.raises(UsageError) as failure:
        checked(Settings, {"policy": "tiny", **settings}, "--engine-set")
    assert says in str(failure.value)
    assert "more characters]" in str(failure.value)
    assert str(failure.value).endswith("The settings are rank, device")
    assert len(str(failure.value)) < 800


def test_a_value_that_is_shortened_still_has_what_is_wrong_with_it() -> None:
    with pytest.raises(UsageError, match=r"many \[\.\.\. 320 more characters\]: should be a valid integer"):
        checked(Settings, {"policy": "tiny", "rank": "many" * 100}, "--engine-set")


def test_settings_are_read_from_text() -> None:
    assert checked(Settings, {"policy": "tiny", "rank": "8"}, "--engine-set") == Settings(policy="tiny", rank=8)
