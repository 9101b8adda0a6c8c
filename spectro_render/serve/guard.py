"""Who may use a server: the checks of every request, before anything of it is read."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Collection
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "spectro_render_token"
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"SAMEORIGIN"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
)


class Guard:
    """Refuses requests under foreign names, posts of other sites, and requests without the token.

    A page of another site could have its own name point at this machine (DNS rebinding), and would
    then be of the same site for the browser; so the name in `Host` must be an address, a name of
    this machine, or one of `hosts`.
    """

    def __init__(self, app: ASGIApp, token: str | None, hosts: Collection[str]) -> None:
        self._app, self._token = app, token
        self._hosts = {"localhost", *(host.lower() for host in hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check a request, and pass it on or answer it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [None])[0]
        if scope["path"] == "/" and self._token is not None and self.is_token(given):
            redirect = RedirectResponse("/", 303)
            redirect.set_cookie(COOKIE, self._token, httponly=True, samesite="strict")
            await redirect(scope, receive, send)
            return
        status, reason = self._refusal(scope["method"], headers)

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
            await send(message)

        if status:
            response = JSONResponse({"error": reason}, status)
            await response(scope, receive, send_guarded)
        else:
            await self._app(scope, receive, send_guarded)

    def _refusal(self, method: str, headers: Headers) -> tuple[int, str]:
        """The status and the reason why a request is refused; 0 if it is not."""
        host = headers.get("host", "")
        if not self._knows(host):
            return 421, f"this server is not called {host!r}; start it with --allow-host for that"
        if method not in ("GET", "HEAD"):
            origin = headers.get("origin")
            is_foreign = origin is not None and urlsplit(origin).netloc != host
            if is_foreign or headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
                return 403, "pages of other sites may not send songs here"
        if self._token is not None and not self.is_token(_given_token(headers)):
            return 401, "a token is needed: Authorization: Bearer TOKEN, or open /?token=TOKEN"
        return 0, ""

    def _knows(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in self._hosts
        return True

    def is_token(self, given: str | None) -> bool:
        """Whether a token is the server's; takes as long for any that is not."""
        expected = self._token or ""
        return given is not None and hmac.compare_digest(given.encode(), expected.encode())


def _given_token(headers: Headers) -> str | None:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return token.strip()
    try:
        morsel = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return None
    return None if morsel is None else morsel.value
