"""What the user hears about a run: lines, a progress bar and JSON records.

Talk goes to standard error, which leaves standard output to results.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO, TypeAlias

from spectro_render.constants import WINDOW_SECONDS

if TYPE_CHECKING:
    from rich import progress as rich_progress

    from spectro_render.render import Progress

PROGRAM = "spectro-render"

OnSongs: TypeAlias = Callable[[float, float], None]


class Reporter:
    """Says what happens, as loudly as the user wants it."""

    def __init__(self, *, quiet: bool = False, json_stream: TextIO | None = None) -> None:
        self._quiet = quiet
        self._json_stream = json_stream
        self.is_cut_off = False  # records got lost

    def say(self, text: str) -> None:
        """A line that `--quiet` leaves out."""
        if not self._quiet:
            complain(text)

    def record(self, fields: dict[str, Any]) -> None:
        """One JSON object on a line of its own, where JSON is wanted."""
        if self._json_stream is None:
            return
        try:
            print(json.dumps(fields), file=self._json_stream, flush=True)
        except BrokenPipeError:
            raise
        except OSError as error:
            self.is_cut_off = True
            abandon(self._json_stream)
            complain(f"the records are cut off: {reason_of(error)}")

    @contextmanager
    def progress(self, name: str) -> Iterator[Callable[[Progress], None]]:
        """A bar on a terminal, and nothing elsewhere."""
        if self._quiet or not sys.stderr.isatty():
            yield lambda _: None
            return
        with _make_bar("{task.fields[window]}", "left, {task.fields[speed]}") as bar:
            task = bar.add_task(one_line(name), total=None, window="", speed="")
            started = time.monotonic()

            def update(progress: Progress) -> None:
                _advance(bar, task, progress, time.monotonic() - started)

            yield update

    @contextmanager
    def songs(self, number: int) -> Iterator[OnSongs]:
        """The same for songs side by side: called with how many are done, and seconds of sound."""
        if self._quiet or not sys.stderr.isatty():
            yield lambda done, seconds: None
            return
        with _make_bar("{task.fields[state]}", "left, {task.fields[speed]}") as bar:
            task = bar.add_task("songs", total=number, state="", speed="")
            started = time.monotonic()

            def update(done: float, seconds: float) -> None:
                factor = times_real_time(seconds, time.monotonic() - started)
                state, speed = f"{int(done)} of {number}", f"{factor:.1f}x real time"
                bar.update(task, completed=done, state=state, speed=speed)

            yield update

    @contextmanager
    def download(self, name: str, done: int, size: int) -> Iterator[Callable[[int], None]]:
        """The same for a download of `size` bytes; it is called with how many are there."""
        if self._quiet or not sys.stderr.isatty():
            yield lambda _: None
            return
        with _make_bar(f"{{task.fields[done]}} of {as_size(size)}", "left") as bar:
            task = bar.add_task(one_line(name), total=size, completed=done, done=as_size(done))
            yield lambda done: bar.update(task, completed=done, done=as_size(done))


def complain(text: str) -> None:
    """A line on standard error, whatever `--quiet` says; where nobody can hear it, nothing."""
    try:
        print(f"{PROGRAM}: {one_line(text)}", file=sys.stderr, flush=True)
    except OSError:
        abandon(sys.stderr)


def abandon(stream: TextIO) -> None:
    """Let what is still to be written to a broken stream vanish.

    Python would try once more at its end.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def reason_of(error: OSError) -> str:
    """What the system says, in small letters."""
    return os.strerror(error.errno).lower() if error.errno else str(error)


def count(number: int, noun: str) -> str:
    """`1 note`, `2 notes`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def as_size(size: float) -> str:
    """Bytes in powers of ten: `1.7 GB`, `58 MB`."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 999.5 or unit == "GB":
            break
        size /= 1000
    return f"{size:.1f} {unit}" if unit != "bytes" and size < 9.95 else f"{size:.0f} {unit}"


def one_line(text: str) -> str:
    """`text` without the control characters that a file name may hold."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda found: f"\\x{ord(found[0]):02x}", text)


def times_real_time(audio_seconds: float, wall_seconds: float) -> float:
    """The real-time factor: seconds of sound a second of work."""
    return audio_seconds / max(wall_seconds, 1e-9)


def _make_bar(state: str, end: str) -> rich_progress.Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn(state),
        TimeRemainingColumn(),
        TextColumn(end),
        console=Console(stderr=True),
        transient=True,  # the line that says what was made takes its place
    )


def _advance(
    bar: rich_progress.Progress, task: rich_progress.TaskID, progress: Progress, elapsed: float
) -> None:
    done = progress.window - 1 + progress.step / progress.steps  # windows
    factor = times_real_time(done * WINDOW_SECONDS, elapsed)
    bar.update(
        task,
        total=progress.windows,
        completed=done,
        window=f"window {progress.window}/{progress.windows}",
        speed=f"{factor:.1f}x real time",
    )
