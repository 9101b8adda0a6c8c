"""The songs of a server: a thread renders the windows of several in one batch."""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections import Counter, deque
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from spectro_render.audio.audio import AudioWriter
from spectro_render.audio.destination import Destination
from spectro_render.batch.cores import Cancelled
from spectro_render.batch.jobs import Job
from spectro_render.batch.slots import ActiveSong, Slots, best_batch_size
from spectro_render.batch.tasks import Begun, Task
from spectro_render.constants import WINDOW_SECONDS
from spectro_render.errors import NO_MEMORY
from spectro_render.midi.length import least_seconds, part_to_render, sounding_seconds, with_times
from spectro_render.midi.read import read_midi
from spectro_render.midi.score import Score
from spectro_render.options import Encoding, RenderOptions
from spectro_render.page.rendering import as_time
from spectro_render.render.renderer import Renderer
from spectro_render.render.song import Song
from spectro_render.serve.limits import Limits, Refusal

_NO_LIMIT = 25.0  # hours: more than any MIDI file that is read


@dataclass(eq=False)
class Order:
    """A song that a client has ordered.

    Its sound grows in a file of float32 samples, those of all channels by turns, and so do its
    stems, if they are wanted.
    """

    title: str  # as the client named it; only shown
    options: RenderOptions
    score: Score  # the part that is rendered
    song: Song
    begun: Begun
    client: str
    path: Path
    sample_rate: int  # Hz
    number: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    created: float = field(default_factory=time.monotonic)
    asked: float = field(default_factory=time.monotonic)  # when a client last asked for it
    readers: int = 0  # clients that receive the sound now
    frames: int = 0  # samples of each channel in the file so far
    state: str = "waiting"  # then "rendering", and "done" or "failed"
    error: str = ""
    wall_seconds: float = 0.0  # from the order to the last sample
    is_unwanted: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)  # set, and replaced, by news

    @property
    def is_over(self) -> bool:
        """Whether no more sound will come."""
        return self.state in ("done", "failed")

    @property
    def stem_paths(self) -> list[Path]:
        """The files of the stems, one for each part of the song."""
        return [self.path.with_suffix(f".{part.number}") for part in self.song.parts]

    def append_stems(self) -> None:
        """Store what is new of the stems. Raises OSError."""
        for path, samples in zip(self.stem_paths, self.song.stems, strict=True):
            with open(path, "ab") as file:
                file.write(np.ascontiguousarray(samples.T, "<f4").tobytes())

    def remove_files(self) -> None:
        """Remove the sound and the stems."""
        for path in (self.path, *self.stem_paths):
            path.unlink(missing_ok=True)

    @property
    def seconds(self) -> float:
        """The length of the sound so far."""
        return self.frames / self.sample_rate


