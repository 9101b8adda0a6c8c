"""Renders jobs, some side by side; what goes wrong with one does not stop the others."""

from __future__ import annotations

import gc
import os
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from spectro_render.audio import Audio, AudioWriter
from spectro_render.constants import WINDOW_SECONDS
from spectro_render.destination import sweep
from spectro_render.errors import (
    DeviceError,
    OutputBusy,
    SpectroRenderError,
    WeightsError,
)
from spectro_render.jobs import STREAM, Job
from spectro_render.midi import Score, read_midi
from spectro_render.report import Reporter, complain, count, reason_of, times_real_time
from spectro_render.resume import History, checksum

if TYPE_CHECKING:
    from spectro_render.render import Renderer, RenderOptions
    from spectro_render.report import OnSongs
    from spectro_render.slots import Rendering, Slots
    from spectro_render.song import Song
    from spectro_render.tokens import TokenWindow


@dataclass(frozen=True)
class Encoding:
    """How the sound is written."""

    format: str
    bit_depth: str | None = None  # None: the format's own
    sample_rate: int | None = None  # Hz; None: the model's


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
    folder: Path | None = None  # that all outputs go to; it remembers how they were made
    _slots: Slots | None = field(default=None, init=False)  # None: no song has been read yet
    _counts: Counter[str] = field(default_factory=Counter, init=False)  # of each status
    _bar: ExitStack = field(default_factory=ExitStack, init=False)  # of all songs
    _tell: OnSongs | None = field(default=None, init=False)
    _seconds: float = field(default=0.0, init=False)  # of sound so far
    _history: History | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        """Look at what the folder remembers, once that is asked for."""
        if self.folder is not None:
            settings = {name: self.model.get(name) for name in ("dtype", "vocoder")}
            settings |= {**asdict(self.encoding), **self.choices}
            self._history = History(self.folder, settings, self._fingerprint)

    def _fingerprint(self) -> str:
        from spectro_render.weights import fingerprint_of

        chosen = {name: self.model.get(name) for name in ("model", "vocoder", "quiet")}
        return fingerprint_of(
            **{name: value for name, value in chosen.items() if value is not None}
        )

    @cached_property
    def renderer(self) -> Renderer:
        """The model, loaded when the first song needs it."""
        with _without_collection():
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
        begin = time.monotonic()
        try:
            with self._bar:
                while waiting or any(self._active):
                    self._fill(waiting, len(jobs))
                    self._advance()
                    self._on_songs(len(jobs) - len(waiting))
            if len(jobs) > 1:
                self.reporter.say(self._summary(time.monotonic() - begin))
        except (WeightsError, DeviceError) as error:  # no other song would fare better
            complain(str(error))
            for rendering in self._clear(error):
                self._record_failure(rendering.job, error)
            for job in waiting:
                self._record_failure(job, error)
        except BaseException as error:
            self._clear(error)
            raise
        finally:
            if self._history is not None:
                self._history.close()
                sweep(self._history.folder)
        return self._counts["failed"] + self.reporter.is_cut_off

    @property
    def _active(self) -> Iterable[Rendering]:
        return self._slots or ()

    def _fill(self, waiting: deque[Job], jobs: int) -> None:
        """Begin the songs of waiting jobs until every slot is taken."""
        while waiting and (self._slots is None or self._slots.has_room):
            self._attempt(waiting[0], partial(self._begin, waiting[0], jobs))
            waiting.popleft()

    def _advance(self) -> None:
        """Write the next parts of the songs that have some first."""
        if self._slots is None or not any(self._slots):
            return
        group, made = self._slots.advance()
        error = made.exception()
        if error is not None:
            self._give_up(error)
            for rendering in group:
                self._drop(rendering, error)
            return
        for rendering, part in zip(group, made.result(), strict=True):
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
        except Exception as error:
            self._give_up(error)
            if rendering is not None:
                self._drop(rendering, error)
            else:
                self._fail(job, error)

    def _give_up(self, error: BaseException) -> None:
        """Raise what no other song would survive, or a bug of this program, or show it."""
        if isinstance(error, (BrokenPipeError, WeightsError, DeviceError)):
            raise error
        if isinstance(error, (SpectroRenderError, OSError)):
            return
        if not (self.keeps_going and isinstance(error, Exception)):
            raise error
        traceback.print_exception(error)

    def _drop(self, rendering: Rendering, error: BaseException) -> None:
        """A song that cannot be finished leaves its slot."""
        assert self._slots is not None
        self._slots.remove(rendering)
        rendering.discard(error)
        self._fail(rendering.job, error)

    def _clear(self, error: BaseException) -> list[Rendering]:
        """Stop all songs on their way; those."""
        unfinished = self._slots.clear() if self._slots is not None else []
        for rendering in unfinished:
            rendering.discard(error)
        return unfinished

    def _begin(self, job: Job, jobs: int) -> None:
        """Give the job's song a slot, unless its output is there already."""
        was_complete = job.is_complete
        is_kept = was_complete and not (job.is_explicit or self.force)
        data = self._outdated(job) if is_kept else job.read()
        if data is None:
            self._skip(job, f"{job.target} is there already; --force renders again")
            return
        score = read_midi(data)
        windows = self._windows(score)
        if self._slots is None:
            self._slots = self._make_slots(jobs)
        song = self.renderer.begin(score, self.options, windows=windows, live=job.is_streamed)
        try:
            rendering = self._open(job, score, checksum(data), song)
        except OutputBusy:
            if job.is_explicit:
                raise
            self._skip(job, f"another run is writing {job.target}")
            return
        if job.is_complete and not (was_complete or job.is_explicit):  # which was faster
            rendering.discard(OutputBusy("made by another run"))
            self._skip(job, f"another run has written {job.target}")
            return
        self._tell_about(job, score, windows)
        self._slots.add(rendering)

    def _outdated(self, job: Job) -> bytes | None:
        """The input, if the output was made from another one or in another way, else None."""
        if self._history is None or job.target is None or not self._history.knows(job.target):
            return None
        data = job.read()
        return data if self._history.is_outdated(job.target, checksum(data)) else None

    def _skip(self, job: Job, why: str) -> None:
        self.reporter.say(f"{job.name}: {why}")
        self._record(job, {"status": "skipped", **_names(job)})

    def _make_slots(self, jobs: int) -> Slots:
        from spectro_render.slots import Slots

        slots = Slots(
            self.renderer, self.options, min(jobs, self.batch_size or self.renderer.batch_size)
        )
        if slots.size > 1:
            self._tell = self._bar.enter_context(self.reporter.songs(jobs))
        return slots

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

    def _open(self, job: Job, score: Score, sha256: str, song: Song) -> Rendering:
        """Open the job's output, and a progress bar where no other song is rendered beside it."""
        from spectro_render.slots import Rendering

        target = job.prepare_target() or self.stream
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
            bar = None
            if self._slots is not None and self._slots.size == 1:
                bar = opened.enter_context(self.reporter.progress(job.name))
            return Rendering(job, score, sha256, song, writer, opened.pop_all(), bar)

    def _write(self, rendering: Rendering, part: Audio) -> None:
        assert self._slots is not None
        rendering.write(part)
        self._seconds += part.seconds
        if rendering.song.is_over:
            self._finish(rendering, others=self._slots.size - 1)
            self._slots.remove(rendering)

    def _finish(self, rendering: Rendering, *, others: int) -> None:
        """Say and record what was made."""
        job, score, seconds = rendering.job, rendering.score, rendering.seconds
        wall_seconds = time.monotonic() - rendering.started
        factor = times_real_time(seconds, wall_seconds)
        names = _names(job)
        beside = f" beside {count(others, 'other')}" if others else ""
        self.reporter.say(
            f"{job.name} -> {names['output']}: {seconds:.2f} s of sound"
            f" in {wall_seconds:.2f} s ({factor:.2f} times real time){beside}"
        )
        self._record(
            job,
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
            },
            rendering.sha256,
        )

    def _fail(self, job: Job, error: BaseException) -> None:
        complain(f"{job.name}: {_reason(error)}")
        self._record_failure(job, error)

    def _record_failure(self, job: Job, error: BaseException) -> None:
        self._record(job, {"status": "failed", **_names(job), "error": _reason(error)})

    def _record(self, job: Job, fields: dict[str, Any], sha256: str | None = None) -> None:
        """One more result: for whoever asked for JSON, and for a later run."""
        self._counts[fields["status"]] += 1
        self.reporter.record(fields)
        if fields["status"] == "skipped" or job.target is None:
            return
        if self._history is None or not os.path.isdir(self._history.folder):
            return
        try:
            self._history.add(job.target, sha256, fields)
        except OSError as error:
            complain(f"{self._history.path}: cannot write: {reason_of(error)}")
            self._history.close()
            self._history = None
            self._counts["failed"] += 1  # a later run will know too little

    def _summary(self, wall_seconds: float) -> str:
        """How many songs became what."""
        results = ("rendered", "skipped", "failed")
        counts = ", ".join(f"{self._counts[name]} {name}" for name in results if self._counts[name])
        if not self._seconds:
            return counts
        factor = times_real_time(self._seconds, wall_seconds)
        return (
            f"{counts}: {self._seconds:.1f} s of sound in {wall_seconds:.1f} s"
            f" ({factor:.1f} times real time)"
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


def _names(job: Job) -> dict[str, str | None]:
    target = str(job.target) if job.target else None
    return {"input": job.name, "output": STREAM if job.is_streamed else target}


def _reason(error: BaseException) -> str:
    """What, why and what to do, in one line."""
    if isinstance(error, SpectroRenderError):
        return str(error)
    if isinstance(error, OSError):
        return reason_of(error)
    return f"{type(error).__name__}: {error}"
