"""Tells the user about a run: messages, progress bars and JSON records.

Messages and bars go to standard error, which leaves standard output to results.
"""

from __future__ import annotations

import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TextIO

from spectro_render.constants import WINDOW_SECONDS
from spectro_render.errors import reason_of

if TYPE_CHECKING:
    from rich import progress as rich_progress
    from rich.table import Table

    from spectro_render.options import Progress

PROGRAM = "spectro-render"
MOST_BARS = 8  # of songs at once
# Compiled at once, as a message may be that there is no memory left.
_ESCAPED = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


class Reporter:
    """Prints messages, bars and records, as far as the user wants them."""

    def __init__(self, *, quiet: bool = False, json_stream: TextIO | None = None) -> None:
        self._quiet = quiet
        self._json_stream = json_stream
        self._bars = SongBars()
        self.is_cut_off = False  # whether records could not be written

    def say(self, text: str) -> None:
        """Print a line on standard error, unless `--quiet` is set."""
        if not self._quiet:
            complain(text)

    def record(self, fields: dict[str, Any]) -> None:
        """Print one JSON object on a line of its own, if there is a stream for records."""
        if self._json_stream is None:
            return
        try:
            with self._bars.moved_away(for_stream=self._json_stream):
                print(json.dumps(fields), file=self._json_stream, flush=True)
        except BrokenPipeError:
            raise
        except OSError as error:
            self.is_cut_off = True
            abandon(self._json_stream)
            complain(f"the records are cut off: {reason_of(error)}")

    @contextmanager
    def songs(self, number: int) -> Iterator[SongBars]:
        """Show bars on a terminal: one for all songs, and one for each song being rendered."""
        if self._quiet or not sys.stderr.isatty():
            yield SongBars()
            return
        bars = _make_bar("{task.fields[state]}", "{task.fields[end]}")
        self._bars = shown = _VisibleBars(bars, number)
        try:
            yield shown
        finally:
            self._bars = SongBars()
            shown.end()

    def summary(
        self, results: Mapping[str, int], failures: Sequence[tuple[str, str]], text: str
    ) -> None:
        """Print the line that sums up a run and, on a terminal, a table with some failures.

        `results` has the number of songs for each status; `failures` are names and reasons.
        """
        if len(results) > 1 and not self._quiet and sys.stderr.isatty():
            from rich.console import Console

            Console(stderr=True, highlight=False).print(_table(results, failures))
        self.say(text)

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Show on a terminal that the model is being loaded, until it is or something is printed.

        It is one line without a spinner, as the import of PyTorch would stop one.
        """
        global _loading
        if not (self._quiet or _loading) and sys.stderr.isatty():
            if os.environ.get("TERM", "dumb") != "dumb":
                sys.stderr.write(f"{PROGRAM}: loading the model ...")
                sys.stderr.flush()
                _loading = True
        try:
            yield
        finally:
            _end_loading()

    @contextmanager
    def playing(self, look: Callable[[], tuple[float, float]]) -> Iterator[Callable[[], None]]:
        """Show a bar for sound that is played. `look` returns the seconds that are over, and all.

        Yields a function to be called every now and then.
        """
        if self._quiet or not sys.stderr.isatty():
            yield lambda: None
            return
        with _make_bar("{task.fields[state]}", "left") as bar:
            task = bar.add_task("playing", total=None, state="")

            def show() -> None:
                over, total = look()
                state = f"{over:.0f} of {total:.0f} s"
                bar.update(task, completed=over, total=total, state=state)

            yield show

    @contextmanager
    def download(self, name: str, done: int, size: int) -> Iterator[Callable[[int], None]]:
        """Show a bar for a download of `size` bytes, of which `done` are there already.

        Yields a function to be called with the number of bytes that are there.
        """
        if self._quiet or not sys.stderr.isatty():
            yield lambda _: None
            return
        _end_loading()
        with _make_bar(f"{{task.fields[done]}} of {as_size(size)}", "left") as bar:
            layout = _Layout(bar)
            task = bar.add_task(layout.name(name), total=size, completed=done, done=as_size(done))
            yield lambda done: bar.update(task, completed=done, done=as_size(done))


class SongBars:
    """The interface of progress bars; this class shows nothing, for runs without a terminal."""

    def show(self, song: object, name: str, progress: Progress) -> None:
        """Show the progress of a song; may be called from any thread."""

    def hide(self, song: object, seconds: float = 0.0) -> None:
        """Remove the bar of a song that has ended, and count its seconds of sound."""

    @contextmanager
    def moved_away(self, for_stream: TextIO) -> Iterator[None]:
        """Take the bars off the screen while a line is printed, if both go to one terminal."""
        yield


class _VisibleBars(SongBars):
    """Progress bars on a terminal, with one for all songs at the top."""

    def __init__(self, bars: rich_progress.Progress, songs: int) -> None:
        self._bars, self._layout = bars, _Layout(bars)
        self._songs, self._over = songs, 0
        self._begun = time.monotonic()
        self._seconds = 0.0  # of sound, in songs that have ended
        self._rows: dict[object, _Row] = {}
        self._lock = threading.Lock()
        self._is_over = False  # whether nothing more is shown, though a thread may still render
        self._whole = None
        if songs > 1:
            self._whole = bars.add_task("songs", total=songs, state=f"0 of {songs}", end="")

    def show(self, song: object, name: str, progress: Progress) -> None:
        with self._lock:
            if self._is_over:
                return
            self._bars.start()  # not before: a download may have had a bar of its own
            row = self._rows.get(song) or self._add(song, name, progress.windows)
            row.done = progress.done
            if row.number is not None:
                self._layout.update()
                state = self._layout.state("window", progress.window, progress.windows)
                end = self._layout.end(row.done * WINDOW_SECONDS, row.begun)
                text = self._layout.name(name)
                self._bars.update(
                    row.number, completed=row.done, description=text, state=state, end=end
                )
            self._show_whole()

    def hide(self, song: object, seconds: float = 0.0) -> None:
        with self._lock:
            row = self._rows.pop(song, None)
            if row is not None and row.number is not None:
                self._bars.remove_task(row.number)
            self._over += 1
            self._seconds += seconds
            self._show_whole()
            if self._over == self._songs:
                self._bars.stop()

    def end(self) -> None:
        """Take all bars off the screen, for good."""
        with self._lock:
            self._is_over = True
            self._bars.stop()

    @contextmanager
    def moved_away(self, for_stream: TextIO) -> Iterator[None]:
        is_in_the_way = self._bars.live.is_started and for_stream.isatty()
        if is_in_the_way:
            self._bars.stop()
        yield
        if is_in_the_way:
            self._bars.start()

    def _add(self, song: object, name: str, windows: int) -> _Row:
        row = self._rows[song] = _Row(windows)
        if sum(other.number is not None for other in self._rows.values()) < MOST_BARS:
            text = self._layout.name(name)
            row.number = self._bars.add_task(text, total=windows, state="", end="")
        return row

    def _show_whole(self) -> None:
        if self._whole is None:
            return
        rows = self._rows.values()
        done = self._over + sum(row.done / row.windows for row in rows)
        seconds = self._seconds + sum(row.done for row in rows) * WINDOW_SECONDS
        state, end = f"{self._over} of {self._songs}", self._layout.end(seconds, self._begun)
        self._bars.update(self._whole, completed=done, state=state, end=end)


@dataclass
class _Row:
    """The bar of a song that is being rendered."""

    windows: int
    number: rich_progress.TaskID | None = None  # of its bar; None: MOST_BARS are shown already
    done: float = 0.0
    begun: float = field(default_factory=time.monotonic)


class _Layout:
    """What has room on a line of bars: a name, the bar, a state, the time left and the speed.

    On narrow terminals, words are left out first, then the speed.
    """

    def __init__(self, bars: rich_progress.Progress) -> None:
        self._bars = bars
        self.update()

    def update(self) -> None:
        """Fit the columns to the terminal, which may have changed its size."""
        from rich.progress import BarColumn

        # A terminal shows ^C where the cursor is, behind the last bar. If that were in the last
        # column, the line would be broken, and a part of the bars could not be removed.
        self._width = self._bars.console.width - 4
        self._has_words, self._has_speed = self._width >= 88, self._width >= 64
        self._name_width = self._width // 3
        others = 14 + 7 + 22 + 4 if self._has_words else 9 + 7 + 13 + 4 if self._has_speed else 19
        width = self._width - self._name_width - others
        for column in self._bars.columns:
            if isinstance(column, BarColumn):
                column.bar_width = min(40, max(8, width))

    def name(self, path: str) -> str:
        """The path of a song, or its name, or the beginning and the end of that."""
        from rich.cells import cell_len, set_cell_size

        text, width = one_line(path), self._name_width
        if cell_len(text) > width:
            text = os.path.basename(text)
        if cell_len(text) <= width:
            return text
        end = width // 2
        return f"{set_cell_size(text, width - 1 - end)}…{set_cell_size(text[::-1], end)[::-1]}"

    def state(self, noun: str, number: int, total: int) -> str:
        """A position: `window 3/10`, or `3/10` where there is no room."""
        return f"{noun} {number}/{total}" if self._has_words else f"{number}/{total}"

    def end(self, seconds: float, begun: float) -> str:
        """What follows the time left: the speed at which `seconds` of sound were made."""
        speed = f"{times_real_time(seconds, time.monotonic() - begun):.1f}x"
        if self._has_words:
            return f"left, {speed} real time"
        return f"left, {speed}" if self._has_speed else ""


_loading = False  # whether the line of `Reporter.loading` is on the terminal


def _end_loading() -> None:
    """Take the line of `Reporter.loading` off the terminal, if it is there."""
    global _loading
    if _loading:
        _loading = False
        with suppress(OSError):
            sys.stderr.write("\r\x1b[2K")
            sys.stderr.flush()


def complain(text: str) -> None:
    """Print a line on standard error, even with `--quiet`; does nothing where that is closed."""
    try:
        _end_loading()
        print(f"{PROGRAM}: {one_line(text)}", file=sys.stderr, flush=True)
    except OSError:
        abandon(sys.stderr)


def abandon(stream: TextIO) -> None:
    """Discard what is still to be written to a broken stream.

    Python would try to write it once more when it exits.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def count(number: int, noun: str) -> str:
    """A number with its noun: `1 note`, `2 notes`, `2 buses`."""
    if number == 1:
        return f"{number} {noun}"
    return f"{number} {noun}{'es' if noun.endswith('s') else 's'}"


