"""Songs on their way, and which core of the processor makes whose next window when."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from spectro_render.audio.audio import Audio, AudioWriter
from spectro_render.batch.cores import Cores
from spectro_render.batch.tasks import Task
from spectro_render.errors import OutputError
from spectro_render.options import Progress, RenderOptions
from spectro_render.render.renderer import Renderer
from spectro_render.render.song import Song


@dataclass(eq=False)
class Rendering:
    """A task whose song is on its way."""

    task: Task
    song: Song
    writer: AudioWriter
    begun: float  # time.monotonic()
    seconds: float = 0.0  # of sound so far

    def write(self, part: Audio) -> None:
        """Append to the output, which gets its name with the last part."""
        self.writer.write(part.samples)
        self.seconds += part.seconds
        if self.song.is_over:
            self.writer.close()

    def discard(self) -> None:
        """Leave nothing of an output that is not complete."""
        with suppress(OSError, OutputError):  # what is wrong has been said already
            self.writer.discard()


Parts = list[Audio]  # of the songs of a group: what is now certain of each


class Slots:
    """Room for so many songs, in groups whose windows share a batch, one group a core.

    While one group is computed the next songs are read and the parts of others written.
    """

    def __init__(self, renderer: Renderer, options: RenderOptions, size: int) -> None:
        self.size = size
        self._renderer, self._options = renderer, options
        self._cores: Cores[Parts] = Cores(min(renderer.cores, size))
        self._share = -(-size // self._cores.number)  # songs of a group
        self._idle: list[Rendering] = []
        self._working: dict[Future[Parts], list[Rendering]] = {}

    def __iter__(self) -> Iterator[Rendering]:
        yield from self._idle
        for group in self._working.values():
            yield from group

    @property
    def has_room(self) -> bool:
        """Whether one more song fits."""
        return sum(1 for _ in self) < self.size

    def add(self, rendering: Rendering) -> None:
        """One more song, which joins the next group that begins a window."""
        self._idle.append(rendering)
        if self._free and len(self._idle) >= self._share:
            self._start(self._idle)

    def advance(self) -> tuple[list[Rendering], Future[Parts]]:
        """Keep every core busy until some group has its next windows: its songs, their parts.

        The songs still have their slots; `remove` those that are over.
        """
        is_alone = len(self._idle) == 1 and not self._working
        for group in [self._idle[core :: self._free] for core in range(self._free)]:
            if group:
                self._start(group, here=is_alone)
        future = self._cores.first()
        group = self._working.pop(future)
        self._idle += group
        return group, future

    def remove(self, rendering: Rendering) -> None:
        """A song of the group that advanced last leaves its slot to another."""
        self._idle.remove(rendering)

    def clear(self) -> list[Rendering]:
        """Stop all work; the songs that cannot be finished."""
        self._cores.stop()
        songs = list(self)
        self._idle.clear()
        self._working.clear()
        return songs

    @property
    def _free(self) -> int:
        return self._cores.number - len(self._working)

    def _start(self, group: list[Rendering], *, here: bool = False) -> None:
        """Give a core some of the songs that wait."""
        future = self._cores.start(partial(self._render, group), here=here)
        self._working[future] = group
        self._idle = [one for one in self._idle if one not in group]

    def _render(self, group: Sequence[Rendering]) -> Parts:
        def on_progress(progress: Progress) -> None:
            self._cores.check()
            if len(group) == 1:
                _tell(group[0], progress.step / progress.steps)

        parts = self._renderer.advance([one.song for one in group], self._options, on_progress)
        for one in group:
            _tell(one)
        return parts


def _tell(rendering: Rendering, share: float = 0.0) -> None:
    """How far a song is: its windows that are done, and a share of the next one."""
    reading = rendering.song.reading
    if not reading.is_over:
        rendering.task.on_progress(reading.done + share, len(reading))
