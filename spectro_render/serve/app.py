"""The server's addresses: for people a page, for programs songs in and sound out."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from spectro_render import __version__
from spectro_render.audio.encoders import check_format
from spectro_render.constants import SAMPLE_RATE
from spectro_render.errors import SpectroRenderError
from spectro_render.midi.instruments import instrument_name
from spectro_render.options import FULL_BAND_RATE, Encoding
from spectro_render.page.html import make_page
from spectro_render.page.pages import describe, losses_of
from spectro_render.page.rendering import Rendering, Stem
from spectro_render.page.sound import sound_of_file
from spectro_render.render.renderer import Renderer
from spectro_render.report import times_real_time
from spectro_render.serve.api import description, options_of
from spectro_render.serve.front import docs_page, front_page
from spectro_render.serve.guard import Guard
from spectro_render.serve.limits import Limits, Refusal, SongFailed
from spectro_render.serve.sound import MEDIA_TYPES, encode, encode_stems, stream
from spectro_render.serve.studio import Order, Studio

DRUMS_NAME = "drums"


def make_app(
    renderer: Renderer,
    fingerprint: str,
    limits: Limits,
    folder: Path,
    *,
    token: str | None = None,
    hosts: tuple[str, ...] = (),
) -> Starlette:
    """Make the ASGI application; `folder` is for sounds, and its owner removes it.

    `fingerprint` is that of the model's files. With a `token`, every request needs it. `hosts` are
    names under which the server may be reached, besides localhost and addresses.
    """
    desk = Desk(renderer, fingerprint, limits, folder)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        desk.open()
        tidying = asyncio.create_task(desk.studio.tidy())
        try:
            yield
        finally:
            tidying.cancel()
            await run_in_threadpool(desk.studio.stop)

    routes = [
        Route("/", desk.front),
        Route("/docs", desk.docs),
        Route("/openapi.json", desk.openapi),
        Route("/about", desk.about),
        Route("/render", desk.render, methods=["POST"]),
        Route("/jobs", desk.add_job, methods=["POST"]),
        Route("/jobs/{number}", desk.job),
        Route("/jobs/{number}", desk.remove_job, methods=["DELETE"]),
        Route("/jobs/{number}/report.html", desk.report),
        Route("/jobs/{number}/sound.{format}", desk.sound),
        Route("/jobs/{number}/stems.zip", desk.stems),
    ]
    app = Starlette(
        routes=routes,
        lifespan=lifespan,
        middleware=[Middleware(Guard, token=token, hosts=hosts)],
        exception_handlers={
            Refusal: _refuse,
            SpectroRenderError: _refuse_song,
            404: _not_found,
            405: _not_found,
        },
    )
    app.state.desk = desk
    return app


class Desk:
    """Answers requests."""

    studio: Studio  # from `open` on

    def __init__(
        self,
        renderer: Renderer,
        fingerprint: str,
        limits: Limits,
        folder: Path,
    ) -> None:
        self._renderer, self._limits, self._folder = renderer, limits, folder
        self._fingerprint = fingerprint
        self._description = json.dumps(description(limits))
        self._readers = asyncio.Semaphore(2)  # MIDI files that are read, and pages made, at once

    def open(self) -> None:
        """Begin to work, in the running event loop."""
        self.studio = Studio(self._renderer, self._limits, self._folder)

    async def front(self, request: Request) -> Response:
        """The page for people."""
        return HTMLResponse(front_page(self._renderer.name, self._limits))

    async def docs(self, request: Request) -> Response:
        """A page that describes the interface for programs."""
        return HTMLResponse(docs_page(description(self._limits)))

    async def openapi(self, request: Request) -> Response:
        """The description of the interface in OpenAPI's format."""
        return Response(self._description, media_type="application/json")

    async def about(self, request: Request) -> Response:
        """The model and the limits."""
        limits = self._limits
        return JSONResponse(
            {
                "version": __version__,
                "model": self._renderer.name,
                "device": str(self._renderer.device),
                "fingerprint": self._fingerprint,
                "instruments": [DRUMS_NAME, *map(instrument_name, range(128))],
                "max_upload_bytes": limits.upload,
                "max_seconds": limits.song,
                "max_steps": limits.steps,
            }
        )

    async def render(self, request: Request) -> Response:
        """Render a song: the sound comes while it is made, and is not kept."""
        if request.query_params.get("stems") == "on":
            hint = "order the song with POST /jobs, and get /jobs/ID/stems.zip when it is done"
            raise Refusal(400, f"one answer holds one sound, and no stems; {hint}")
        order, encoding = await self._order(request)

        async def sound() -> AsyncIterator[bytes]:
            try:
                async for data in stream(order, encoding):
                    yield data
            finally:
                self.studio.remove(order)

        return StreamingResponse(sound(), media_type=MEDIA_TYPES[encoding.format])

    async def add_job(self, request: Request) -> Response:
        """Order a song, whose sound and report are fetched from addresses of its own."""
        order, _ = await self._order(request)
        return JSONResponse(_facts(order), 201, {"Location": f"/jobs/{order.number}"})

    async def job(self, request: Request) -> Response:
        """The state of a song."""
        return JSONResponse(_facts(self._found(request)))

    async def remove_job(self, request: Request) -> Response:
        """Forget a song, finished or not."""
        self.studio.remove(self._found(request))
        return Response(status_code=204)

    async def sound(self, request: Request) -> Response:
        """The sound of a song, from its beginning, as it comes."""
        order = self._found(request)
        encoding = _encoding(request.path_params["format"], request, order.sample_rate)
        kind = MEDIA_TYPES[encoding.format]
        if order.state != "done":
            return StreamingResponse(stream(order, encoding), media_type=kind)
        return await self._whole(kind, encode, order, encoding)

    async def stems(self, request: Request) -> Response:
        """The mix and the stems of a finished song in a ZIP file."""
        order = self._found(request)
        if not order.song.parts:
            raise Refusal(404, "the song was ordered without stems; order it with stems=on")
        if order.state != "done":
            raise Refusal(409, order.error or "the song is not finished yet", 1)
        format = request.query_params.get("format", "wav")
        encoding = _encoding(format, request, order.sample_rate)
        return await self._whole("application/zip", encode_stems, order, encoding)

    async def _whole(
        self,
        kind: str,
        make: Callable[[Order, Encoding, BinaryIO], None],
        order: Order,
        encoding: Encoding,
    ) -> Response:
        """A response whose length is known, as its body is made before. Raises Refusal."""
        file = tempfile.TemporaryFile(dir=self._folder)
        try:
            async with self._readers:
                await run_in_threadpool(make, order, encoding, file)
            headers = {"Content-Length": str(file.seek(0, os.SEEK_END))}
            file.seek(0)
        except BaseException as error:
            file.close()
            if isinstance(error, SongFailed):
                raise Refusal(404, str(error)) from None
            raise

        async def parts() -> AsyncIterator[bytes]:
            with file:
                while data := file.read(1 << 18):
                    yield data

        return StreamingResponse(parts(), headers=headers, media_type=kind)

    async def report(self, request: Request) -> Response:
        """The page of a song that is finished."""
        order = self._found(request)
        if order.state != "done":
            raise Refusal(409, order.error or "the song is not finished yet", 1)
        path = order.path
        sampling = order.song.sampling if self._renderer.has_sampler else None
        device = str(self._renderer.device)
        speed = times_real_time(order.seconds, order.wall_seconds)
        rendering = Rendering(
            title=order.title,
            score=order.score,
            sound=sound_of_file(path, (order.sample_rate, order.song.channels)),
            settings=describe(self._renderer.name, device, sampling, order.options),
            numbers={
                "rendered in": f"{order.wall_seconds:.2f} s ({speed:.1f} times real time), with"
                " waiting"
            },
            losses=losses_of(order.begun),
            stems=[
                Stem(part.name, sound_of_file(path, (order.sample_rate, order.song.channels)))
                for part, path in zip(order.song.parts, order.stem_paths, strict=True)
            ],
        )
        async with self._readers:
            return HTMLResponse(await run_in_threadpool(make_page, rendering))

    async def _order(self, request: Request) -> tuple[Order, Encoding]:
        """Take the song and the options of a request. Raises Refusal or SpectroRenderError."""
        client = request.client.host if request.client else ""
        self.studio.check_room(client)
        query = request.query_params
        encoding = _encoding(query.get("format", "wav"), request, None)
        title = query.get("name") or "song.mid"
        options = options_of(query.multi_items(), self._limits)
        is_high = (encoding.sample_rate or 0) >= FULL_BAND_RATE
        if query.get("full_band", "auto" if is_high else "") == "auto":
            options = replace(options, full_band=self._renderer.has_band)
        live = query.get("live", "on")
        if live not in ("on", "off"):
            raise Refusal(400, f"live is {live!r}, none of on, off")
        data = await self._read_body(request)
        async with self._readers:
            order = await run_in_threadpool(
                self.studio.read, data, options, title[:200], client, live=live == "on"
            )
        self.studio.add(order)
        return order, encoding

    async def _read_body(self, request: Request) -> bytes:
        """The bytes of a request, up to the limit. Raises Refusal."""
        data = bytearray()
        too_large = Refusal(413, f"a MIDI file may have {self._limits.upload} bytes at most here")
        length = request.headers.get("content-length", "")
        if length.isascii() and length.isdigit() and int(length) > self._limits.upload:
            raise too_large

        async def read() -> None:
            async for part in request.stream():
                if len(data) + len(part) > self._limits.upload:
                    raise too_large
                data.extend(part)

        try:
            await asyncio.wait_for(read(), self._limits.upload_time)
        except asyncio.TimeoutError:
            raise Refusal(408, "the MIDI file did not arrive in time") from None
        except ClientDisconnect:
            raise Refusal(400, "the connection was closed") from None
        if not data:
            raise Refusal(400, "no MIDI file: send its bytes as the body of the request")
        return bytes(data)

    def _found(self, request: Request) -> Order:
        order = self.studio.orders.get(request.path_params["number"])
        if order is None:
            raise Refusal(404, "there is no such song here, or not any more")
        order.asked = time.monotonic()
        return order


