"""Renders several tasks at once in this process."""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from spectro_render.audio.audio import AudioWriter
from spectro_render.audio.normalize import NormalizingWriter, album_gain
from spectro_render.audio.stems import StemSpool
from spectro_render.audio.tags import Tags
from spectro_render.batch.cores import let_idle_threads_sleep
from spectro_render.batch.history import checksum
from spectro_render.batch.jobs import Job
from spectro_render.batch.recipe import tags_of
from spectro_render.batch.tasks import Begun, Event, Finished, Settings, Task
from spectro_render.checkpoints.find import fingerprint_of, resolve_model
from spectro_render.constants import WINDOW_SECONDS
from spectro_render.errors import EngineError
from spectro_render.midi.length import part_to_render, with_times
from spectro_render.midi.read import read_midi
from spectro_render.midi.score import About
from spectro_render.options import FULL_BAND_RATE, ModelChoice, Progress
from spectro_render.report import Reporter, as_size

if TYPE_CHECKING:
    from spectro_render.audio.player import Player
    from spectro_render.batch.slots import ActiveSong, Slots
    from spectro_render.checkpoints.manifest import ModelFiles
    from spectro_render.render.renderer import Renderer


# Bytes. A build for CPUs renders with 920 MB on two cores; with 720 MB there is no memory for that.
LEAST_ADDRESS_SPACE = 750_000_000


