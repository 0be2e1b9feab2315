"""The best agent of a run behind an OpenAI-compatible endpoint, in the sandbox of the run.

A question is an instance: the last message's text, as JSON where it is an object, else as
``{"text": ...}``; the answer is the reply's text.
"""

from __future__ import annotations

import hmac
import json
import sys
import time
from typing import Any
from urllib.parse import urlsplit

from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from sia_core.errors import SiaError
from sia_deploy.agent import DeployedAgent, Served
from sia_runtime.answers import InvalidAnswer, plain_json, strict_json
from sia_runtime.sandbox.solving import describe
from sia_runtime.worker.cleaning import cleaned
from sia_runtime.worker.completions import Refused, chunks, completion, events

MOST_BYTES = 1 << 20
CONNECTIONS = 64
"""Connections at once; each may wait for an agent in a sandbox."""

LOCAL = ("127.0.0.1", "localhost", "::1")


def question(body: bytes) -> tuple[dict[str, Any], bool]:
    """The input that a request holds, and whether the reply is to be streamed; HTTPException where it is none."""
    try:
        value = cleaned(plain_json(body.decode()))
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
    if value.get("n") not in (None, 1):
        raise HTTPException(400, "an agent gives one answer: `n` is 1")
    try:
        fields = strict_json(content)
    except InvalidAnswer:
        fields = None
    return fields if isinstance(fields, dict) else {"text": content}, bool(value.get("stream"))


def reply(about: Served, answer: str) -> dict[str, Any]:
    """An answer as a chat completion: a text as it is, anything else as JSON."""
    value = json.loads(answer)
    message = {"role": "assistant", "content": value if isinstance(value, str) else answer}
    name = f"{time.time_ns():x}"
    return completion(name, [(message, "stop", None)], (0, 0), model=about.run, created=int(time.time()))


def application(agent: DeployedAgent, token: str | None) -> ASGIApp:
    """The endpoint of an agent. A client on another machine needs the ``token``, if there is one."""
    threads = CapacityLimiter(CONNECTIONS)

    def completed(body: bytes) -> Response:
        fields, stream = question(body)
        whole = reply(agent.about, agent.answer(fields))
        if stream:
            return Response(events(chunks(whole, usage=False)), media_type="text/event-stream")
        return JSONResponse(whole)

    async def answered(request: Request) -> Response:
        _admit(request, token)
        match request.method, request.url.path.rstrip("/"):
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