def _encoding(format: str, request: Request, own_rate: int | None) -> Encoding:
    """How a request wants its sound. Raises OptionError."""
    depth = request.query_params.get("bit_depth")
    rate = request.query_params.get("sample_rate")
    if rate is not None and not (rate.isascii() and rate.isdigit() and len(rate) < 8):
        raise Refusal(400, f"sample_rate is {rate!r}, not a number of Hz")
    number = own_rate if rate is None else int(rate)
    check_format(format, depth, SAMPLE_RATE if number is None else number)
    return Encoding(format, depth, number)


def _facts(order: Order) -> dict[str, Any]:
    return {
        "id": order.number,
        "name": order.title,
        "state": order.state,
        "error": order.error,
        "seconds": round(order.seconds, 4),
        "windows": order.song.count,
        "windows_done": order.song.done,
        "wall_seconds": round(order.wall_seconds, 4),
        "sample_rate": order.sample_rate,
        "channels": order.song.channels,
        "samples": order.song.sound.length,  # None: not known before the last notes have rung out
        "tracks": [
            {
                "name": track.name,
                "channel": track.channel,
                "instrument": DRUMS_NAME if track.is_drum else instrument_name(track.program),
                "notes": track.n_notes,
            }
            for track in order.score.tracks
        ],
        "stems": [part.name for part in order.song.parts],
        "notes": order.begun.notes,
        "ignored": list(order.begun.ignored),
        "repairs": list(order.begun.repairs),
        "left_out": [list(one) for one in order.begun.left_out],
        "losses": losses_of(order.begun),
    }


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
    return JSONResponse({"error": error.message}, error.status, headers)


async def _refuse_song(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 400)


async def _not_found(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    return JSONResponse({"error": "there is nothing at this address; see /docs"}, status)
