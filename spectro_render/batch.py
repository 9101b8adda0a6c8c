"""Renders jobs one after the other; what goes wrong with one does not stop the others."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from spectro_render.audio import AudioWriter
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
    from spectro_render.render import Renderer, RenderOptions
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
    _failures: int = field(default=0, init=False)

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
        for position, job in enumerate(jobs):
            try:
                self._attempt(job)
            except (WeightsError, DeviceError) as error:  # no other song would fare better
                complain(str(error))
                for unreached in jobs[position:]:
                    self._record_failure(unreached, error)
                break
        return self._failures + self.reporter.is_cut_off

    def _attempt(self, job: Job) -> None:
        """Render one job, or say why not."""
        try:
            self._skip_or_render(job)
        except (BrokenPipeError, WeightsError, DeviceError):
            raise
        except (SpectroRenderError, OSError) as error:
            self._fail(job, error)
        except Exception as error:
            if not self.keeps_going:
                raise
            traceback.print_exc()
            self._fail(job, error)

    def _skip_or_render(self, job: Job) -> None:
        if job.is_complete and not (job.is_explicit or self.force):
            self.reporter.say(f"{job.name}: {job.target} is there already; --force renders again")
            self.reporter.record({"status": "skipped", **_names(job)})
            return
        score = _read(job)
        windows = self._windows(score)
        self._tell_about(job, score, windows)
        started = time.monotonic()
        seconds = self._render(job, score, windows)
        self._finish(job, score, seconds, time.monotonic() - started)

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

    def _render(self, job: Job, score: Score, windows: Sequence[TokenWindow]) -> float:
        """Render into the job's output; the seconds of sound that were made."""
        target = _prepare_target(job) or self.stream
        assert target is not None
        renderer = self.renderer
        samples = 0  # of each channel
        with (
            AudioWriter(
                target,
                sample_rate=renderer.sample_rate,
                out_rate=self.encoding.sample_rate,
                format=self.encoding.format,
                bit_depth=self.encoding.bit_depth,
            ) as writer,
            self.reporter.progress(job.name) as on_progress,
        ):
            for chunk in renderer.stream(
                score, self.options, windows=windows, on_progress=on_progress
            ):
                writer.write(chunk.samples)
                samples += chunk.samples.shape[-1]
        return float(samples / renderer.sample_rate)

    def _finish(self, job: Job, score: Score, seconds: float, wall_seconds: float) -> None:
        """Say and record what was made."""
        factor = times_real_time(seconds, wall_seconds)
        names = _names(job)
        self.reporter.say(
            f"{job.name} -> {names['output']}: {seconds:.2f} s of sound"
            f" in {wall_seconds:.2f} s ({factor:.2f} times real time)"
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