def as_size(size: float) -> str:
    """A number of bytes in powers of ten: `1.7 GB`, `58 MB`."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 999.5 or unit == "GB":
            break
        size /= 1000
    return f"{size:.1f} {unit}" if unit != "bytes" and size < 9.95 else f"{size:.0f} {unit}"


def one_line(text: str) -> str:
    """Escape what a file name may hold that ends or reverses a line: control characters and such.

    Others are Unicode's separators of lines and paragraphs, and marks of the direction of writing.
    """

    def escape(found: re.Match[str]) -> str:
        number = ord(found[0])
        return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"

    return _ESCAPED.sub(escape, text)


def times_real_time(audio_seconds: float, wall_seconds: float) -> float:
    """The real-time factor: seconds of sound per second of work."""
    return audio_seconds / max(wall_seconds, 1e-9)


def _table(results: Mapping[str, int], failures: Sequence[tuple[str, str]]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_column(no_wrap=True, overflow="ellipsis")
    for result, number in results.items():
        table.add_row(result, str(number))
    for name, reason in failures:
        table.add_row("", "", Text(one_line(f"{name}: {reason}")))
    hidden = results.get("failed", 0) - len(failures)
    if hidden:
        table.add_row("", "", f"and {hidden} more")
    return table


def _make_bar(state: str, end: str) -> rich_progress.Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.table import Column

    class Bars(Progress):
        """Bars that only the thread of the display draws.

        An interrupt comes in the main thread. If that were drawing, rich would draw a part again.
        """

        def start(self) -> None:
            self.live.start(refresh=False)

        def refresh(self) -> None:
            pass

    return Bars(
        TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True)),
        BarColumn(),
        TextColumn(state, table_column=Column(no_wrap=True)),
        TimeRemainingColumn(table_column=Column(no_wrap=True)),
        TextColumn(end, table_column=Column(no_wrap=True)),
        console=Console(stderr=True),
        redirect_stdout=False,  # it may carry sound
        transient=True,  # the line that reports the result takes its place
    )
