"""Profiles and providers of the released SIA (``sia-agent`` 0.6), read as they are: who decides, whom harnesses ask.

A profile is a JSON file that names a model and a provider; a provider says where that one is and which variable of the
environment holds its key. A profile is given by path, or by name in ``$SIA_PROFILES_DIR`` (by default ``./profiles``).
What the providers that came with it are is known here; others are read from ``$SIA_PROVIDERS_DIR``. No other folder is
searched for them: where a key is sent is nothing for a working folder to say.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ValidationError

from sia_core.errors import UsageError, faults
from sia_core.given_files import read_named

ALIASES = {"haiku": "claude-haiku-4-5", "sonnet": "claude-sonnet-4-6", "opus": "claude-opus-4-6"}
"""Names that Claude Code knows and the API does not."""

_Model = TypeVar("_Model", bound=BaseModel)

_MOST_BYTES = 1 << 20

CLAUDE = "anthropic"
ANY = "openai"


class Provider(BaseModel):
    """Where a model is: the family of its protocol, its address if it has one, and how litellm calls it."""

    provider_id: str
    client_kind: Literal["anthropic", "openai", "google"]
    api_key_env: str
    base_url: str | None = None
    litellm_prefix: str | None = None

    @property
    def prefix(self) -> str:
        """LiteLLM's name of the provider."""
        return self.litellm_prefix or {"anthropic": CLAUDE, "google": "gemini", "openai": ANY}[self.client_kind]


_TINKER = "https://tinker.thinkingmachines.dev/services/tinker-prod/oai/api/v1"
_KNOWN: tuple[tuple[str, Any, str, str | None, str | None], ...] = (
    ("anthropic", "anthropic", "ANTHROPIC_API_KEY", None, None),
    ("gemini", "google", "GEMINI_API_KEY", None, None),
    ("openai", "openai", "OPENAI_API_KEY", None, None),
    ("nebius", "openai", "NEBIUS_API_KEY", None, "nebius"),
    ("openrouter", "openai", "OPENROUTER_API_KEY", None, "openrouter"),
    ("together", "openai", "TOGETHER_API_KEY", None, "together_ai"),
    ("tinker", "openai", "TINKER_API_KEY", _TINKER, None),
)

KNOWN: Mapping[str, Provider] = {
    name: Provider(provider_id=name, client_kind=kind, api_key_env=key, base_url=address, litellm_prefix=prefix)
    for name, kind, key, address, prefix in _KNOWN
}
"""Of ``sia/defaults/providers`` in the wheel of sia-agent 0.6.0. One that litellm knows by name needs no address."""


class Reference(BaseModel):
    """The agent that a target profile begins with: a file, or a folder with an entry point."""

    source: str
    entrypoint: str = ""


class Profile(BaseModel):
    """Either role's; what a role does not know is empty."""

    model: str
    provider_id: str
    agent_impl: str = ""
    agent_reference: Reference | Literal["default"] = "default"


@dataclass(frozen=True)
class Target:
    """The model that harnesses ask, as litellm names it, the engine's settings, and the agent as FILE or DIR:ENTRY."""

    model: str
    settings: Mapping[str, str]
    reference: str
    engine: str = "litellm"


def meta_agent(name: str) -> tuple[str, dict[str, str]]:
    """The improver that a meta profile stands for, and its settings."""
    profile, where = _profile(name)
    provider = _provider(profile, where)
    if provider.client_kind == CLAUDE:
        address = {"base_url": provider.base_url} if provider.base_url else {}
        return "claude", {"model": ALIASES.get(profile.model, profile.model), **address}
    return "litellm", {"model": _named(profile.model, provider), **_address(provider, where)}


def target_agent(name: str) -> Target:
    """The model and the agent that a target profile stands for."""
    profile, where = _profile(name)
    provider, reference = _provider(profile, where), profile.agent_reference
    agent = ""
    if isinstance(reference, Reference):
        source = (where.parent / reference.source).resolve()
        agent = f"{source}:{reference.entrypoint}" if reference.entrypoint else str(source)
    return Target(_named(profile.model, provider), _address(provider, where), agent)


def _named(model: str, provider: Provider) -> str:
    model = ALIASES.get(model, model) if provider.client_kind == CLAUDE else model
    written = provider.client_kind != ANY and model.startswith(f"{provider.prefix}/")
    return model if written else f"{provider.prefix}/{model}"


def _address(provider: Provider, where: Path) -> dict[str, str]:
    if not provider.base_url:
        return {}
    key = provider.api_key_env
    if provider.prefix == ANY and key in os.environ and "OPENAI_API_KEY" not in os.environ:
        reason = f"the key of a server of one's own is read from OPENAI_API_KEY; set it to what {key} holds"
        raise UsageError(f"{where}: {reason}")
    return {"base_url": provider.base_url}


def _provider(profile: Profile, where: Path) -> Provider:
    name, folder = profile.provider_id, os.environ.get("SIA_PROVIDERS_DIR")
    hint = f"known without a file: {', '.join(sorted(KNOWN))}"
    if not re.fullmatch(r"[\w.-]+", name):
        raise UsageError(f"{where}: {name!r} is no name of a provider; {hint}")
    path = Path(folder or "", f"{name}.json")
    if name in KNOWN and not (folder and path.is_file()):
        return KNOWN[name]
    if not folder:
        raise UsageError(
            f"{where}: the provider {name!r} is unknown; {hint}. One of your own is read from the folder that "
            "SIA_PROVIDERS_DIR names, for example SIA_PROVIDERS_DIR=providers"
        )
    try:
        return _parsed(Provider, path)
    except OSError as error:
        raise UsageError(f"{where}: {path}: {error.strerror}; {hint}") from None


def _profile(name: str) -> tuple[Profile, Path]:
    """A profile by its path, or by its name in the user's folder."""
    is_path = name.endswith(".json") or "/" in name
    path = Path(name) if is_path else Path(os.environ.get("SIA_PROFILES_DIR", "profiles")) / f"{name}.json"
    try:
        return _parsed(Profile, path), path
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; give the path of a JSON file, or its name in profiles/") from None


def _parsed(model: type[_Model], path: Path) -> _Model:
    try:
        return model.model_validate(json.loads(read_named(path, _MOST_BYTES).decode("utf-8-sig")))
    except ValidationError as error:
        raise UsageError(f"{path}: {faults(error, model.model_fields)}") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not JSON: {error}") from None
