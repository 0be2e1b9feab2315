"""Any model as a provider, through litellm against the stand-in server, and as the improver that users name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from sia_core.errors import UsageError
from sia_core.models import Prices, Provider
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
