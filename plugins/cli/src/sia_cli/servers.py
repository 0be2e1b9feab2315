"""Asks servers of language models for their abilities, and names the parts of SIA that work with them."""

from __future__ import annotations

import http.client
import json
import shlex
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import urlsplit

from sia_core.errors import UsageError, excerpt

SECONDS = 120
"""How long a reply of a few tokens may take: a server may have to load its model first."""

MOST_BYTES = 1 << 20

_LENGTH = 12

_TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds two numbers.",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "number"}, "b": {"type": "number"}},
            "required": ["a", "b"],
        },
    },
}


@dataclass(frozen=True)
class Use:
    """A part of SIA: the option that uses a server for it, and the abilities that it takes."""

    name: str
    option: str
    takes: tuple[str, ...]


USES = (
    Use(
        "the model that harnesses ask",
        "--engine litellm --policy openai/{model} --engine-set base_url={url}",
        ("chat",),
    ),
    Use("the improver", "--improver litellm:openai/{model} --improver-set base_url={url}", ("chat", "tools")),
    Use(
        "rollouts for training weights",
        "--engine vllm --engine-set servers={root} --engine-set model={model}",
        ("tokens", "adapters"),
    ),
    Use("sampling and training by the Tinker API", "--engine tinker --engine-set base_url={root}", ("tinker",)),
)

ABILITIES = {
    "chat": "answers chat completions",
    "streaming": "streams a reply, with its count of tokens",
    "stop": "ends a reply at a stop",
    "n": "gives several replies to one request",
    "logprobs": "gives log-probabilities",
    "tools": "calls a tool",
    "tokens": "completes token ids, with the log-probabilities of prompt and reply",
    "adapters": "loads LoRA adapters while it runs",
    "tinker": "speaks the Tinker API",
}


@dataclass
class Findings:
    """A server's address and model, what it ``can``, and, by ability, ``why`` it cannot."""

    url: str
    root: str
    model: str = ""
    models: list[str] = field(default_factory=list)
    context: int | None = None
    can: dict[str, bool] = field(default_factory=dict)
    why: dict[str, str] = field(default_factory=dict)

    def note(self, ability: str, there: bool, why: str) -> None:
        self.can[ability] = there
        if not there:
            self.why[ability] = why

    def lacks(self, use: Use) -> list[str]:
        return [each for each in use.takes if not self.can.get(each)]

    def to_json(self) -> dict[str, Any]:
        uses = [
            {"use": use.name, "works": not self.lacks(use), "option": self.option(use), "lacks": self.lacks(use)}
            for use in USES
        ]
        return {**asdict(self), "uses": uses}

    def option(self, use: Use) -> str:
        """The option as a shell takes it: the model's name is the server's."""
        words = use.option.split()
        return shlex.join(each.format(model=self.model, url=self.url, root=self.root) for each in words)


def examine(address: str) -> Findings:
    """Ask one server; UsageError where the address is none."""
    findings = _addressed(address)
    status, reply = _asked(f"{findings.url}/models")
    rows = reply.get("data") if isinstance(reply, Mapping) else None
    models = [each for each in rows if isinstance(each, Mapping)] if isinstance(rows, list) else []
    findings.models = [_in_one_line(str(each.get("id", ""))) for each in models]
    if models:
        findings.model = findings.models[0]
        meta = models[0].get("meta")
        context = models[0].get("max_model_len") or (meta.get("n_ctx") if isinstance(meta, Mapping) else None)
        findings.context = context if isinstance(context, int) and not isinstance(context, bool) else None
        _ask_chat(findings)
    else:
        findings.note("chat", False, _why(status, reply, "it lists no models"))
    if findings.can["chat"]:
        for ask in (_ask_streaming, _ask_stop, _ask_n, _ask_logprobs, _ask_tools, _ask_tokens, _ask_adapters):
            ask(findings)
    status, reply = _asked(f"{findings.root}/api/v1/get_server_capabilities")
    speaks = status == 200 and isinstance(reply, Mapping) and "supported_models" in reply
    findings.note("tinker", speaks, _why(status, reply, "no such path"))
    return findings


