"""The best agent of a run behind an OpenAI-compatible endpoint, in the sandbox of the run.

A question is an instance: the last message's text, as JSON where it is an object, else as
``{"text": ...}``; the answer is the reply's text. The run's folder is only read: serving
keeps its files in a separate folder.
"""

from __future__ import annotations

import hashlib
import hmac
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from sia_core.errors import SiaError, UsageError
from sia_core.plugins import Plugins
from sia_core.run.candidate import LABELLED
from sia_core.run.ledger import Ledger, canonical, readable
from sia_core.run.record import RunRecord
from sia_core.run.report import build
from sia_core.run.rollouts import Setting, Sweep
from sia_core.run.start import beginning, fingerprint, recorded_config, task_of, verifier_of
from sia_core.run.trees import ADAPTERS, Trees, adapter_folder
from sia_core.run.trust import confirm
from sia_runtime.answers import InvalidAnswer, strict_json
from sia_runtime.sandbox.solving import describe
from sia_runtime.worker.completions import Refused, chunks, completion, events
from sia_runtime.worker.harness_worker import SolveRequest
from sia_runtime.worker.host import Host
from sia_runtime.worker.policy import Policy
from sia_runtime.worker.preflight import check_sandbox

MOST_BYTES = 1 << 20
CONNECTIONS = 64
"""Connections at once; each may wait for an agent in a sandbox."""

LOCAL = ("127.0.0.1", "localhost", "::1")
PURPOSE = "serve"


@dataclass(frozen=True)
class Served:
    """The agent that is served, by the digests of its parts, with its run and its task."""

    run: str
    task: str
    harness: str
    adapter: str | None
    sandbox: str


class Agent:
    """The final agent of a run (its incumbent, while it is unfinished), set up; asked by several threads."""

    def __init__(self, run: Path, plugins: Plugins, trust: bool = False) -> None:
        with ExitStack() as opened:
            with Ledger.read(run) as ledger:
                started, report = beginning(ledger), build(ledger)
                sandbox = RunRecord(ledger).sandbox
            made = report["agent"]
            if made["harness"] is None or sandbox is None:
                raise UsageError(f"{run} has no agent yet; `sia resume {run}` goes on with it")
            config = recorded_config(started, run)
            confirm(run, started, asdict(config), trust)
            self._task = task_of(config, plugins)
            if fingerprint(self._task) != started["fingerprint"]:
                raise UsageError(f"{run}: data, brief or catalogue of its task have changed, so this is another agent")
            with readable(run):
                check_sandbox(sandbox, plugins, allow_weak=config.allow_weak_sandbox)
            folder = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="sia-serve-")))
            folder.chmod(0o755)  # a sandbox reads it as another user
            self.about = Served(run.name, self._task.name, made["harness"], made["adapter"], sandbox["name"])
            Trees(folder).put(Trees(run).get(made["harness"]))
            if made["adapter"]:
                (folder / ADAPTERS).mkdir()
                kept = adapter_folder(run, made["adapter"])
                os.symlink(kept.resolve(), folder / ADAPTERS / kept.name)
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
        """The raw JSON answer to an input; HTTPException where the agent fails. The same input has the same seed."""
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
            raise HTTPException(500, f"the agent failed: {result.outcome}: {result.message}".strip(": "))
        return result.answer

    def close(self) -> None:
        self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def question(body: bytes) -> tuple[dict[str, Any], bool]:
    """The input that a request holds, and whether the reply is to be streamed; HTTPException where it is none."""
    try:
        value = strict_json(body.decode())
    except (UnicodeDecodeError, InvalidAnswer) as error:
        raise HTTPException(400, f"the body is not JSON: {error}") from None
    messages = value.get("messages") if isinstance(value, dict) else None
    last = messages[-1] if isinstance(messages, list) and messages else None
    content = last.get("content") if isinstance(last, dict) else None
    if isinstance(content, list):
        texts = [part.get("text") if isinstance(part, dict) else None for part in content]
        content = "".join(map(str, texts)) if all(isinstance(text, str) for text in texts) else None
    if not isinstance(content, str):
        raise HTTPException(400, "the last of `messages` needs a text as its `content`")
    if value.get("n", 1) != 1:
        raise HTTPException(400, "an agent gives one answer: `n` is 1")
    try:
        given = strict_json(content)
    except InvalidAnswer:
        given = None
    return given if isinstance(given, dict) else {"text": content}, bool(value.get("stream"))


