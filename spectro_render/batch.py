"""Renders jobs, some side by side; what goes wrong with one does not stop the others."""

from __future__ import annotations

import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from spectro_render.audio import Audio, AudioWriter
from spectro_render.constants import WINDOW_SECONDS
from spectro_render.errors import (
    DeviceError,
    MidiError,
    OutputError,
    SpectroRenderError,
    WeightsError,
)
from spectro_render.jobs import STREAM, Job
from spectro_render.midi import Score, read_midi
from spectro_render.report import Reporter, complain, count, reason_of, times_real_time

if TYPE_CHECKING:
    from spectro_render.render import OnProgress, Renderer, RenderOptions
    from spectro_render.report import OnSongs
    from spectro_render.song import Song
    from spectro_render.tokens import TokenWindow


@dataclass(frozen=True)
class Encoding:
    """How the sound is written."""

    format: str
    bit_depth: str | None = None  # None: the format's own
    sample_rate: int | None = None  # Hz; None: the model's


@dataclass(eq=False)
class Rendering:
    """A job whose song is on its way."""

    job: Job
    score: Score
    song: Song
    writer: AudioWriter
    opened: ExitStack  # the writer and, for a song by itself, its progress bar
    on_progress: OnProgress | None
    started: float = field(default_factory=time.monotonic)
    seconds: float = 0.0  # of sound so far

    def write(self, part: Audio) -> None:
        """Append to the output, which gets its name with the last part."""
        self.writer.write(part.samples)
        self.seconds += part.seconds
        if self.song.is_over:
            self.opened.close()

    def discard(self, error: BaseException) -> None:
        """Leave nothing of an output that is not complete."""
        with suppress(OSError, OutputError):  # what is wrong has been said already
            self.opened.__exit__(type(error), error, error.__traceback__)


