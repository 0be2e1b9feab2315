"""Any model as a provider, through litellm against the stand-in server, and as the improver that users name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from sia_core.errors import UsageError
from sia_core.models import Ask, CallFailed, Prices, Provider, told
from sia_core.testing.model_server import ModelServer, Turn
from sia_core.testing.providers import KEY, ProviderContract
from sia_litellm.improver import LiteLLM
from sia_litellm.provider import Completions

# litellm leaves clients and an event loop to the garbage collector, and uses what pydantic has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore")


class TestCompletions(ProviderContract):
    model = "openai/any-model"

    def url(self, server: ModelServer) -> str:
        return server.openai_url

    @pytest.fixture
    def opened(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        monkeypatch.setenv("OPENAI_API_KEY", KEY)

        @contextmanager
        def opened(url: str) -> Iterator[Provider]:
            yield Completions(url, 0.5, None)

        return opened

    def test_a_server_of_ones_own_is_asked_without_a_key(self, monkeypatch: pytest.MonkeyPatch, opened: Any) -> None:
        monkeypatch.delenv("OPENAI_API_KEY")
        with ModelServer([Turn("so")]) as server, opened(server.openai_url) as provider:
            provider.check(self.model, "--improver litellm:openai/any-model")
            assert provider.complete(self.ask()).text == "so"
            assert server.asked[0].body["model"] == "any-model"


class Stream:
    """A stream of litellm's that breaks at its first chunk and notes that it was closed."""

    def __init__(self) -> None:
        self.closed = 0
        self.completion_stream = self

    def __iter__(self) -> Iterator[Any]:
        raise ConnectionError("cut")

    def close(self) -> None:
        self.closed += 1


def test_a_stream_is_closed_whatever_came_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Left to the garbage collector, it may close amid another call, under a lock that this thread holds already."""
    provider, stream = Completions("http://localhost:1/v1", 1.0, None), Stream()
    monkeypatch.setattr(provider._library, "completion", lambda **_: stream)
    with pytest.raises(CallFailed, match="cut"):
        provider.complete(Ask("openai/any", ("rules", "task"), (told("hello"),), (), max_tokens=5))
    assert stream.closed == 1


def test_prices_are_the_users_or_the_tables_and_of_a_server_of_ones_own_not_known() -> None:
    hosted = Completions("", 1.0, None)
    known = hosted.prices("gpt-4o-mini")
    assert known is not None
    assert (known.input, known.output, known.cache_read) == (0.15, 0.6, 0.075)
    assert hosted.prices("openai/a-model-that-nobody-knows") is None
    assert Completions("http://localhost:1/v1", 1.0, None).prices("gpt-4o-mini") is None
    assert Completions("http://localhost:1/v1", 1.0, Prices(1.0, 2.0)).prices("x") == Prices(1.0, 2.0)


@pytest.mark.parametrize(
    ("model", "names"),
    [("openai/gpt-4o", ["OPENAI_API_KEY", "--improver playbook"]), ("nonsense", ["PROVIDER/MODEL"]), ("", ["name a"])],
)
def test_without_key_or_provider_or_model_it_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, model: str, names: list[str]
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(UsageError) as refused:
        LiteLLM(model).check()
    assert all(name in str(refused.value) for name in names)
