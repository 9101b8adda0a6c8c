"""Renders on a server: `spectro-render --server URL`."""

from __future__ import annotations

import http.client
import json
import os
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

import numpy as np

from spectro_render.audio.audio import AudioWriter
from spectro_render.audio.tags import Tags
from spectro_render.batch.history import checksum
from spectro_render.batch.recipe import tags_of
from spectro_render.batch.tasks import Begun, Event, Finished, Settings, Task, discard
from spectro_render.constants import WINDOW_SECONDS
from spectro_render.errors import EngineError, OptionError, SpectroRenderError, reason_of
from spectro_render.midi.read import read_midi
from spectro_render.options import FULL_BAND_RATE, Encoding, Progress, RenderOptions
from spectro_render.serve.api import PARAMETERS

if TYPE_CHECKING:
    from spectro_render.audio.player import Player

SIDE_BY_SIDE = 8  # songs that are ordered at once
TOKEN = "SPECTRO_RENDER_TOKEN"  # name of the variable that has the server's token
_PATIENCE = 120.0  # seconds that a server may say nothing
_BUSY_PATIENCE = 300.0  # seconds for which a server may be too busy to take a song
_BLOCK = 1 << 16  # bytes that are read at once


class ServerEngine:
    """An Engine whose songs are rendered by a server; the sound is encoded here."""

    def __init__(self, settings: Settings, url: str, player: Player | None = None) -> None:
        """Prepare to use the server at `url`, such as http://localhost:8000.

        A `player` plays the songs, which are then ordered one after the other. Raises OptionError
        for a URL or options that a server does not take.
        """
        self.on_progress: Callable[[Task, Progress], None] = lambda task, progress: None
        self._settings, self._player = settings, player
        if settings.encoding.level is not None:
            raise OptionError("--normalize needs the sound before its limiter", "render it here")
        _query_of(settings.options, settings.encoding)  # so that wrong options fail at once
        self._url = url.rstrip("/")
        parts = urlsplit(self._url)
        try:
            is_usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:
            is_usable = False
        if not is_usable:
            raise OptionError(f"{url} is no address of a server", "give it as http://HOST:PORT")
        self._events: queue.Queue[tuple[Task, Event]] = queue.Queue()
        self._threads: dict[Task, threading.Thread] = {}
        self._is_stopping = False

    @cached_property
    def about(self) -> dict[str, Any]:
        """What the server says about itself. Raises EngineError if it cannot be reached."""
        connection = self._connect()
        try:
            found: dict[str, Any] = self._ask(connection, "GET", "/about")
        finally:
            connection.close()
        return found

    def fingerprint(self) -> str:
        """The fingerprint of the server's model. Raises EngineError as `about` does."""
        return str(self.about["fingerprint"])

    @property
    def has_room(self) -> bool:
        """Whether one more task may begin."""
        return len(self._threads) < (1 if self._player is not None else SIDE_BY_SIDE)

    def begin(self, task: Task) -> None:
        """Begin a task and take over its output."""
        _ = self.about
        thread = threading.Thread(target=self._work, args=(task,), daemon=True)
        self._threads[task] = thread
        thread.start()

    def advance(self) -> list[tuple[Task, Event]]:
        """Wait for some time until there is an event."""
        try:
            task, event = self._events.get(timeout=0.5)
        except queue.Empty:
            return []
        if not isinstance(event, Begun):
            self._threads.pop(task).join()
        return [(task, event)]

    def stop(self) -> None:
        """Give up all tasks that are not over."""
        self._is_stopping = True
        if self._player is not None and self._threads:
            self._player.stop()  # a thread may wait for it
        for task, thread in self._threads.items():
            thread.join(timeout=1.0)
            discard(task.output)

    def _work(self, task: Task) -> None:
        try:
            self._events.put((task, self._render(task)))
        except Exception as error:
            discard(task.output)
            self._events.put((task, error))

    def _render(self, task: Task) -> Finished:
        """Order a song and write its sound as it comes. Raises SpectroRenderError or OSError."""
        begun = time.monotonic()
        about, encoding = self.about, self._settings.encoding
        connection = self._connect()
        try:
            name = task.job.source.name if task.job.source else "song.mid"
            query = _query_of(task.job.options or self._settings.options, encoding)
            if not (task.job.is_streamed or self._player):  # nobody hears it before it is complete
                query.append(("live", "off"))
            job = self._order(connection, task.data, [*query, ("name", name)])
            rate = job["sample_rate"]
            left_out = [(seconds, notes) for seconds, notes in job["left_out"]]
            facts = Begun(job["notes"], job["ignored"], job["repairs"], left_out)
            self._events.put((task, facts))
            address = f"/jobs/{job['id']}"
            try:
                writer = AudioWriter(
                    task.output,
                    sample_rate=rate,
                    out_rate=encoding.sample_rate,
                    format=encoding.format,
                    bit_depth=encoding.bit_depth,
                    dither=encoding.dither,
                    quality=encoding.quality,
                    channels=job["channels"],
                    length=job["samples"],
                    tags=self._tags(task),
                    player=self._player,
                )
                samples = self._receive(connection, address, task, job, writer)
                writer.close()
            finally:
                with suppress(SpectroRenderError):
                    connection.close()
                    self._ask(connection, "DELETE", address)
            return Finished(
                seconds=samples / rate,
                wall_seconds=time.monotonic() - begun,
                beside=0,
                model=about["model"],
                device=about["device"],
                sample_rate=encoding.sample_rate or rate,
                host=urlsplit(self._url).netloc,
            )
        finally:
            connection.close()

    def _tags(self, task: Task) -> Tags | None:
        """The tags of a song, if the user wants any and the format has them."""
        if not self._settings.encoding.tags or self._settings.encoding.format == "raw":
            return None
        options = task.job.options or self._settings.options
        about = read_midi(task.data, allow_rests=options.to_end_of_track).about
        model = replace(self._settings.model, name=self.about["model"])
        settings = replace(self._settings, model=model)
        return tags_of(settings, task.job, about, checksum(task.data), self.fingerprint())

    def _order(
        self, connection: http.client.HTTPConnection, data: bytes, query: list[tuple[str, Any]]
    ) -> Any:
        """Order a song, as soon as the server has room for it; returns what is known of it."""
        path = f"/jobs?{urlencode(query)}"
        end = time.monotonic() + _BUSY_PATIENCE
        while True:
            try:
                return self._ask(connection, "POST", path, data)
            except _Busy as error:
                if self._is_stopping or time.monotonic() > end:
                    raise
                time.sleep(error.retry_after)

    def _receive(
        self,
        connection: http.client.HTTPConnection,
        address: str,
        task: Task,
        job: Any,
        writer: AudioWriter,
    ) -> int:
        """Write the sound of a song as it comes; returns the number of samples of each channel."""
        response = self._send(connection, "GET", f"{address}/sound.raw?bit_depth=float")
        rest, samples, windows, channels = b"", 0, job["windows"], job["channels"]
        of_window = round(WINDOW_SECONDS * job["sample_rate"])
        try:
            while data := response.read1(_BLOCK):
                if self._is_stopping:
                    raise SpectroRenderError("the run was ended")
                data = rest + data
                whole = len(data) // (4 * channels)
                rest = data[4 * channels * whole :]
                writer.write(np.frombuffer(data, "<f4", whole * channels).reshape(-1, channels).T)
                samples += whole
                window = min(samples // of_window, windows - 1)
                share = min(samples / of_window - window, 1.0)
                self.on_progress(task, Progress(window + 1, windows, share))
        except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
            connection.close()
            state = self._ask(connection, "GET", address)
            reason = state["error"] or f"the connection broke: {error}"
            raise SpectroRenderError(f"{self._url}: {reason}") from error
        return samples

    def _connect(self) -> http.client.HTTPConnection:
        parts = urlsplit(self._url)
        kinds = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
        return kinds[parts.scheme](parts.hostname or "", parts.port, timeout=_PATIENCE)

    def _send(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        body: bytes | None = None,
    ) -> http.client.HTTPResponse:
        """Send a request; returns the answer if the server accepts it.

        Raises EngineError if the server cannot be reached or used, SpectroRenderError with its
        words if it refuses.
        """
        headers = {}
        if token := os.environ.get(TOKEN):
            headers["Authorization"] = f"Bearer {token}"
        try:
            connection.request(method, urlsplit(self._url).path + path, body, headers)
            response = connection.getresponse()
            if response.status < 300:
                return response
            answer = response.read(1 << 16)
        except (OSError, http.client.HTTPException) as error:
            reason = reason_of(error) if isinstance(error, OSError) else str(error)
            message = f"the server {self._url} does not answer: {reason or repr(error)}"
            raise EngineError(message, "start one with 'spectro-render serve'") from error
        try:
            words = str(json.loads(answer)["error"])
        except (ValueError, LookupError, TypeError):
            words = f"status {response.status}; is this a server of spectro-render?"
        if response.status in (429, 503):
            raise _Busy(f"{self._url}: {words}", response.getheader("Retry-After", "1"))
        kind = EngineError if response.status in (401, 403, 421) else SpectroRenderError
        hint = f"give it in the variable {TOKEN}" if response.status == 401 else ""
        raise kind(f"{self._url}: {words}", hint)

    def _ask(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        body: bytes | None = None,
    ) -> Any:
        """Send a request, and read the answer. Raises as `_send` does."""
        answer = self._send(connection, method, path, body).read()
        try:
            return json.loads(answer) if answer else None
        except ValueError as error:
            message = f"the server {self._url} gives an answer that is not understood"
            raise EngineError(message, "is it a server of spectro-render?") from error


class _Busy(SpectroRenderError):
    """The server has no room at the moment."""

    def __init__(self, message: str, retry_after: str) -> None:
        super().__init__(message)
        self.retry_after = min(int(retry_after), 10) if retry_after.isdigit() else 1  # seconds


def _query_of(options: RenderOptions, encoding: Encoding) -> list[tuple[str, Any]]:
    """The options as parameters of a request. Raises OptionError for one that it does not have."""
    usual = RenderOptions()
    query: list[tuple[str, Any]] = []
    for field in fields(options):
        name, value = field.name, getattr(options, field.name)
        if name == "max_hours" or value == getattr(usual, name):  # the server has its own limit
            continue
        if name in ("solo", "mute"):
            query += [(name, part) for part in value]
        elif name == "programs":
            query += [("program", f"{part}={program}") for part, program in value.items()]
        elif name not in PARAMETERS or name == "stems":  # they are no part of the sound sent
            option = f"--{name.replace('_', '-')}"
            raise OptionError(f"servers do not take {option}", "leave it out, or render here")
        else:
            is_switch = isinstance(value, bool)
            query.append((name, ("off", "on")[value] if is_switch else value))
    if options.full_band is None and (encoding.sample_rate or 0) >= FULL_BAND_RATE:
        query.append(("full_band", "auto"))
    return query
