"""Access to the pages, and limits on each page: the outermost layer of the server.

Loopback is no lock: any page in the reader's browser can send requests there. So a
host name that is not this machine's own is refused (DNS rebinding), and so is a request
from a page of another origin. Requests can only read, and no other origin may frame or
embed an answer.
"""

from __future__ import annotations

import hmac
import ipaddress
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)

HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}

COOKIE = "sia-token"


class Guard:
    """Lets a request through to ``app``, or says why not. Without a ``token`` only loopback names are served."""

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        self._app, self._token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        refused = self._refusal(Request(scope))
        await (refused or self._app)(scope, receive, guarded)

    def _refusal(self, request: Request) -> Response | None:
        if request.method not in ("GET", "HEAD"):
            return PlainTextResponse("these pages can only be read", 405, {"allow": "GET, HEAD"})
        hosts, origin = request.headers.getlist("host"), request.headers.get("origin")
        if self._token is None and not (len(hosts) == 1 and is_loopback(_host(hosts[0]))):
            return PlainTextResponse("this address is served to this machine only, by its own names", 421)
        # "same-site" is another origin, too: such as another port of this machine.
        site = request.headers.get("sec-fetch-site", "none")
        if site not in ("none", "same-origin") or (origin is not None and urlsplit(origin).netloc not in hosts):
            return PlainTextResponse("asked for by another site; open this address by typing or pasting it", 403)
        if self._token is None:
            return None
        return self._identified(request, self._token)

    def _identified(self, request: Request, token: str) -> Response | None:
        """None for who brings the token in a cookie; who brings it in the address is given that cookie."""
        if hmac.compare_digest(request.cookies.get(COOKIE, "").encode(), token.encode()):
            return None
        query = parse_qsl(request.url.query, keep_blank_values=True)
        if hmac.compare_digest(dict(query).get("token", "").encode(), token.encode()):
            rest = urlencode([(key, value) for key, value in query if key != "token"])
            # One slash: with two, a browser would take what follows for a host.
            path = "/" + request.url.path.lstrip("/")
            answer = RedirectResponse(path + (f"?{rest}" if rest else ""), 303)
            answer.set_cookie(COOKIE, token, httponly=True, samesite="strict")
            return answer
        return PlainTextResponse("open the address that `sia view` printed: it holds the token", 403)


def is_loopback(host: str) -> bool:
    """Whether a name or address can only be this machine."""
    if host.rstrip(".").lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _host(host: str) -> str:
    """The host that was asked for, without its port."""
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