class Studio:
    """Renders the orders of all clients with one model.

    Its methods are called from the server's event loop; only `read` may run in any thread.
    """

    def __init__(self, renderer: Renderer, limits: Limits, folder: Path) -> None:
        """`folder` is for the sounds; its owner removes it."""
        self.renderer, self.limits, self.folder = renderer, limits, folder
        self.orders: dict[str, Order] = {}
        self._waiting: deque[Order] = deque()
        self._news = threading.Condition()
        self._is_stopping = False
        self._slots = Slots(renderer, best_batch_size(renderer), self._on_progress)
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._work, name="studio", daemon=True)
        self._thread.start()

    def check_room(self, client: str) -> None:
        """Raise Refusal if there are too many unfinished songs."""
        clients = Counter(order.client for order in self.orders.values() if not order.is_over)
        if self._is_stopping:
            raise Refusal(503, "the server is stopping", 60)
        if clients[client] >= self.limits.jobs_of_client:
            message = f"you have {clients[client]} unfinished songs here; wait for one to end"
            raise Refusal(429, message, 2)
        if clients.total() >= self.limits.jobs:
            raise Refusal(503, f"{clients.total()} songs are waiting already; try again later", 5)

    def read(
        self, data: bytes, options: RenderOptions, title: str, client: str, *, live: bool = True
    ) -> Order:
        """Read a MIDI file; `live` is that of `Renderer.begin`.

        Raises MidiError for one that cannot be read, OptionError for options that the model does
        not have, and Refusal if its sound would be too long.
        """
        options = replace(options, max_hours=_NO_LIMIT)
        whole = read_midi(data, options, allow_rests=options.to_end_of_track)
        options = with_times(whole, options)
        score = part_to_render(whole, options)
        seconds = sounding_seconds(score, options.duration, least_seconds(score, options))
        if seconds > self.limits.song:
            raise Refusal(
                413,
                f"the sound would last {as_time(seconds)}, and at most {as_time(self.limits.song)}"
                " are rendered here; ask for a part, with start and duration",
            )
        song = self.renderer.begin(whole, options, live=live)
        if len(song.parts) * seconds > self.limits.stems:
            message = f"{len(song.parts)} stems of {as_time(seconds)} are longer than"
            message += f" {as_time(self.limits.stems)} together; ask for a part, or for fewer stems"
            raise Refusal(413, message)
        left_out = [
            (options.start + index * WINDOW_SECONDS, count) for index, count in song.dropped.items()
        ]
        ignored = (*score.ignored, *self.renderer.unheard(score))
        begun = Begun(len(whole.notes), ignored, score.repairs, left_out)
        path = self.folder / secrets.token_hex(16)
        return Order(title, options, score, song, begun, client, path, song.sample_rate)

    def add(self, order: Order) -> None:
        """Take an order, which `read` has made. Raises Refusal as `check_room` does."""
        self.check_room(order.client)
        finished = [other for other in self.orders.values() if other.is_over and not other.readers]
        for other in finished[: len(finished) - self.limits.kept + 1]:
            self.remove(other)
        self.orders[order.number] = order
        with self._news:
            self._waiting.append(order)
            self._news.notify()

    def remove(self, order: Order) -> None:
        """Forget an order and remove its sound; if it is not finished, its place is free again."""
        self.orders.pop(order.number, None)
        order.is_unwanted = True
        with self._news, suppress(ValueError):
            self._waiting.remove(order)
        if order.state != "rendering":  # else the thread removes it
            order.remove_files()
        if not order.is_over:
            order.state, order.error = "failed", "the song was removed before it was finished"
            _wake(order)

    async def tidy(self) -> None:
        """Remove orders that are too old, or that nobody waits for, until it is cancelled."""
        while True:
            await asyncio.sleep(min(1.0, self.limits.unattended / 4))
            now = time.monotonic()
            for order in list(self.orders.values()):
                is_left = not order.is_over and not order.readers
                is_left = is_left and now - order.asked > self.limits.unattended
                if is_left or now - order.created > self.limits.age:
                    self.remove(order)

    def stop(self) -> None:
        """End all work; unfinished songs fail."""
        with self._news:
            self._is_stopping = True
            self._news.notify()
        self._slots.cancel()
        self._thread.join()
        for order in list(self.orders.values()):
            if not order.is_over:
                self._end(order, "the server is stopping")

    # --- in the thread ----------------------------------------------------------------------------

    def _work(self) -> None:
        files: dict[ActiveSong, tuple[Order, BinaryIO]] = {}
        while True:
            with self._news:
                self._news.wait_for(lambda: self._is_stopping or self._waiting or files)
                if self._is_stopping:
                    break
                new: list[Order] = []
                while self._waiting and len(files) + len(new) < self._slots.size:
                    new.append(self._waiting.popleft())
            for order in new:
                try:
                    file: BinaryIO = open(order.path, "wb")
                except OSError as error:
                    self._end(order, f"the sound cannot be stored: {error.strerror}")
                    continue
                output = Destination(file)
                channels = order.song.channels
                writer = AudioWriter(output, format="raw", bit_depth="float", channels=channels)
                task = Task(Job(None, None), b"", output)
                encoding = Encoding("raw", "float")
                active = ActiveSong(task, order.song, writer, time.monotonic(), encoding)
                files[active] = order, file
                order.state = "rendering"
                self._slots.add(active)
            if files:
                try:
                    self._render(files)
                except Cancelled:
                    break
        self._slots.clear()
        for _, sink in files.values():
            sink.close()

    def _render(self, files: dict[ActiveSong, tuple[Order, BinaryIO]]) -> None:
        """Render a window of some songs, and end those that are over, wrong or unwanted."""
        group, made = self._slots.advance()
        for number, active in enumerate(group):
            order, sink = files[active]
            error = ""
            try:
                part = made.result()[number]
                if isinstance(part, Exception):
                    raise part
                active.write(part)
                if order.song.parts:
                    order.append_stems()
                frames = order.frames + part.samples.shape[-1]
            except MemoryError:
                error = NO_MEMORY
            except Exception as problem:
                error = f"the song cannot be rendered: {problem}"
            if not (error or active.song.is_over or order.is_unwanted):
                self._loop.call_soon_threadsafe(_advance, order, frames)
                continue
            self._slots.remove(active)
            del files[active]
            sink.close()
            if order.is_unwanted:
                order.remove_files()
                self._end(order, "nobody waits for this song")
            elif error:
                self._end(order, error)
            else:
                self._loop.call_soon_threadsafe(_advance, order, frames, "done")

    def _end(self, order: Order, error: str) -> None:
        self._loop.call_soon_threadsafe(_advance, order, order.frames, "failed", error)

    def _on_progress(self, task: Task, progress: Any) -> None:
        """Progress is seen from the length of the sound."""


def _advance(order: Order, frames: int, state: str = "rendering", error: str = "") -> None:
    """Tell the readers of an order about new sound, in the event loop."""
    order.frames, order.state, order.error = frames, state, error
    order.wall_seconds = time.monotonic() - order.created
    _wake(order)


def _wake(order: Order) -> None:
    event, order.changed = order.changed, asyncio.Event()
    event.set()