def reply(about: Served, answer: str) -> dict[str, Any]:
    """An answer as a chat completion: a text as it is, anything else as JSON."""
    value = json.loads(answer)
    message = {"role": "assistant", "content": value if isinstance(value, str) else answer}
    name = f"{time.time_ns():x}"
    return completion(name, [(message, "stop", None)], (0, 0), model=about.run, created=int(time.time()))


def application(agent: Agent, token: str | None) -> ASGIApp:
    """The endpoint of an agent. A client on another machine needs the ``token``, if there is one."""
    threads = CapacityLimiter(CONNECTIONS)

    def completed(body: bytes) -> Response:
        given, stream = question(body)
        whole = reply(agent.about, agent.answer(given))
        if stream:
            return Response(events(chunks(whole, usage=False)), media_type="text/event-stream")
        return JSONResponse(whole)

    async def answered(request: Request) -> Response:
        _admit(request, token)
        match request.method, request.url.path:
            case "GET", "/v1/models":
                model = {"id": agent.about.run, "object": "model", "created": 0, "owned_by": agent.about.task}
                return JSONResponse({"object": "list", "data": [model]})
            case "POST", "/v1/chat/completions":
                return await run_sync(completed, await _body(request), limiter=threads, abandon_on_cancel=True)
        raise HTTPException(404, "there are POST /v1/chat/completions and GET /v1/models")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            response = await answered(Request(scope, receive))
        except ClientDisconnect:
            return
        except Exception as error:
            response = _failure(error)
        response.headers["x-content-type-options"] = "nosniff"
        await response(scope, receive, send)

    return app


def _failure(error: Exception) -> Response:
    """The error object of an exception. One that nobody foresaw may hold secrets: only this console shows it."""
    status, message = 500, str(error)
    if isinstance(error, HTTPException):
        status, message = error.status_code, error.detail
    elif not isinstance(error, SiaError):
        print(f"sia: a request failed: {describe(error)}", file=sys.stderr)
        message = "the server failed; its console says more"
    kind = {401: "authentication_error", 500: "server_error"}.get(status, "invalid_request_error")
    # The connection ends, since the request may have a body that was not read.
    return JSONResponse(Refused(message, kind=kind).body(), status, {"connection": "close"})


async def _body(request: Request) -> bytes:
    """The body of a request, which comes whole and has a bounded length."""
    # A web page may send a request without asking, but not one of this type.
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, "send application/json")
    if "transfer-encoding" in request.headers:
        raise HTTPException(411, "send the body whole, with its content-length")
    if int(request.headers.get("content-length", MOST_BYTES + 1)) > MOST_BYTES:
        raise HTTPException(413, f"a body of at most {MOST_BYTES:,} bytes is needed, with its content-length")
    return await request.body()


def _admit(request: Request, token: str | None) -> None:
    headers = request.headers
    hosts = headers.getlist("host") or [""]
    if token is None and (len(hosts) > 1 or not _is_local(f"//{hosts[0]}")):
        raise HTTPException(421, "this address is served to this machine only, by its own names")
    # A page of another origin may not ask, though it could not read the answer.
    site, origin = headers.get("sec-fetch-site", "none"), headers.get("origin")
    if site not in ("none", "same-origin") or (token is None and origin is not None and not _is_local(origin)):
        raise HTTPException(403, "web pages may not ask this endpoint")
    key = headers.get("authorization", "")
    if token is not None and not hmac.compare_digest(key.encode(), f"Bearer {token}".encode()):
        raise HTTPException(401, "send the key that `sia serve` printed")


def _is_local(address: str) -> bool:
    """Return whether a host name in an address means this machine."""
    try:
        return (urlsplit(address).hostname or "").rstrip(".") in LOCAL
    except ValueError:
        return False
