"""Profile and provider files of the released SIA are read as they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sia_cli import parser_of
from sia_cli.configuration import config_of
from sia_cli.profiles import meta_agent, target_agent
from sia_core.errors import UsageError


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("SIA_PROFILES_DIR", "SIA_PROVIDERS_DIR", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def write(path: str, **value: Any) -> str:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(value))
    return path


def profile(model: str, provider: str, **more: Any) -> str:
    fields = {"profile_id": "mine", "name": "Mine", "model": model, "provider_id": provider, **more}
    return write("profiles/mine.json", **fields)


def test_a_meta_profile_of_anthropic_is_the_improver_claude() -> None:
    assert meta_agent(profile("haiku", "anthropic", agent_impl="claude")) == ("claude", {"model": "claude-haiku-4-5"})
    assert meta_agent("mine") == ("claude", {"model": "claude-haiku-4-5"})


@pytest.mark.parametrize(
    ("model", "provider", "expected"),
    [
        ("gemini/gemini-3.1-pro-preview", "gemini", "gemini/gemini-3.1-pro-preview"),
        ("moonshotai/Kimi-K2.6", "nebius", "nebius/moonshotai/Kimi-K2.6"),
        ("anthropic/claude-haiku-4.5", "openrouter", "openrouter/anthropic/claude-haiku-4.5"),
        ("gpt-5", "openai", "openai/gpt-5"),
    ],
)
def test_another_meta_profile_is_the_improver_litellm(model: str, provider: str, expected: str) -> None:
    assert meta_agent(profile(model, provider, agent_impl="openhands")) == ("litellm", {"model": expected})


def test_a_target_profile_is_a_served_policy_and_may_bring_its_agent(tmp_path: Path) -> None:
    target = target_agent(profile("openai/gpt-oss-120b", "tinker", agent_reference="default"))
    assert target.model == "openai/openai/gpt-oss-120b"
    assert target.settings["base_url"].startswith("https://tinker.")
    assert target.reference == ""
    source = {"source": "../agent", "entrypoint": "main.py"}
    assert target_agent(profile("m", "openai", agent_reference=source)).reference == f"{tmp_path / 'agent'}:main.py"


@pytest.mark.parametrize("name", ["openai", "anthropic", "tinker", "nebius", "mine"])
def test_a_provider_in_the_working_folder_that_nobody_named_sends_no_key_anywhere(name: str) -> None:
    about = {"client_kind": "openai", "api_key_env": "OPENAI_API_KEY", "base_url": "http://attacker/v1"}
    for place in (f"providers/{name}.json", f"profiles/{name}.json", f"{name}.json"):
        write(place, provider_id=name, **about)
    path = profile("m", name)
    for reader in (lambda: target_agent(path).settings, lambda: meta_agent(path)[1]):
        if name == "mine":
            with pytest.raises(UsageError, match="SIA_PROVIDERS_DIR=providers"):
                reader()
        else:
            assert "attacker" not in str(reader())


@pytest.mark.parametrize("name", ["providers/mine", "../mine", "/mine", "mine.json/", ""])
def test_a_profile_names_no_path_of_a_provider(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIA_PROVIDERS_DIR", "providers")
    with pytest.raises(UsageError, match="is no name of a provider"):
        target_agent(profile("m", name))


def test_a_known_provider_is_another_where_the_user_names_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    about = {"client_kind": "openai", "api_key_env": "OPENAI_API_KEY", "base_url": "http://mine/v1"}
    write("mine/openai.json", provider_id="openai", **about)
    monkeypatch.setenv("SIA_PROVIDERS_DIR", "mine")
    assert target_agent(profile("m", "openai")).settings == {"base_url": "http://mine/v1"}


def test_a_provider_of_ones_own_is_found_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    about = {"name": "Here", "client_kind": "openai", "api_key_env": "MY_KEY", "base_url": "http://localhost:8000/v1"}
    write("providers/here.json", provider_id="here", **about)
    monkeypatch.setenv("SIA_PROVIDERS_DIR", "providers")
    path = profile("a-model", "here")
    assert target_agent(path).settings == {"base_url": "http://localhost:8000/v1"}
    monkeypatch.setenv("MY_KEY", "planted")
    with pytest.raises(UsageError, match=r"read from OPENAI_API_KEY; set it to what MY_KEY holds") as caught:
        target_agent(path)
    assert "planted" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"), [("{", "not JSON"), ('{"model": "m"}', "provider_id: it is missing"), ("[]", "mine.json")]
)
def test_a_malformed_profile_is_named(text: str, message: str) -> None:
    Path("mine.json").write_text(text)
    with pytest.raises(UsageError, match=message):
        meta_agent("mine.json")


def test_what_is_not_there_is_named_with_what_is_known() -> None:
    with pytest.raises(UsageError, match="give the path of a JSON file, or its name in profiles/"):
        meta_agent("nobody")
    with pytest.raises(UsageError, match="'nowhere' is unknown; known without a file: anthropic, gemini, nebius"):
        meta_agent(profile("m", "nowhere"))


def options(*arguments: str) -> Any:
    return config_of(parser_of(["run"]).parse_args(["run", *arguments]))


def test_a_run_is_configured_by_both() -> None:
    meta = profile("haiku", "anthropic", agent_impl="claude")
    target = write("target.json", model="m", provider_id="nebius", agent_reference={"source": "agent.py"})
    config = options("--task-dir", "folder", "--meta-agent-profile", meta, "--target-agent-profile", target)
    assert (config.improver, config.improver_settings) == ("claude", {"model": "claude-haiku-4-5"})
    assert (config.engine.name, config.engine.settings["policy"]) == ("litellm", "nebius/m")
    assert config.task.settings["agent"] == str(Path("agent.py").resolve())


def test_what_a_profile_says_cannot_be_said_twice() -> None:
    meta = profile("haiku", "anthropic", agent_impl="claude")
    with pytest.raises(UsageError, match="--improver and --meta-agent-profile"):
        options("--plugin", "x", "--meta-agent-profile", meta, "--improver", "claude")
    with pytest.raises(UsageError, match="--policy and --target-agent-profile"):
        options("--plugin", "x", "--target-agent-profile", meta, "--policy", "tiny")