class LocalEngine:
    """An Engine that uses the cores, or the GPU, of this machine."""

    def __init__(
        self,
        settings: Settings,
        songs: int,
        find_model: Callable[[], ModelFiles],
        player: Player | None = None,
        loading: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """`songs` is the largest number of tasks; the first one loads the model.

        A `player` plays the songs, which are then rendered one after the other. In the context that
        `loading` makes, the first song is read and the model is loaded.
        """
        self._loading = loading
        self.settings, self._player = settings, player
        self.on_progress: Callable[[Task, Progress], None] = lambda task, progress: None
        self._songs = songs
        self._find_model = find_model
        self._events: list[tuple[Task, Event]] = []
        self._slots: Slots | None = None  # None: nothing has begun yet
        self._album: list[ActiveSong] = []  # complete, but written when all are

    @cached_property
    def renderer(self) -> Renderer:
        """The model, loaded when it is first needed. Raises EngineError if PyTorch cannot be."""
        choice = self.settings.model
        _check_address_space()
        with without_collection():
            try:
                from spectro_render.render.renderer import Renderer
            except (ImportError, MemoryError, OSError) as error:
                reason = str(error).partition("\n")[0] or "there is not enough memory"
                hint = "check 'ulimit -v' and the memory, or install PyTorch again"
                raise EngineError(f"PyTorch cannot be loaded: {reason}", hint) from error

            find_model = self._find_model
            return Renderer.load_found(find_model, device=choice.device, dtype=choice.dtype)

    @cached_property
    def size(self) -> int:
        """The number of tasks that can be rendered at once."""
        from spectro_render.batch.slots import best_batch_size

        if self._player is not None:
            return 1
        return min(self._songs, self.settings.batch_size or best_batch_size(self.renderer))

    @property
    def has_room(self) -> bool:
        """Whether one more task may begin."""
        return self._slots is None or self._slots.has_room

    @property
    def is_idle(self) -> bool:
        """Whether every task is over and all events have been returned."""
        return not self._events and not any(self._slots or ())

    def begin(self, task: Task) -> None:
        """Begin a task. Raises MidiError, OptionError or OutputError.

        The first task loads the model, and raises WeightsError or DeviceError if that fails.
        """
        from spectro_render.batch.slots import ActiveSong, Slots

        options, encoding = task.job.options or self.settings.options, self.settings.encoding
        with nullcontext() if "renderer" in vars(self) else self._loading():
            score = read_midi(task.data, options, allow_rests=options.to_end_of_track)
            part_to_render(score, options)  # so that no model is loaded in vain
            _ = self.renderer  # so that loading it does not count as time of the first song
        begun = time.monotonic()
        if options.full_band is None and (encoding.sample_rate or 0) >= FULL_BAND_RATE:
            options = replace(options, full_band=self.renderer.has_band)
        live = task.job.is_streamed or task.job.is_played
        song = self.renderer.begin(score, options, live=live)
        encoder = AudioWriter(
            task.output,
            sample_rate=song.sample_rate,
            out_rate=encoding.sample_rate,
            format=encoding.format,
            bit_depth=encoding.bit_depth,
            dither=encoding.dither,
            quality=encoding.quality,
            length=song.sound.length,
            tags=self._tags(task, score.about),
            channels=song.channels,
            player=self._player,
        )
        writer: AudioWriter | NormalizingWriter = encoder
        if encoding.level is not None:
            song.sound.leave_peaks()
            rate, folder = song.sample_rate, _folder_of(task.job)
            writer = NormalizingWriter(encoder, encoding.level, sample_rate=rate, folder=folder)
        if self._slots is None:
            self._slots = Slots(self.renderer, self.size, lambda *news: self.on_progress(*news))
        spool = StemSpool() if options.stems else None
        self._slots.add(ActiveSong(task, song, writer, begun, encoding, spool=spool))
        start = with_times(score, options).start
        left_out = [
            (start + index * WINDOW_SECONDS, count) for index, count in song.dropped.items()
        ]
        ignored = (*score.ignored, *self.renderer.unheard(score))
        is_whole = self.renderer.checkpoint.vocoder.receptive_field is None
        facts = Begun(len(score.notes), ignored, score.repairs, left_out, is_whole)
        self._events.append((task, facts))

    def _tags(self, task: Task, about: About) -> Tags | None:
        """The tags of a song, if the user wants any and the format has them."""
        if not self.settings.encoding.tags or self.settings.encoding.format == "raw":
            return None
        return tags_of(self.settings, task.job, about, checksum(task.data), self._fingerprint)

    @cached_property
    def _fingerprint(self) -> str:
        return fingerprint_of(self._find_model())

    def advance(self) -> list[tuple[Task, Event]]:
        """Return the events of tasks just begun, or render the next window of some songs."""
        if not self._events and self._slots is not None and any(self._slots):
            self._render(self._slots)
        elif not self._events and self._album:  # no song is left that could still begin
            self._finish_album()
        events, self._events = self._events, []
        return events

    def stop(self) -> None:
        """Give up all tasks that are not over."""
        for active in (*(self._slots.clear() if self._slots is not None else ()), *self._album):
            active.discard()

    def _render(self, slots: Slots) -> None:
        """Render one window of a group. An error of a song fails only that song."""
        group, made = slots.advance()
        for number, active in enumerate(group):
            try:
                part = made.result()[number]
                if isinstance(part, Exception):
                    raise part
                active.write(part)
            except Exception as error:
                active.discard()
                slots.remove(active)
                self._events.append((active.task, error))
                continue
            if active.song.is_over:
                slots.remove(active)
                if self._waits_for_album:
                    self._album.append(active)
                else:
                    self._events.append((active.task, self._finished(active)))

    @property
    def _waits_for_album(self) -> bool:
        level = self.settings.encoding.level
        return level is not None and level.kind == "album"

    def _finish_album(self) -> None:
        """Write the songs of an album. If one of them cannot be written, the others are."""
        level = self.settings.encoding.level
        assert level is not None
        album, self._album = self._album, []
        writers = [each.writer for each in album if isinstance(each.writer, NormalizingWriter)]
        gain, remark = album_gain(level, writers)
        for active, writer in zip(album, writers, strict=True):
            try:
                writer.finish_album(gain, remark)
            except Exception as error:
                active.discard()
                self._events.append((active.task, error))
            else:
                self._events.append((active.task, self._finished(active)))

    def _finished(self, active: ActiveSong) -> Finished:
        return Finished(
            seconds=active.seconds,
            wall_seconds=time.monotonic() - active.begun,
            beside=self.size - 1,
            model=self.renderer.name,
            device=str(self.renderer.device),
            sample_rate=self.settings.encoding.sample_rate or active.song.sample_rate,
            sampling=active.song.sampling if self.renderer.has_sampler else None,
            level=getattr(active.writer, "result", None),
        )


def _folder_of(job: Job) -> Path | None:
    """The folder of a job's output, for files that are as large; None if there is none here."""
    folder = job.target.parent if job.target is not None else None
    return folder if folder is not None and os.access(folder, os.W_OK) else None


def make_engine(settings: Settings, cores: int) -> LocalEngine:
    """Make an engine on `cores` cores of this machine, and load the model."""
    let_idle_threads_sleep()
    import torch

    torch.set_num_threads(cores)
    engine = LocalEngine(settings, sys.maxsize, partial(find_model, settings.model))
    _ = engine.renderer
    return engine


def find_model(choice: ModelChoice) -> ModelFiles:
    """Find the model on this machine, without messages on standard error."""
    timbres = ((each.program, each.file) for each in choice.timbres)
    return resolve_model(choice.name, choice.vocoder, Reporter(quiet=True), timbres)


def _check_address_space() -> None:
    """Raise EngineError if the limit (ulimit -v) is too low for PyTorch, which might abort."""
    if sys.platform == "win32":
        return
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < LEAST_ADDRESS_SPACE:
        message = f"the limit on address space is {as_size(limit)}, too little for PyTorch"
        raise EngineError(message, "raise it with 'ulimit -v'")


@contextmanager
def without_collection() -> Iterator[None]:
    """Switch garbage collection off, which makes the import of torch a seventh faster.

    The import makes hundreds of thousands of objects, among which Python would repeatedly look for
    garbage. They are needed until the end, so they are excluded from later collections, too.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
