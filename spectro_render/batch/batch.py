"""Hands jobs to an engine, says and remembers what became of them; one failure stops no other."""

from __future__ import annotations

import os
import time
import traceback
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from spectro_render.atomic import sweep
from spectro_render.audio.destination import Destination, open_destination
from spectro_render.batch.engine import Engine
from spectro_render.batch.history import History, checksum
from spectro_render.batch.jobs import STREAM, Job
from spectro_render.batch.tasks import Begun, Event, Finished, Settings, Task
from spectro_render.errors import (
    DeviceError,
    EngineError,
    OutputBusy,
    SpectroRenderError,
    WeightsError,
    reason_of,
)
from spectro_render.report import Reporter, SongBars, complain, count, times_real_time

MOST_SHOWN = 10  # failures, at the end
_FATAL = (WeightsError, DeviceError, EngineError)  # no other song would fare better


@dataclass
class Batch:
    """The jobs of one command."""

    settings: Settings
    engine: Engine
    reporter: Reporter
    stream: BinaryIO | None = None  # for the job that has no file to write to
    force: bool = False  # render again what is complete
    keeps_going: bool = False  # after a bug in this program, too
    folder: Path | None = None  # that all outputs go to; it remembers how they were made
    _tasks: dict[Task, Begun | None] = field(default_factory=dict, init=False)  # under way
    _counts: Counter[str] = field(default_factory=Counter, init=False)  # of each status
    _failures: list[tuple[str, str]] = field(default_factory=list, init=False)  # the first
    _seconds: float = field(default=0.0, init=False)  # of sound so far
    _bars: SongBars = field(default_factory=SongBars, init=False)
    _history: History | None = field(default=None, init=False)
    _shown: Exception | None = field(default=None, init=False)  # the last bug

    def __post_init__(self) -> None:
        """Look at what the folder remembers, once that is asked for."""
        if self.folder is not None:
            settings = self.settings
            self._history = History(self.folder, settings.origin, settings.fingerprint)

    def run(self, jobs: Sequence[Job]) -> int:
        """Render all jobs; the number of failures."""
        waiting = deque(jobs)
        begin = time.monotonic()
        try:
            with self.reporter.songs(len(jobs)) as self._bars:
                self._fill(waiting)
                while self._tasks:
                    for task, event in self.engine.advance():
                        self._hear(task, event)
                    self._fill(waiting)
            if len(jobs) > 1:
                text = self._summary(time.monotonic() - begin)
                self.reporter.summary(self._results, self._failures, text)
        except _FATAL as error:
            complain(str(error))
            for job in (*(task.job for task in self._tasks), *waiting):
                self._record_failure(job, error)
        finally:
            self.engine.stop()
            if self._history is not None:
                self._history.close()
                sweep(self._history.folder)
        return self._counts["failed"] + self.reporter.is_cut_off

    def _fill(self, waiting: deque[Job]) -> None:
        """Begin waiting jobs until the engine has its hands full."""
        while waiting and self.engine.has_room:
            job = waiting[0]
            try:
                self._begin(job)
            except Exception as error:
                self._give_up(error)
                self._fail(job, error)
            waiting.popleft()

    def _begin(self, job: Job) -> None:
        """Give the engine a job, unless its output is there already."""
        was_complete = job.is_complete
        is_kept = was_complete and not (job.is_explicit or self.force)
        data = self._outdated(job) if is_kept else job.read()
        if data is None:
            self._skip(job, f"{job.target} is there already; --force renders again")
            return
        task = Task(job, data, partial(self._open, job, was_complete))
        task.on_progress = partial(self._bars.show, job, job.name)
        try:
            self.engine.begin(task)
        except OutputBusy as error:
            if job.is_explicit:
                raise
            self._skip(job, error.message.removeprefix(f"{job.target}: "))
        else:
            self._tasks[task] = None

    def _outdated(self, job: Job) -> bytes | None:
        """The input, if the output was made from another one or in another way, else None."""
        if self._history is None or job.target is None or not self._history.knows(job.target):
            return None
        data = job.read()
        return data if self._history.is_outdated(job.target, checksum(data)) else None

    def _open(self, job: Job, was_complete: bool) -> Destination:
        """Take a job's output; raises OutputBusy if another run has done that meanwhile."""
        target = job.prepare_target() or self.stream
        assert target is not None
        destination = open_destination(target)
        if job.is_complete and not (was_complete or job.is_explicit):  # which was faster
            destination.discard()
            raise OutputBusy(f"{job.target}: another run has written it")
        return destination

    def _hear(self, task: Task, event: Event) -> None:
        """Do what an event asks for."""
        if isinstance(event, Begun):
            self._tasks[task] = event
            self._tell_about(task.job, event)
            return
        if isinstance(event, Finished):
            self._finish(task, self._tasks.pop(task), event)
        else:
            self._give_up(event)
            del self._tasks[task]
            self._fail(task.job, event)

    def _give_up(self, error: Exception) -> None:
        """Raise what no other song would survive, or a bug of this program, or show it."""
        if isinstance(error, (BrokenPipeError, *_FATAL)):
            raise error
        if isinstance(error, (SpectroRenderError, OSError)):
            return
        if not self.keeps_going:
            raise error
        if error is not self._shown:  # several songs may have met it together
            traceback.print_exception(error)
            self._shown = error

    def _tell_about(self, job: Job, begun: Begun) -> None:
        """Say once what will not be heard."""
        if begun.repairs:
            self.reporter.say(f"{job.name}: repaired: {'; '.join(begun.repairs)}")
        if begun.ignored:
            self.reporter.say(f"{job.name}: ignored: {', '.join(begun.ignored)}")
        for seconds, notes in begun.left_out:
            self.reporter.say(
                f"{job.name}: too dense at {seconds:.2f} s: {count(notes, 'note')} left out"
            )

    def _finish(self, task: Task, begun: Begun | None, made: Finished) -> None:
        """Say and record what was made."""
        assert begun is not None
        self._seconds += made.seconds
        self._bars.hide(task.job, made.seconds)
        names = _names(task.job)
        factor = times_real_time(made.seconds, made.wall_seconds)
        beside = f" beside {count(made.beside, 'other')}" if made.beside else ""
        self.reporter.say(
            f"{task.job.name} -> {names['output']}: {made.seconds:.2f} s of sound"
            f" in {made.wall_seconds:.2f} s ({factor:.2f} times real time){beside}"
        )
        self._record(
            task.job,
            {
                "status": "rendered",
                **names,
                "seconds": round(made.seconds, 4),
                "wall_seconds": round(made.wall_seconds, 4),
                "real_time_factor": round(factor, 4),
                "notes": begun.notes,
                "ignored": begun.ignored,
                "repairs": begun.repairs,
                "model": made.model,
                "device": made.device,
                **({"host": made.host} if made.host else {}),
                "format": self.settings.encoding.format,
                "sample_rate": made.sample_rate,
            },
            checksum(task.data),
        )

    def _skip(self, job: Job, why: str) -> None:
        self._bars.hide(job)
        self.reporter.say(f"{job.name}: {why}")
        self._record(job, {"status": "skipped", **_names(job)})

    def _fail(self, job: Job, error: Exception) -> None:
        self._bars.hide(job)
        complain(f"{job.name}: {_reason(error)}")
        self._record_failure(job, error)

    def _record_failure(self, job: Job, error: Exception) -> None:
        if len(self._failures) < MOST_SHOWN:
            self._failures.append((job.name, _reason(error)))
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

    @property
    def _results(self) -> dict[str, int]:
        names = ("rendered", "skipped", "failed")
        return {name: self._counts[name] for name in names if self._counts[name]}

    def _summary(self, wall_seconds: float) -> str:
        """How many songs became what, in a line."""
        text = ", ".join(f"{number} {name}" for name, number in self._results.items())
        if self._seconds:
            factor = times_real_time(self._seconds, wall_seconds)
            text += (
                f": {self._seconds:.1f} s of sound in {wall_seconds:.1f} s"
                f" ({factor:.1f} times real time)"
            )
        if self._counts["failed"] and self._history is not None:
            text += f"; why is in {self._history.path}"
        return text


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
