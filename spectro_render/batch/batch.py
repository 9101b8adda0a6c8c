"""Renders the jobs of one command, and reports and records the result of each.

If one song fails, the others are rendered all the same.
"""

from __future__ import annotations

import os
import re
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from spectro_render.atomic import sweep
from spectro_render.audio.destination import Destination, open_destination
from spectro_render.audio.normalize import in_words, level_facts
from spectro_render.audio.stems import StemsDestination, stems_folder
from spectro_render.batch.history import History, checksum
from spectro_render.batch.jobs import STREAM, Job
from spectro_render.batch.outputs import Outputs
from spectro_render.batch.tasks import Begun, Engine, Event, Finished, Settings, Task, discard
from spectro_render.errors import (
    NO_MEMORY,
    DeviceError,
    EngineError,
    OutputBusy,
    OutputError,
    SpectroRenderError,
    WeightsError,
    WeightsNotFound,
    reason_of,
)
from spectro_render.report import Reporter, SongBars, complain, count, times_real_time

MOST_SHOWN = 10  # failures that are listed at the end
MOST_KINDS = 8  # of events that are not played, listed at the end
_FATAL = (WeightsError, DeviceError, EngineError)  # every other song would fail, too


class Batch:
    """Renders the jobs of one command.

    For each job, `begin` gives the engine a task, `handle` handles the engine's events, and
    `record` records the result. `run` does this for all jobs.
    """

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        reporter: Reporter,
        fingerprint: Callable[[], str],
        *,
        stream: BinaryIO | None = None,
        force: bool = False,
        skip_existing: bool = False,
        is_played: bool = False,
        keeps_going: bool = False,
        folder: Path | None = None,
        has_records: bool = True,
        draw: Callable[[Task, Begun, Finished], dict[str, str]] | None = None,
    ) -> None:
        """Prepare a run; nothing is read or written yet.

        fingerprint: returns a hash of the model's files, and may be slow.
        stream: where the sound of a job without a file goes.
        force: whether outputs that exist already are rendered again.
        skip_existing: whether outputs that exist already are kept, however they were made.
        is_played: whether songs are played, so that outputs that are up to date are made again.
        keeps_going: whether there may be several songs. Then others are rendered after a bug in
            this program, and an existing output of which nothing is known is skipped.
        folder: the folder of all outputs, if there is one.
        has_records: whether that folder keeps a record of the results.
        draw: draws a song that is complete, and returns the paths of the drawings by their kind.
        """
        self.settings, self.engine, self.reporter = settings, engine, reporter
        self.stream, self.force, self.keeps_going = stream, force, keeps_going
        self._skip_existing, self._is_played = skip_existing, is_played
        self._folder, self._draw = folder, draw
        self._history: History | Outputs | None
        if folder is not None and has_records:
            self._history = History(folder, settings.origin, fingerprint)
        else:
            self._history = Outputs(settings.origin, fingerprint)
        self._active: dict[Task, Begun | None] = {}
        self._folders: dict[Task, list[Path]] = {}  # made for the song, innermost first
        self._bars = SongBars()
        self._counts: Counter[str] = Counter()  # number of jobs by status
        self._failures: list[tuple[str, str]] = []  # name and reason of the first ones
        self._seconds = 0.0  # of sound so far
        self._drawing_failures = 0
        self._shown: Exception | None = None  # the bug that was last printed
        self._ignored: Counter[str] = Counter()  # number of songs by what is not played in them
        self._lossy_songs = 0  # in which something is not played
        self.is_fatal = False  # whether the run was ended by an error that every song would have
        self._is_many = False  # whether what is not played is summed up at the end

    def run(self, jobs: Sequence[Job]) -> int:
        """Render all jobs, and return the number of failures."""
        waiting = deque(jobs)
        self._is_many = len(jobs) > 1
        started = time.monotonic()
        try:
            with self.reporter.songs(len(jobs)) as self._bars:
                self.engine.on_progress = lambda task, progress: self._bars.show(
                    task.job, task.job.name, progress
                )
                self._fill(waiting)
                while self._active:
                    for task, event in self.engine.advance():
                        self.handle(task, event)
                    self._fill(waiting)
            self._report_ignored()
            if len(jobs) > 1:
                text = self._summary(time.monotonic() - started)
                self.reporter.summary(self._results, self._failures, text)
        except _FATAL as error:
            self.is_fatal = True
            complain(str(error))
            for job in (*(task.job for task in self._active), *waiting):
                self._record_failure(job, error)
        finally:
            self.engine.stop()
            if self._history is not None:
                try:
                    self._history.close()
                except OSError as error:
                    self._give_up_history("write", error)
            if self._folder is not None:
                sweep(self._folder)
        return self._counts["failed"] + self._drawing_failures + self.reporter.is_cut_off

    def preview(self, jobs: Sequence[Job]) -> int:
        """Print what `run` would do, and return the number of inputs that are missing.

        Nothing is written, and no model is fetched: without it, known outputs count as outdated.
        """
        for job in jobs:
            try:
                job.check_input()
                why = ""
                if job.is_complete:
                    with suppress(WeightsNotFound):
                        why, _ = self._why_kept(job)
            except (SpectroRenderError, OSError) as error:
                complain(f"{job.name}: {_reason(error)}")
                self._counts["failed"] += 1
                self.reporter.record({"status": "failed", **_names(job), "error": _reason(error)})
                continue
            status = "skipped" if why else "planned"
            self._counts[status] += 1
            names = _names(job)
            place = f"written to {names['output']}"
            line = why or f"would be {'played' if job.is_played else place}"
            self.reporter.say(f"{job.name}: {line}")
            self.reporter.record({"status": status, **names, **({"reason": why} if why else {})})
        if len(jobs) > 1:
            counts = self._results.items()
            self.reporter.say(", ".join(f"{number} {name}" for name, number in counts))
        return self._counts["failed"] + self.reporter.is_cut_off

    def _fill(self, waiting: deque[Job]) -> None:
        """Begin waiting jobs until the engine has no more room."""
        while waiting and self.engine.has_room:
            job = waiting[0]
            try:
                self.begin(job)
            except Exception as error:
                self._raise_fatal(error)
                self._fail(job, error)
            waiting.popleft()

    def begin(self, job: Job) -> None:
        """Give the engine a job, unless its output exists already and is kept.

        Raises OutputError for a single output of which nothing is known, as it may be the user's.
        """
        was_complete = job.is_complete
        why, data = self._why_kept(job) if was_complete else ("", None)
        if why:
            self._skip(job, why)
            return
        if data is None:
            data = job.read()
        folders = job.missing_folders
        try:
            output = self._take_output(job, was_complete)
        except OutputBusy as error:
            if job.is_explicit:
                raise
            self._skip(job, error.message.removeprefix(f"{job.target}: "))
            return
        task = Task(job, data, output)
        try:
            self.engine.begin(task)
        except BaseException:
            discard(output)
            _remove_empty(folders)
            raise
        self._active[task], self._folders[task] = None, folders

    def _why_kept(self, job: Job) -> tuple[str, bytes | None]:
        """Why an output that exists already is kept, in words; "" if it is to be rendered.

        Returns the input as well if that had to be read. Raises MidiError if there is no such
        input, or if it cannot be read.
        """
        job.check_input()
        if self._skip_existing:
            return f"{job.target} exists already", None
        if job.is_explicit or self.force:
            return "", None
        assert job.target is not None
        exists, hint = f"{job.target} exists already", "--force renders it again"
        try:
            if self._history is None:
                return f"{exists}; {hint}", None
            if self._history.knows(job.target):
                data = job.read()
                settings = self.settings.origin_of(job)
                is_due = self._is_played or self._history.is_outdated(
                    job.target, checksum(data), settings
                )
                return "" if is_due else f"{job.target} is up to date; {hint}", data
        except OSError as error:
            assert isinstance(self._history, History)
            self._give_up_history("read", error)
            return f"{exists}; {hint}", None
        exists += ", and it is not known how it was made"
        if self.keeps_going:
            return f"{exists}; {hint}", None
        choices = "--force replaces it, --skip-existing keeps it, -o names another file"
        raise OutputError(exists, choices)

    def _take_output(self, job: Job, was_complete: bool) -> Destination:
        """Open a job's output. Raises OutputBusy if another run has written it in the meantime."""
        target = job.prepare_target() or self.stream
        assert target is not None
        output: Destination
        if job.has_stems and job.target is not None:
            output = StemsDestination(job.target)
        else:
            output = open_destination(target)
        if job.is_complete and not (was_complete or job.is_explicit):
            discard(output)
            raise OutputBusy(f"{job.target}: another run has written it")
        return output

    def handle(self, task: Task, event: Event) -> None:
        """Report and record an event of a task. Raises fatal errors."""
        if isinstance(event, Begun):
            self._active[task] = event
            self._report_losses(task.job, event)
            return
        begun = self._active[task]
        if isinstance(event, Exception):
            self._raise_fatal(event)
            del self._active[task]
            _remove_empty(self._folders.pop(task))
            self._fail(task.job, event)
        elif begun is not None:
            del self._active[task], self._folders[task]
            self._finish(task, begun, event)

    def _raise_fatal(self, error: Exception) -> None:
        """Raise an error that ends the run: a fatal one, or a bug in this program.

        With `keeps_going` a bug is printed with its trace, and the run goes on.
        """
        if isinstance(error, (BrokenPipeError, *_FATAL)):
            raise error
        if isinstance(error, (SpectroRenderError, OSError, MemoryError)):
            return
        if not self.keeps_going:
            raise error
        if error is not self._shown:  # songs of one batch get the same error
            traceback.print_exception(error)
            self._shown = error

    def _report_losses(self, job: Job, begun: Begun) -> None:
        """Report what was damaged in a file, and what of it is not played."""
        if begun.repairs:
            self.reporter.say(f"{job.name}: repaired: {'; '.join(begun.repairs)}")
        self._lossy_songs += bool(begun.ignored)
        self._ignored.update({_kind(phrase) for phrase in begun.ignored})
        if begun.ignored and not self._is_many:
            self.reporter.say(f"{job.name}: ignored: {', '.join(begun.ignored)}")
        if begun.is_whole and job.is_streamed:
            why = "the vocoder needs the whole song"
            self.reporter.say(f"{job.name}: {why}, so all sound comes at the end")
        for seconds, notes in begun.left_out:
            self.reporter.say(
                f"{job.name}: too dense at {seconds:.2f} s: {count(notes, 'note')} left out"
            )

    def _report_ignored(self) -> None:
        """Report in one line what is not played in several songs."""
        if not (self._is_many and self._ignored):
            return
        common = self._ignored.most_common(MOST_KINDS)
        kinds = [f"{kind} ({count(number, 'song')})" for kind, number in common]
        if len(self._ignored) > MOST_KINDS:
            kinds.append(f"and {count(len(self._ignored) - MOST_KINDS, 'other kind')}")
        songs = count(self._lossy_songs, "song")
        self.reporter.say(f"ignored in {songs}: {', '.join(kinds)}; --json shows it for each")

    def _finish(self, task: Task, begun: Begun, made: Finished) -> None:
        """Report and record a song that is complete."""
        self._seconds += made.seconds
        self._bars.hide(task.job, made.seconds)
        names = _names(task.job)
        factor = times_real_time(made.seconds, made.wall_seconds)
        others = f", together with {count(made.beside, 'other song')}" if made.beside else ""
        source = task.job.name if task.job.source else "standard input"
        target = "standard output" if task.job.is_streamed else names["output"]
        self.reporter.say(
            f"{source}{f' -> {target}' if target else ''}: {made.seconds:.2f} s of sound"
            f" in {made.wall_seconds:.2f} s ({factor:.2f} times real time{others})"
        )
        if made.level:
            self.reporter.say(f"{names['output'] or task.job.name}: {in_words(made.level)}")
        stems = {}
        if task.job.has_stems and task.job.target is not None:
            stems = {"stems": str(stems_folder(task.job.target))}
        fields = {
            "status": "rendered",
            **names,
            **stems,
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
            **({"level": level_facts(made.level)} if made.level else {}),
        }
        if self._draw is not None:
            try:
                fields |= self._draw(task, begun, made)
            except SpectroRenderError as error:  # the song itself is complete
                complain(f"{task.job.name}: {error}")
                self._drawing_failures += 1
        self.record(task.job, fields, checksum(task.data))

    def _skip(self, job: Job, why: str) -> None:
        self._bars.hide(job)
        self.reporter.say(f"{job.name}: {why}")
        self.record(job, {"status": "skipped", **_names(job), "reason": why})

    def _fail(self, job: Job, error: Exception) -> None:
        self._bars.hide(job)
        complain(f"{job.name}: {_reason(error)}")
        self._record_failure(job, error)

    def _record_failure(self, job: Job, error: Exception) -> None:
        if len(self._failures) < MOST_SHOWN:
            self._failures.append((job.name, _reason(error)))
        what = {"error": _reason(error), "kind": type(error).__name__}
        self.record(job, {"status": "failed", **_names(job), **what})

    def record(self, job: Job, fields: dict[str, Any], sha256: str | None = None) -> None:
        """Count a result, print it as JSON if that is wanted, and record it for later runs.

        `fields` has the status and its details; `sha256` is the input's, if it was rendered.
        """
        self._counts[fields["status"]] += 1
        self.reporter.record(fields)
        if fields["status"] == "skipped" or job.target is None:
            return
        if self._history is None or (
            isinstance(self._history, History) and not os.path.isdir(self._history.folder)
        ):
            return
        try:
            self._history.add(job.target, sha256, fields, self.settings.origin_of(job))
        except OSError as error:
            self._give_up_history("write", error)

    def _give_up_history(self, what: str, error: OSError) -> None:
        """Report that the records cannot be read or written, which fails the run, and go on."""
        assert isinstance(self._history, History)
        complain(f"{self._history.path}: cannot {what}: {reason_of(error)}")
        history, self._history = self._history, None
        with suppress(OSError):
            history.close()
        self._counts["failed"] += 1  # this run or a later one lacks records

    @property
    def _results(self) -> dict[str, int]:
        """The number of jobs by what became of them, without zeros."""
        names = ("planned", "rendered", "skipped", "failed")
        return {name: self._counts[name] for name in names if self._counts[name]}

    def _summary(self, wall_seconds: float) -> str:
        """The numbers of songs and the speed, in one line."""
        text = ", ".join(f"{number} {name}" for name, number in self._results.items())
        if self._seconds:
            factor = times_real_time(self._seconds, wall_seconds)
            text += (
                f": {self._seconds:.1f} s of sound in {wall_seconds:.1f} s"
                f" ({factor:.1f} times real time)"
            )
        if self._counts["failed"] and isinstance(self._history, History):
            text += f"; the reasons are in {self._history.path}"
        return text


def _kind(phrase: str) -> str:
    """What a song ignores, without the number: 'pan (3 events)' -> 'pan'."""
    return re.sub(r" \(\d+ \w+\)$|^\d+ (?=notes? )", "", phrase)


def _remove_empty(folders: Sequence[Path]) -> None:
    """Remove folders, innermost first; one that has files of other songs is kept."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def _names(job: Job) -> dict[str, str | None]:
    """The input and the output of a job, as they are named in records and messages."""
    target = str(job.target) if job.target else None
    return {"input": job.name, "output": STREAM if job.is_streamed else target}


def _reason(error: Exception) -> str:
    """What went wrong, why and what to do, in one line."""
    if isinstance(error, SpectroRenderError):
        return str(error)
    if isinstance(error, OSError):
        return reason_of(error)
    if isinstance(error, MemoryError):
        return NO_MEMORY
    return f"{type(error).__name__}: {error}"
