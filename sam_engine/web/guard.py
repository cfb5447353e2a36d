"""Who may ask: a token, this machine's own names, and headers that keep pages from being more than pages.

A server on a laptop is within reach of every web page open on that laptop (DNS rebinding, cross-site
requests) and of its other users. So each request must name the host that was bound, everything but the
static files needs the token or the cookie that it was changed for, and only our own pages may write.
"""

import secrets
from collections.abc import Iterable
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

OPEN_PREFIX = "/static/"
"""What anybody on this machine may read: the program's own pages, no data."""
SAFE_METHODS = ("GET", "HEAD")
WRITTEN_TYPES = ("application/json", "application/octet-stream")
"""Of bodies. Browsers send neither to another site before that has allowed it, as they do forms and text."""

_SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; "
    "style-src 'self'; img-src 'self' blob:; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; "
    "form-action 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def make_token() -> str:
    """Return a new secret for a URL."""
    return secrets.token_urlsafe(24)


class Guard:
    """ASGI middleware that answers what may not be asked, and adds the headers to what may."""

    def __init__(self, app: ASGIApp, *, token: str, hosts: Iterable[str]) -> None:
        """Take what is to be guarded.

        Args:
            app: The pages and the API.
            token: What the first request carries as ``?token=``; a cookie carries it from then on.
            hosts: Values of the Host header that are ours, as ``127.0.0.1:8765``.
        """
        self._app = app
        self._token = token
        self._hosts = frozenset(hosts)
        # Cookies know no ports: two viewers on one machine must not log each other out.
        self._cookie = "sam_engine_" + "_".join(sorted(host.rpartition(":")[2] for host in self._hosts)[:1])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # no web sockets
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _SECURITY_HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        answer = self._refusal(scope) or self._app
        await answer(scope, receive, send_guarded)

    def _refusal(self, scope: Scope) -> Response | None:
        """Return the answer to a request that goes no further, or None."""
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        if not hosts:
            return PlainTextResponse("a Host header is needed", 400)
        if len(hosts) > 1 or hosts[0] not in self._hosts:
            return PlainTextResponse("this server is not known by that name", 421)
        if scope["path"].startswith(OPEN_PREFIX) and scope["method"] in SAFE_METHODS:
            return None
        query = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        if scope["method"] == "GET" and self._is_token(query.pop("token", [""])[-1]):
            return self._let_in(scope["path"], query)
        if not self._is_token(self._cookie_of(headers)):
            return PlainTextResponse("give the address that the program printed, with its token", 401)
        if scope["method"] not in SAFE_METHODS and not self._is_from_us(headers):
            return PlainTextResponse("only this program's own pages may write", 403)
        return None

    def _let_in(self, path: str, query: dict[str, list[str]]) -> Response:
        """Return the same address without the token, which becomes a cookie: no history or log keeps it."""
        rest = urlencode(query, doseq=True)
        target = "/" + path.lstrip("/\\")  # a second slash would name another host
        response = RedirectResponse(target + (f"?{rest}" if rest else ""), 303)
        response.set_cookie(self._cookie, self._token, httponly=True, samesite="strict", path="/")
        return response

    def _is_token(self, text: str) -> bool:
        return secrets.compare_digest(text.encode(), self._token.encode())

    def _cookie_of(self, headers: Headers) -> str:
        try:
            morsel = SimpleCookie(headers.get("cookie", "")).get(self._cookie)
        except CookieError:
            return ""
        return morsel.value if morsel is not None else ""

    def _is_from_us(self, headers: Headers) -> bool:
        """Return whether a request that writes was made by a page of ours."""
        origin = urlsplit(headers.get("origin", ""))
        content_type = headers.get("content-type", "").partition(";")[0].strip()
        return origin.scheme == "http" and origin.netloc in self._hosts and content_type in WRITTEN_TYPES
