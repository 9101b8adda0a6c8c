"""The pages of the server itself: the one to drop a song on, and the description for programs."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

from spectro_render.page.html import ASSETS as PAGE_ASSETS
from spectro_render.page.rendering import as_time
from spectro_render.report import as_size
from spectro_render.serve.limits import Limits

ASSETS = Path(__file__).parent / "assets"
_EXAMPLE = """curl --data-binary @song.mid 'http://localhost:8000/render?format=mp3' -o song.mp3
curl --data-binary @song.mid 'http://localhost:8000/render' | aplay
spectro-render --server http://localhost:8000 song.mid"""


def front_page(model: str, limits: Limits) -> str:
    """The page to drop a song on."""
    body = _asset("front.html").format(
        model=escape(model),
        size=as_size(limits.upload),
        length=as_time(limits.song),
        age=f"{limits.age / 60:g} minutes",
        steps=limits.steps,
    )
    return _document("spectro-render", body, _asset("front.js"))


def docs_page(description: dict[str, Any]) -> str:
    """The page that describes the interface, from its description in OpenAPI's format."""
    parts = []
    for path, operations in description["paths"].items():
        for method, operation in operations.items():
            rows = "".join(
                f"<tr><th scope='row'><code>{escape(one['name'])}</code></th>"
                f"<td>{escape(one.get('description', ''))}</td></tr>"
                for one in operation["parameters"]
            )
            table = f"<table><tbody>{rows}</tbody></table>" if rows else ""
            parts.append(
                f"<h2><code>{method.upper()} {escape(path)}</code></h2>"
                f"<p>{escape(operation['summary'])}.</p>{table}"
            )
    body = (
        "<main><h1>spectro-render for programs</h1>\n<p>A MIDI file is sent as the body of a"
        " request, and options are in its query. Refusals are objects with the field"
        " <code>error</code>: the reason in words. The same as"
        f' <a href="/openapi.json">OpenAPI</a>.</p>\n<pre>{escape(_EXAMPLE)}</pre>\n'
        f"{''.join(parts)}</main>"
    )
    return _document("spectro-render for programs", body, "")


@cache
def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


def _document(title: str, body: str, script: str) -> str:
    """An HTML document, which runs no other script and talks to no other server."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    style = (PAGE_ASSETS / "page.css").read_text(encoding="utf-8") + _asset("front.css")
    policy = (
        "default-src 'none'; img-src data:; connect-src 'self'; media-src 'self'; frame-src 'self';"
        f" style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none';"
        " form-action 'none'"
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
{body}
<script>{script}</script>
</body>
</html>
"""
