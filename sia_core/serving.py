"""The best agent of a run behind an OpenAI-compatible endpoint, in the sandbox of the run.

A question is an instance: the last message's text, as JSON where it is an object, else as
``{"text": ...}``; the answer is the reply's text. The run's folder is only read: what
serving keeps lies in a folder of its own.
"""

from __future__ import annotations

import hashlib
import hmac
import itertools
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from sia_core.answers import InvalidAnswer, strict_json
from sia_core.candidate import LABELLED
from sia_core.errors import UsageError
from sia_core.host import Host
from sia_core.ledger import Ledger, canonical
from sia_core.plugins import Plugins
from sia_core.policy import ADAPTERS, Policy
from sia_core.report import build, recorded
from sia_core.rollout import Setting, Sweep
from sia_core.running import Config, beginning, check_sandbox, fingerprint, task_of, verifier_of
from sia_core.sandbox import SolveRequest
from sia_core.trees import Trees

MOST_BYTES = 1 << 20
JSON = "application/json"
PURPOSE = "serve"


class Refused(Exception):
    """A request that gets no answer: why, and the status that says so."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Served:
    """What is served: an agent by the digests of its parts, of a run of a task."""

    run: str
    task: str
    harness: str
    adapter: str | None
    sandbox: str


class Agent:
    """The final agent of a run (its incumbent, while it is unfinished), set up; asked by several threads."""

    def __init__(self, run: Path, plugins: Plugins) -> None:
        with ExitStack() as opened:
            with Ledger.read(run) as ledger:
                started, report = beginning(ledger), build(ledger)
                sandbox = recorded(ledger, "sandbox")
            made = report["agent"]
            if made["harness"] is None or sandbox is None:
                raise UsageError(f"{run} has no agent yet; `sia resume {run}` goes on with it")
            config = Config.from_json(started["config"])
            self._task = task_of(config, plugins)
            if fingerprint(self._task) != started["fingerprint"]:
                raise UsageError(f"{run}: data, brief or catalogue of its task have changed, so this is another agent")
            check_sandbox(sandbox, plugins)
            folder = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="sia-serve-")))
            folder.chmod(0o755)  # a sandbox reads it as another user
            self.about = Served(run.name, self._task.name, made["harness"], made["adapter"], sandbox["name"])
            Trees(folder).put(Trees(run).get(made["harness"]))
            if made["adapter"]:
                (folder / ADAPTERS).mkdir()
                os.symlink((run / ADAPTERS / made["adapter"]).resolve(), folder / ADAPTERS / made["adapter"])
            verifier = verifier_of(config, self._task)
            self._setting = Setting(
                str(folder), config.task, verifier, sandbox["name"], config.plan.seed, config.engine
            )
            self._host = Host(plugins)
            opened.callback(self._host.stop)
            self._policy = self._host.policy(self._setting)
            if isinstance(self._policy, Policy):
                opened.enter_context(self._policy.holding(made["adapter"]))
            self._numbers = itertools.count()
            self._opened = opened.pop_all()

    def answer(self, given: Mapping[str, Any]) -> str:
        """The raw JSON answer to an input; Refused where the agent fails. The same input has the same seed."""
        digest = hashlib.sha256(canonical(dict(given)).encode())
        key = f"{PURPOSE}/{next(self._numbers)}"
        request = SolveRequest(
            key=key,
            instance={"id": digest.hexdigest()[:12], "input": dict(given), "start": None},
            seed=int.from_bytes(digest.digest()[:6]),
        )
        about = self.about
        sweep = Sweep(PURPOSE, "served", about.harness, "public", (), public=LABELLED, adapter=about.adapter)
        solved, _ = self._host.solve(self._setting, sweep, self._task, [request])
        if self._policy:
            self._policy.gateway.finish(key)
        result = solved[key]
        if result.outcome != "ok" or result.answer is None:
            raise Refused(500, f"the agent failed: {result.outcome}: {result.message}".strip(": "))
        return result.answer

    def close(self) -> None:
        self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def question(body: bytes) -> tuple[dict[str, Any], bool]:
    """The input that a request holds, and whether the reply is to be streamed; Refused where it is none."""
    try:
        value = strict_json(body.decode())
    except (UnicodeDecodeError, InvalidAnswer) as error:
        raise Refused(400, f"the body is not JSON: {error}") from None
    messages = value.get("messages") if isinstance(value, dict) else None
    last = messages[-1] if isinstance(messages, list) and messages else None
    content = last.get("content") if isinstance(last, dict) else None
    if isinstance(content, list):
        texts = [part.get("text") if isinstance(part, dict) else None for part in content]
        content = "".join(map(str, texts)) if all(isinstance(text, str) for text in texts) else None
    if not isinstance(content, str):
        raise Refused(400, "the last of `messages` needs a text as its `content`")
    if value.get("n", 1) != 1:
        raise Refused(400, "an agent gives one answer: `n` is 1")
    try:
        given = strict_json(content)
    except InvalidAnswer:
        given = None
    return given if isinstance(given, dict) else {"text": content}, bool(value.get("stream"))


def reply(about: Served, answer: str) -> dict[str, Any]:
    """An answer as a chat completion: a text as it is, anything else as JSON."""
    value = json.loads(answer)
    message = {"role": "assistant", "content": value if isinstance(value, str) else answer}
    return {
        "id": f"chatcmpl-{time.time_ns():x}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": about.run,
        "choices": [{"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}],
        "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
    }


def events(whole: Mapping[str, Any]) -> bytes:
    """A chat completion as the events of a stream: all of it in one, since an agent has its answer at once."""
    about = {key: whole[key] for key in ("id", "created", "model")} | {"object": "chat.completion.chunk"}
    steps: list[tuple[dict[str, str], str | None]] = [(whole["choices"][0]["message"], None), ({}, "stop")]
    chunks = [
        {**about, "choices": [{"index": 0, "delta": delta, "finish_reason": ended, "logprobs": None}]}
        for delta, ended in steps
    ]
    return b"".join(b"data: %s\n\n" % each for each in (*map(_json, chunks), b"[DONE]"))


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=True).encode()


class Endpoint(ThreadingHTTPServer):
    """The endpoint of an agent, bound; who is not this machine needs the ``token``, if there is one."""

    def __init__(self, agent: Agent, host: str, port: int, token: str | None) -> None:
        self.agent, self.token = agent, token
        super().__init__((host, port), _Handler)


class _Handler(BaseHTTPRequestHandler):
    """One connection to an :class:`Endpoint`."""

    server: Endpoint
    server_version, sys_version, protocol_version = "sia", "", "HTTP/1.1"

    def do_GET(self) -> None:
        self._answered(self._models)

    def do_POST(self) -> None:
        self._answered(self._completion)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing: what people ask is theirs."""

    def _models(self) -> tuple[str, bytes]:
        if self.path != "/v1/models":
            raise Refused(404, "there are POST /v1/chat/completions and GET /v1/models")
        model = {
            "id": self.server.agent.about.run,
            "object": "model",
            "created": 0,
            "owned_by": self.server.agent.about.task,
        }
        return JSON, _json({"object": "list", "data": [model]})

    def _completion(self) -> tuple[str, bytes]:
        length = self.headers.get("content-length", "")
        if not (length.isascii() and length.isdigit()) or int(length) > MOST_BYTES:
            self.close_connection = True
            raise Refused(413, f"a body of at most {MOST_BYTES:,} bytes is needed")
        body = self.rfile.read(int(length))
        if self.path != "/v1/chat/completions":
            raise Refused(404, "there are POST /v1/chat/completions and GET /v1/models")
        # A web page may send a request without asking, but not one of this type.
        if self.headers.get_content_type() != "application/json":
            raise Refused(415, "send application/json")
        given, stream = question(body)
        whole = reply(self.server.agent.about, self.server.agent.answer(given))
        return ("text/event-stream", events(whole)) if stream else (JSON, _json(whole))

    def _answered(self, work: Callable[[], tuple[str, bytes]]) -> None:
        try:
            self._admit()
            status, (kind, content) = 200, work()
        except Refused as refused:
            error = {"message": str(refused), "type": "invalid_request_error"}
            status, kind, content = refused.status, JSON, _json({"error": error})
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _admit(self) -> None:
        token = self.server.token
        name = self.headers.get("host", "").rpartition(":")[0] or self.headers.get("host", "")
        if token is None and name.strip("[]").lower() not in ("127.0.0.1", "localhost", "::1"):
            self.close_connection = True
            raise Refused(421, "this address is served to this machine only, by its own names")
        told = self.headers.get("authorization", "")
        if token is not None and not hmac.compare_digest(told.encode(), f"Bearer {token}".encode()):
            self.close_connection = True
            raise Refused(401, "send the key that `sia serve` printed")


def server(agent: Agent, host: str, port: int, token: str | None) -> Endpoint:
    """The endpoint, not yet serving; UsageError where the address cannot be had."""
    try:
        return Endpoint(agent, host, port, token)
    except OSError as error:
        raise UsageError(f"--host {host} --port {port}: {error.strerror}; --port 0 takes any that is free") from None


def serve(found: ThreadingHTTPServer) -> None:
    """Answer until interrupted."""
    thread = threading.Thread(target=found.serve_forever, daemon=True)
    thread.start()
    try:
        thread.join()
    finally:
        found.shutdown()
        found.server_close()