def _addressed(address: str) -> Findings:
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError as error:
        raise UsageError(f"--servers {address}: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"--servers {address}: not an address; write it as http://localhost:8000/v1")
    if parts.username or parts.password:
        raise UsageError("--servers: no user and no password in an address")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    origin = f"{parts.scheme}://{host}" + (f":{port}" if port else "")
    path = parts.path.rstrip("/") or "/v1"
    return Findings(origin + path, origin + path.removesuffix("/v1"))


def _chat(findings: Findings, text: str = "Count from one to nine in words.", **more: Any) -> tuple[int, Any]:
    messages = [{"role": "user", "content": text}]
    body = {"model": findings.model, "messages": messages, "max_tokens": _LENGTH, "temperature": 0, **more}
    return _asked(f"{findings.url}/chat/completions", body)


def _ask_chat(findings: Findings) -> None:
    status, reply = _chat(findings)
    findings.note("chat", bool(_choices(reply)), _why(status, reply, "it sent no completion"))


def _ask_streaming(findings: Findings) -> None:
    status, reply = _chat(findings, stream=True, stream_options={"include_usage": True})
    lines = reply.splitlines() if isinstance(reply, str) else []
    counted = any(line.startswith("data:") and '"completion_tokens"' in line for line in lines)
    whole = any(line.split() == ["data:", "[DONE]"] for line in lines)
    findings.note("streaming", whole and counted, _why(status, reply, "the stream has no end, or no count of tokens"))


def _ask_stop(findings: Findings) -> None:
    """Ask once more, to end before a word of the first reply."""
    _, reply = _chat(findings)
    words = _text(reply).split()
    if len(words) < 2:
        findings.note("stop", False, "its reply was too short to tell")
        return
    status, reply = _chat(findings, stop=[words[-1]])
    ends = bool(_choices(reply)) and words[-1] not in _text(reply)
    findings.note("stop", ends, _why(status, reply, "the reply went on past its stop"))


def _ask_n(findings: Findings) -> None:
    status, reply = _chat(findings, n=2)
    findings.note("n", len(_choices(reply)) == 2, _why(status, reply, "it gave another number of replies"))


def _ask_logprobs(findings: Findings) -> None:
    status, reply = _chat(findings, logprobs=True)
    rows = [each.get("logprobs") for each in _choices(reply)]
    has = bool(rows) and isinstance(rows[0], Mapping) and bool(rows[0].get("content"))
    findings.note("logprobs", has, _why(status, reply, "the reply has none"))


def _ask_tools(findings: Findings) -> None:
    text = "What is 2 + 3? Call the tool add."
    status, reply = _chat(findings, text, tools=[_TOOL], tool_choice="auto", max_tokens=100)
    called = any(each["message"].get("tool_calls") for each in _choices(reply))
    findings.note("tools", called, _why(status, reply, "it takes tools, but the model called none"))


def _ask_tokens(findings: Findings) -> None:
    body = {"model": findings.model, "prompt": [1, 2, 3], "max_tokens": 1, "logprobs": 0, "temperature": 0}
    status, reply = _asked(f"{findings.url}/completions", {**body, "return_token_ids": True, "prompt_logprobs": 0})
    rows = reply.get("choices") if isinstance(reply, Mapping) else None
    choice = rows[0] if isinstance(rows, list) and rows and isinstance(rows[0], Mapping) else {}
    has = all(choice.get(name) for name in ("token_ids", "prompt_logprobs", "logprobs"))
    findings.note(
        "tokens", has, _why(status, reply, "the reply has no token ids, or no log-probabilities of the prompt")
    )


def _ask_adapters(findings: Findings) -> None:
    """Ask without an adapter's name: a server that loads adapters says that it is missing."""
    status, reply = _asked(f"{findings.url}/load_lora_adapter", {})
    why = "no such path; vLLM has it with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"
    findings.note("adapters", status in (400, 422), why if status in (404, 405) else _why(status, reply, why))


def _choices(reply: Any) -> Sequence[Mapping[str, Any]]:
    """The choices of a completion that have a message."""
    rows = reply.get("choices") if isinstance(reply, Mapping) else None
    rows = rows if isinstance(rows, list) else []
    return [each for each in rows if isinstance(each, Mapping) and isinstance(each.get("message"), Mapping)]


def _text(reply: Any) -> str:
    choices = _choices(reply)
    return str(choices[0]["message"].get("content") or "") if choices else ""


def _asked(url: str, body: Mapping[str, Any] | None = None) -> tuple[int, Any]:
    """The status of a request, and what was answered: JSON, or a text; 0 with the reason where nothing was."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with _opened(request) as reply:
            status, text = reply.status, reply.read(MOST_BYTES).decode(errors="replace")
    except (OSError, http.client.HTTPException, ValueError) as error:
        return 0, f"no answer: {getattr(error, 'reason', error)}"
    try:
        return status, json.loads(text)
    except (ValueError, RecursionError):
        return status, text


def _opened(request: urllib.request.Request) -> Any:
    """The reply, whatever its status."""
    try:
        return urllib.request.urlopen(request, timeout=SECONDS)
    except urllib.error.HTTPError as error:
        return error


def _in_one_line(text: str) -> str:
    """A text of the server's that cannot pass for a line of the report."""
    return excerpt(" ".join(text.split()), 200)


def _why(status: int, reply: Any, otherwise: str) -> str:
    """The reason that a request failed, or the other one where it did not."""
    if status == 200:
        return otherwise
    if status in (401, 403):
        return "it wants a key, and none is sent"
    error = reply.get("error") if isinstance(reply, Mapping) else reply
    message = error.get("message") if isinstance(error, Mapping) else error
    text = _in_one_line(message if isinstance(message, str) else json.dumps(reply))
    return f"status {status}: {text}" if status else text
