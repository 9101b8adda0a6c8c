"""Runs the server until it is interrupted."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn

from spectro_render.errors import EngineError, OptionError, reason_of
from spectro_render.report import Reporter
from spectro_render.serve.limits import Limits, SongFailed

if TYPE_CHECKING:
    from spectro_render.render.renderer import Renderer

_PATIENCE = 3  # seconds that connections have to end when the server stops
_MOST_CONNECTIONS = 256


def check_address(host: str, token: str | None) -> None:
    """Raise OptionError if others could reach a server on `host` that needs no token."""
    if token is not None and len(token) < 16:
        raise OptionError("the token is too short to be a secret", "use 16 characters or more")
    if token is None and not _is_loopback(host):
        hint = "give one with --token, or with the variable SPECTRO_RENDER_TOKEN"
        raise OptionError(f"{host} can be reached by others, so a token is needed", hint)


def run_server(
    renderer: Renderer,
    fingerprint: str,
    limits: Limits,
    reporter: Reporter,
    *,
    host: str,
    port: int,
    token: str | None,
    hosts: tuple[str, ...],
) -> None:
    """Serve until a signal comes, which is raised again when all has been tidied up.

    Raises EngineError if the address cannot be used.
    """
    from spectro_render.serve.app import make_app

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=128)
    except (OSError, OverflowError) as error:
        reason = reason_of(error) if isinstance(error, OSError) else str(error)
        message = f"cannot serve on {host} port {port}: {reason}"
        raise EngineError(message, "choose another --port") from error
    logging.getLogger("uvicorn.error").addFilter(_is_news)
    with listener, tempfile.TemporaryDirectory(prefix="spectro-render-") as folder:
        app = make_app(renderer, fingerprint, limits, Path(folder), token=token, hosts=hosts)
        config = uvicorn.Config(
            app,
            log_level="error",
            server_header=False,
            limit_concurrency=_MOST_CONNECTIONS,
            timeout_keep_alive=10,
            timeout_graceful_shutdown=_PATIENCE,
        )
        name = f"[{host}]" if ":" in host else host
        reporter.say(f"serving on http://{name}:{listener.getsockname()[1]}; Ctrl-C ends it")
        _Server(config).run(sockets=[listener])


class _Server(uvicorn.Server):
    """Ends songs before connections, which would otherwise wait for their sound."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await asyncio.to_thread(self.config.app.state.desk.studio.stop)  # type: ignore[union-attr]
        await super().shutdown(sockets)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_news(record: logging.LogRecord) -> bool:
    """Whether a message of the server is worth printing: not that a song or connection was cut."""
    error = record.exc_info[1] if record.exc_info else None
    is_cut = isinstance(error, SongFailed | asyncio.CancelledError)
    return not (is_cut or "graceful shutdown" in record.getMessage())
