"""The policy's endpoint on loopback, behind it a gateway whose engine says what a test's script says."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from sia_runtime.worker.endpoint import Endpoint
from sia_runtime.worker.gateway import Gateway, Record
from sia_testing.engines import ScriptedEngine


@dataclass
class Site:
    """``script`` holds the next replies, in order; ``prompts`` what the engine was asked, as text."""

    url: str
    key: str
    gateway: Gateway
    script: list[str] = field(default_factory=list)
    prompts: list[str] = field(default_factory=list)

    def says(self, *texts: str) -> None:
        self.script += texts

    def record(self) -> Record:
        return self.gateway.finish("r")


def scripted(site: list[Site]) -> Callable[[str, int], str]:
    def reply(prompt: str, seed: int) -> str:
        site[0].prompts.append(prompt)
        return site[0].script.pop(0)

    return reply


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    sites: list[Site] = []
    gateway = Gateway(ScriptedEngine(scripted(sites)))
    gateway.begin("r", 1)
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        endpoint = Endpoint(listener, gateway, lambda job, waits: None)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        sites.append(Site(url, endpoint.admit("r", 0), gateway))
        monkeypatch.setenv("OPENAI_BASE_URL", url)
        monkeypatch.setenv("OPENAI_API_KEY", sites[0].key)
        yield sites[0]
        endpoint.close()
        gateway.close()


def call(name: str, arguments: str) -> str:
    """A call of a tool, as a policy writes it."""
    return f'<tool_call>{{"name": "{name}", "arguments": {arguments}}}</tool_call>'


ADD: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "adds",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "required": ["a", "b"],
        },
    },
}
