"""Runs several songs at once: each CPU core renders the next window of a group of songs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from spectro_render.audio.audio import Audio, AudioWriter
from spectro_render.audio.normalize import NormalizingWriter
from spectro_render.audio.stems import StemSpool
from spectro_render.batch.cores import Cores
from spectro_render.batch.tasks import Task, discard
from spectro_render.errors import OutputError
from spectro_render.options import Encoding, Progress

if TYPE_CHECKING:
    from spectro_render.render.renderer import Renderer
    from spectro_render.render.song import Song

BATCH_SIZE = 8
# A network with more weights keeps a CPU busy with one song.
MOST_WEIGHTS = 50_000_000


def usable_cores(renderer: Renderer) -> int:
    """The number of CPU cores that render songs independently; 1 on a GPU."""
    import torch

    return torch.get_num_threads() if renderer.device.type == "cpu" else 1


def best_batch_size(renderer: Renderer) -> int:
    """The number of songs to render at once, as measured (see docs/speed.md).

    A network of the published size keeps a CPU busy with one song.
    """
    weights = sum(parameter.numel() for parameter in renderer.checkpoint.model.parameters())
    if renderer.device.type == "cpu" and weights > MOST_WEIGHTS:
        return 1
    return max(BATCH_SIZE, 2 * usable_cores(renderer))


@dataclass(eq=False)
class ActiveSong:
    """A task whose song is being rendered."""

    task: Task
    song: Song
    writer: AudioWriter | NormalizingWriter
    begun: float  # time.monotonic()
    encoding: Encoding
    seconds: float = 0.0  # sound so far
    spool: StemSpool | None = None  # of the stems, if they are wanted

    def write(self, part: Audio) -> None:
        """Append a part to the output; after the last part, the output gets its name."""
        self.writer.write(part.samples)
        self.seconds += part.seconds
        if self.spool is not None:
            self.spool.add(self.song.stems)
        if self.song.is_over and self.spool is not None:
            assert isinstance(self.writer, AudioWriter)  # stems keep their level
            self.writer.finish()
            self._append_stems(self.spool)
            self.task.output.commit()
        elif self.song.is_over:
            self.writer.close()

    def _append_stems(self, spool: StemSpool) -> None:
        target = self.task.job.target
        rate = self.encoding.sample_rate or self.song.sample_rate
        facts = {
            "mix": target.name if target else None,
            "sample_rate": rate,
            "seconds": round(self.seconds, 4),
        }
        stems = [
            {
                "file": part.file_name,
                "number": part.number,
                "name": part.name,
                "instrument": part.instrument,
                "channels": [channel % 16 + 1 for channel in part.channels],
                "ports": sorted({channel // 16 for channel in part.channels}),
                "tracks": [track + 1 for track in part.tracks],
                "notes": part.n_notes,
            }
            for part in self.song.parts
        ]
        song = self.song
        spool.append_to(
            *(self.task.output, self.encoding, song.sample_rate, song.channels, stems, facts)
        )
        spool.close()

    def discard(self) -> None:
        """Remove the incomplete output."""
        if self.spool is not None:
            self.spool.close()
        with suppress(OSError, OutputError):
            self.writer.discard()
        discard(self.task.output)

    def progress(self, share: float = 0.0) -> Progress:
        """The progress of the song, when `share` of its next window is done."""
        return self.song.progress(share)


Parts = list[Audio | Exception]  # the new final part of each song in a group, or its error


class Slots:
    """The songs that are being rendered, in groups: one group per core, one batch per group.

    While a group is computed, other songs are read and the parts of finished groups are written.
    """

    def __init__(
        self, renderer: Renderer, size: int, on_progress: Callable[[Task, Progress], None]
    ) -> None:
        """`size` is the largest number of songs; `on_progress` is called from any thread."""
        self.size = size
        self._renderer = renderer
        self._on_progress = on_progress
        self._cores: Cores[Parts] = Cores(min(usable_cores(renderer), size))
        self._share = -(-size // self._cores.number)  # songs per group
        self._idle: list[ActiveSong] = []
        self._working: dict[Future[Parts], list[ActiveSong]] = {}

    def __iter__(self) -> Iterator[ActiveSong]:
        yield from self._idle
        for group in self._working.values():
            yield from group

    @property
    def has_room(self) -> bool:
        """Whether one more song fits."""
        return sum(1 for _ in self) < self.size

    def add(self, song: ActiveSong) -> None:
        """Add a song, which is rendered with the next group that starts."""
        self._idle.append(song)
        if self._free and len(self._idle) >= self._share:
            self._start(self._idle)

    def advance(self) -> tuple[list[ActiveSong], Future[Parts]]:
        """Keep all cores busy until a group has rendered its windows; returns its songs and parts.

        The songs keep their slots until they are removed by `remove`.
        """
        is_alone = len(self._idle) == 1 and not self._working
        for group in [self._idle[core :: self._free] for core in range(self._free)]:
            if group:
                self._start(group, here=is_alone)
        future = self._cores.first()
        group = self._working.pop(future)
        self._idle += group
        return group, future

    def remove(self, song: ActiveSong) -> None:
        """Free the slot of a song in the group that `advance` returned last."""
        self._idle.remove(song)

    def cancel(self) -> None:
        """Cancel all work, from any thread: `advance` or its future raises Cancelled."""
        self._cores.cancel()

    def clear(self) -> list[ActiveSong]:
        """Stop all work, and return the songs that are not finished."""
        self._cores.stop()
        songs = list(self)
        self._idle.clear()
        self._working.clear()
        return songs

    @property
    def _free(self) -> int:
        return self._cores.number - len(self._working)

    def _start(self, group: list[ActiveSong], *, here: bool = False) -> None:
        """Start the next window of some idle songs on a free core."""
        future = self._cores.start(partial(self._render, group), here=here)
        self._working[future] = group
        self._idle = [song for song in self._idle if song not in group]

    def _render(self, group: Sequence[ActiveSong]) -> Parts:
        def on_progress(progress: Progress) -> None:
            self._cores.check()
            if len(group) == 1:
                self._on_progress(group[0].task, progress)

        parts = self._renderer.try_advance([active.song for active in group], on_progress)
        for active in group:
            if not active.song.is_over:
                self._on_progress(active.task, active.progress())
        return parts