@dataclass
class Batch:
    """What all jobs of one command share."""

    model: dict[str, Any]  # for Renderer.load
    choices: dict[str, Any]  # for RenderOptions: what the user chose
    encoding: Encoding
    reporter: Reporter
    stream: BinaryIO | None = None  # for the job that has no file to write to
    force: bool = False  # render again what is complete
    keeps_going: bool = False  # after a bug in this program, too
    batch_size: int | None = None  # songs side by side; None: what suits the model
    _active: list[Rendering] = field(default_factory=list, init=False)
    _failures: int = field(default=0, init=False)
    _slots: int = field(default=1, init=False)
    _bar: ExitStack = field(default_factory=ExitStack, init=False)  # of all songs
    _tell: OnSongs | None = field(default=None, init=False)
    _seconds: float = field(default=0.0, init=False)  # of sound so far

    @cached_property
    def renderer(self) -> Renderer:
        """The model, loaded when the first song needs it."""
        from spectro_render.render import Renderer

        return Renderer.load(**self.model)

    @cached_property
    def options(self) -> RenderOptions:
        """How to render; what the user left open is the model's to say."""
        from spectro_render.render import RenderOptions

        return RenderOptions(**self.choices)

    def run(self, jobs: Sequence[Job]) -> int:
        """Render all jobs; the number of failures."""
        waiting = deque(jobs)
        try:
            with self._bar:
                while waiting or self._active:
                    self._fill(waiting, len(jobs))
                    self._advance()
                    self._on_songs(len(jobs) - len(waiting))
        except (WeightsError, DeviceError) as error:  # no other song would fare better
            complain(str(error))
            self._drop(error)
            for job in waiting:
                self._record_failure(job, error)
        except BaseException as error:
            for rendering in self._active:
                rendering.discard(error)
            raise
        return self._failures + self.reporter.is_cut_off

    def _fill(self, waiting: deque[Job], jobs: int) -> None:
        """Begin the songs of waiting jobs until every slot is taken."""
        while waiting and len(self._active) < self._slots:
            self._attempt(waiting[0], partial(self._begin, waiting[0], jobs))
            waiting.popleft()

    def _advance(self) -> None:
        """Render the next window of every song that is on its way."""
        if not self._active:
            return
        try:
            parts = self.renderer.advance(
                [rendering.song for rendering in self._active],
                self.options,
                self._active[0].on_progress,
            )
        except (BrokenPipeError, WeightsError, DeviceError):
            raise
        except Exception as error:
            self._give_up(error)
            self._drop(error)
            return
        for rendering, part in zip(tuple(self._active), parts, strict=True):
            self._attempt(rendering.job, partial(self._write, rendering, part), rendering)

    def _on_songs(self, begun: int) -> None:
        """Move the bar of all songs, where there is one."""
        if self._tell is not None:
            readings = [rendering.song.reading for rendering in self._active]
            missing = sum(1 - reading.done / len(reading) for reading in readings)
            self._tell(begun - missing, self._seconds)

    def _attempt(
        self, job: Job, action: Callable[[], None], rendering: Rendering | None = None
    ) -> None:
        """Do something for one job, or say why not; what it has written so far is gone then."""
        try:
            action()
        except (BrokenPipeError, WeightsError, DeviceError):
            raise
        except Exception as error:
            self._give_up(error)
            if rendering is not None:
                self._active.remove(rendering)
                rendering.discard(error)
            self._fail(job, error)

    def _give_up(self, error: Exception) -> None:
        """Raise a bug of this program, or show it and go on."""
        if isinstance(error, (SpectroRenderError, OSError)):
            return
        if not self.keeps_going:
            raise error
        traceback.print_exception(error)

    def _drop(self, error: Exception) -> None:
        """No song on its way can be finished."""
        for rendering in self._active:
            rendering.discard(error)
            self._fail(rendering.job, error)
        self._active.clear()

    def _begin(self, job: Job, jobs: int) -> None:
        """Give the job's song a slot, unless its output is there already."""
        if job.is_complete and not (job.is_explicit or self.force):
            self.reporter.say(f"{job.name}: {job.target} is there already; --force renders again")
            self.reporter.record({"status": "skipped", **_names(job)})
            return
        score = _read(job)
        windows = self._windows(score)
        self._slots = min(jobs, self.batch_size or self.renderer.batch_size)
        if self._slots > 1 and self._tell is None:
            self._tell = self._bar.enter_context(self.reporter.songs(jobs))
        self._tell_about(job, score, windows)
        song = self.renderer.begin(score, self.options, windows=windows, live=job.is_streamed)
        self._active.append(self._open(job, score, song))

    def _windows(self, score: Score) -> list[TokenWindow]:
        """What the model will read; raises what would stop it before an output is opened."""
        from spectro_render.render import section

        options = self.renderer.resolve(self.options)
        return self.renderer.windows(section(score, options.start, options.duration), options)

    def _tell_about(self, job: Job, score: Score, windows: Sequence[TokenWindow]) -> None:
        """Say once what will not be heard."""
        if score.repairs:
            self.reporter.say(f"{job.name}: repaired: {'; '.join(score.repairs)}")
        if score.ignored:
            self.reporter.say(f"{job.name}: ignored: {', '.join(score.ignored)}")
        for window in windows:
            if window.dropped:
                at = self.options.start + window.index * WINDOW_SECONDS
                self.reporter.say(
                    f"{job.name}: too dense at {at:.2f} s: {count(window.dropped, 'note')} left out"
                )

    def _open(self, job: Job, score: Score, song: Song) -> Rendering:
        """Open the job's output, and a progress bar where no other song is rendered beside it."""
        target = _prepare_target(job) or self.stream
        assert target is not None
        with ExitStack() as opened:
            writer = opened.enter_context(
                AudioWriter(
                    target,
                    sample_rate=self.renderer.sample_rate,
                    out_rate=self.encoding.sample_rate,
                    format=self.encoding.format,
                    bit_depth=self.encoding.bit_depth,
                )
            )
            is_alone = self._slots == 1
            bar = opened.enter_context(self.reporter.progress(job.name)) if is_alone else None
            return Rendering(job, score, song, writer, opened.pop_all(), bar)

    def _write(self, rendering: Rendering, part: Audio) -> None:
        rendering.write(part)
        self._seconds += part.seconds
        if rendering.song.is_over:
            self._finish(rendering)
            self._active.remove(rendering)

    def _finish(self, rendering: Rendering) -> None:
        """Say and record what was made."""
        job, score, seconds = rendering.job, rendering.score, rendering.seconds
        wall_seconds = time.monotonic() - rendering.started
        factor = times_real_time(seconds, wall_seconds)
        names = _names(job)
        beside = f" beside {self._slots - 1} others" if self._slots > 1 else ""
        self.reporter.say(
            f"{job.name} -> {names['output']}: {seconds:.2f} s of sound"
            f" in {wall_seconds:.2f} s ({factor:.2f} times real time){beside}"
        )
        self.reporter.record(
            {
                "status": "rendered",
                **names,
                "seconds": round(seconds, 4),
                "wall_seconds": round(wall_seconds, 4),
                "real_time_factor": round(factor, 4),
                "notes": len(score.notes),
                "ignored": score.ignored,
                "repairs": score.repairs,
                "model": self.renderer.name,
                "device": str(self.renderer.device),
                "format": self.encoding.format,
                "sample_rate": self.encoding.sample_rate or self.renderer.sample_rate,
            }
        )

    def _fail(self, job: Job, error: Exception) -> None:
        complain(f"{job.name}: {_reason(error)}")
        self._record_failure(job, error)

    def _record_failure(self, job: Job, error: Exception) -> None:
        self._failures += 1
        self.reporter.record({"status": "failed", **_names(job), "error": _reason(error)})


def _names(job: Job) -> dict[str, str | None]:
    target = str(job.target) if job.target else None
    return {"input": job.name, "output": STREAM if job.is_streamed else target}


def _reason(error: Exception) -> str:
    """What, why and what to do, in one line."""
    if isinstance(error, SpectroRenderError):
        return str(error)
    if isinstance(error, OSError):
        return reason_of(error)
    return f"{type(error).__name__}: {error}"


def _read(job: Job) -> Score:
    """The notes of the job's input; raises MidiError."""
    if job.source is None:
        return read_midi(sys.stdin.buffer)
    if job.problem:
        raise MidiError(job.problem)
    return read_midi(job.source)


def _prepare_target(job: Job) -> Path | None:
    """The file to write; makes the folders of one that the user did not name in full."""
    if job.target and not job.is_explicit:
        _make_folder(job.target.parent)
    return job.target


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = reason_of(error)
        raise OutputError(
            f"{folder}: cannot make the folder: {reason}", "choose another"
        ) from error
