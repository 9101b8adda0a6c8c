"""Renders tasks in this process, several side by side."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from spectro_render.audio.audio import AudioWriter
from spectro_render.batch.tasks import Begun, Event, Finished, Settings, Task
from spectro_render.constants import WINDOW_SECONDS
from spectro_render.midi.read import read_midi

if TYPE_CHECKING:
    from spectro_render.batch.slots import Rendering, Slots
    from spectro_render.midi.score import Score
    from spectro_render.options import RenderOptions
    from spectro_render.render.renderer import Renderer
    from spectro_render.tokens.vocabulary import TokenWindow


class Engine(Protocol):
    """Whoever renders tasks. A task leaves nothing behind unless it has finished."""

    @property
    def has_room(self) -> bool:
        """Whether one more task may begin."""

    def begin(self, task: Task) -> None:
        """Take a task; raises what is wrong with it, or what no other would survive either."""

    def advance(self) -> list[tuple[Task, Event]]:
        """Work on the tasks that have begun, for a while or until there is something to tell."""

    def stop(self) -> None:
        """Give up all tasks that are not over; nothing can begin then."""


class LocalEngine:
    """An Engine that is the cores, or the GPU, of this machine."""

    def __init__(self, settings: Settings, songs: int) -> None:
        """`songs`: how many tasks there will be at most; the first of them loads the model."""
        self.settings = settings
        self._songs = songs
        self._events: list[tuple[Task, Event]] = []
        self._slots: Slots | None = None  # None: nothing has begun yet

    @cached_property
    def renderer(self) -> Renderer:
        """The model, loaded when it is first needed."""
        with _without_collection():
            from spectro_render.render.renderer import Renderer

            return Renderer.load(**self.settings.model)

    @cached_property
    def options(self) -> RenderOptions:
        """How to render; what the user left open is the model's to say."""
        from spectro_render.options import RenderOptions

        return RenderOptions(**self.settings.choices)

    @property
    def size(self) -> int:
        """How many tasks there is room for."""
        return min(self._songs, self.settings.batch_size or self.renderer.batch_size)

    @property
    def has_room(self) -> bool:
        return self._slots is None or self._slots.has_room

    @property
    def is_idle(self) -> bool:
        """Whether every task is over, and told of."""
        return not self._events and not any(self._slots or ())

    def begin(self, task: Task) -> None:
        """Take a task; raises MidiError, OptionError, OutputError, or what keeps all others too."""
        from spectro_render.batch.slots import Rendering, Slots

        score = read_midi(task.data)
        _ = self.renderer  # loading it is no part of the first song's time
        begun = time.monotonic()
        windows = self._windows(score)  # so what is wrong is said before an output is opened
        song = self.renderer.begin(score, self.options, windows=windows, live=task.job.is_streamed)
        writer = self._open(task)
        if self._slots is None:
            self._slots = Slots(self.renderer, self.options, self.size)
        self._slots.add(Rendering(task, song, writer, begun))
        left_out = [
            (self.options.start + window.index * WINDOW_SECONDS, window.dropped)
            for window in windows
            if window.dropped
        ]
        facts = Begun(len(score.notes), score.ignored, score.repairs, left_out)
        self._events.append((task, facts))

    def advance(self) -> list[tuple[Task, Event]]:
        """Tell of what has begun, or render the next window of some songs."""
        if not self._events and self._slots is not None and any(self._slots):
            self._render(self._slots)
        events, self._events = self._events, []
        return events

    def stop(self) -> None:
        """Give up all tasks that are not over."""
        for rendering in self._slots.clear() if self._slots is not None else ():
            rendering.discard()

    def _windows(self, score: Score) -> list[TokenWindow]:
        """What the model will read."""
        from spectro_render.midi.score import section

        options = self.renderer.resolve(self.options)
        return self.renderer.windows(section(score, options.start, options.duration), options)

    def _open(self, task: Task) -> AudioWriter:
        encoding = self.settings.encoding
        destination = task.open()
        try:
            return AudioWriter(
                destination,
                sample_rate=self.renderer.sample_rate,
                out_rate=encoding.sample_rate,
                format=encoding.format,
                bit_depth=encoding.bit_depth,
            )
        except BaseException:
            destination.discard()
            raise

    def _render(self, slots: Slots) -> None:
        """Whoever is with a song that fails in the middle of a window fails with it."""
        group, made = slots.advance()
        for number, rendering in enumerate(group):
            try:
                rendering.write(made.result()[number])
            except Exception as error:
                rendering.discard()
                slots.remove(rendering)
                self._events.append((rendering.task, error))
                continue
            if rendering.song.is_over:
                slots.remove(rendering)
                self._events.append((rendering.task, self._finished(rendering)))

    def _finished(self, rendering: Rendering) -> Finished:
        return Finished(
            seconds=rendering.seconds,
            wall_seconds=time.monotonic() - rendering.begun,
            beside=self.size - 1,
            model=self.renderer.name,
            device=str(self.renderer.device),
            sample_rate=self.settings.encoding.sample_rate or self.renderer.sample_rate,
        )


@contextmanager
def _without_collection() -> Iterator[None]:
    """Import torch a seventh faster.

    That makes objects by the hundred thousand, and again and again Python would look for garbage
    among them; they stay until the end, so it need not look at them later either.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
