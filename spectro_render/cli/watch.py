"""The option `--watch`: songs are rendered again whenever they are saved."""

from __future__ import annotations

import glob
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from spectro_render.atomic import walk
from spectro_render.batch.jobs import STREAM, Job, read_lists
from spectro_render.errors import OptionError, SpectroRenderError, install_hint, reason_of
from spectro_render.midi.read import MIDI_SUFFIXES
from spectro_render.report import Reporter, complain, count

if TYPE_CHECKING:
    from spectro_render.batch.engine import LocalEngine

SETTLED = 250  # milliseconds without a change, after which a file is taken to be complete
_LONGEST = 10_000  # milliseconds of changes after which it is read all the same
_MOST_NAMED = 3  # inputs, in the message

Renderings = Callable[["Watch"], int]


class Watch:
    """Watches the inputs of a run, and says for each round what is to be rendered."""

    def __init__(self, names: Sequence[str], listed: Sequence[str]) -> None:
        """Begin to watch. Raises SpectroRenderError without the package watchfiles."""
        try:
            import watchfiles
        except ImportError as error:
            message = "--watch needs the package watchfiles"
            raise SpectroRenderError(message, install_hint("watch")) from error
        self._watchfiles = watchfiles
        self._files = {os.path.realpath(name) for name in (*names, *listed)}
        folders, trees = _places((*names, *listed))
        self._news: SimpleQueue[set[str] | Exception] = SimpleQueue()
        self._changed: set[str] | None = None  # real paths; None: everything is to be rendered
        self._engine: LocalEngine | None = None  # of the last round
        self.is_fatal = False  # whether other rounds would fail, too
        self._end = threading.Event()
        self._threads = [
            threading.Thread(target=self._look, args=(paths, recursive), daemon=True)
            for paths, recursive in ((folders, False), (trees, True))
            if paths
        ]
        for thread in self._threads:
            thread.start()

    def wants(self, job: Job) -> bool:
        """Whether a job is to be rendered in this round."""
        if self._changed is None:
            return True
        return job.source is not None and os.path.realpath(job.source) in self._changed

    def has_news(self) -> bool:
        """Whether something has been saved since the round began."""
        return not self._news.empty()

    def lend_model(self, engine: LocalEngine) -> None:
        """Give the engine of this round the model that the last one has loaded."""
        if self._engine is not None and "renderer" in vars(self._engine):
            engine.renderer = self._engine.renderer
        self._engine = engine

    def wait(self) -> None:
        """Wait until something is saved, which the next round renders. Raises SpectroRenderError.

        It can be interrupted at any time.
        """
        self._changed = set()
        news = self._news.get()
        with suppress(Empty):
            while not isinstance(news, Exception):
                self._changed |= news
                news = self._news.get_nowait()
        if isinstance(news, Exception):
            reason = reason_of(news) if isinstance(news, OSError) else str(news)
            raise SpectroRenderError(f"the inputs cannot be watched: {reason}", "start again")

    def close(self) -> None:
        """Stop watching."""
        self._end.set()
        for thread in self._threads:
            thread.join(1.0)

    def _look(self, paths: Sequence[str], recursive: bool) -> None:
        """A thread: report what is saved in folders."""
        changes = self._watchfiles.watch(
            *paths,
            watch_filter=self._may_be_input,
            debounce=_LONGEST,
            step=SETTLED,
            stop_event=self._end,
            recursive=recursive,
        )
        try:
            for found in changes:
                saved = {os.path.realpath(path) for _, path in found}
                # What a new folder has may have been written before the folder was watched.
                for folder in filter(os.path.isdir, tuple(saved)):
                    for parent, _, names in walk(folder):
                        saved |= {os.path.join(parent, name) for name in names}
                if saved := set(filter(self._is_input, saved)):
                    self._news.put(saved)
        except Exception as error:  # a folder is gone, or the system watches too many files
            self._news.put(error)

    def _may_be_input(self, change: Any, path: str) -> bool:
        """Whether a change may be one of an input. A file that is gone cannot be rendered."""
        kinds = self._watchfiles.Change
        if change == kinds.added and os.path.isdir(path):
            return True
        return change != kinds.deleted and self._is_input(path)

    def _is_input(self, path: str) -> bool:
        """Whether a file has the name of an input."""
        name = os.path.basename(path).lower()
        is_found = name.endswith(MIDI_SUFFIXES) and not name.startswith(".")
        return is_found or os.path.realpath(path) in self._files


def keep_rendering(
    inputs: Sequence[str], files_from: str | None, reporter: Reporter, render: Renderings
) -> int:
    """Render again and again, until an error that all rounds would have, or an interrupt.

    Returns the exit code.
    """
    if STREAM in inputs or files_from == STREAM:
        raise OptionError("--watch cannot watch standard input", "name files or folders")
    names, listed = read_lists(inputs, files_from)
    for name in names:
        if os.path.exists(name) and not (os.path.isfile(name) or os.path.isdir(name)):
            raise OptionError(f"--watch cannot watch {name}", "name files or folders")
    watch = Watch(names, listed)
    try:
        code = render(watch)
        is_missing = any(not (os.path.lexists(name) or glob.has_magic(name)) for name in names)
        if is_missing or watch.is_fatal:
            return code
        more = len(names) + len(listed) - _MOST_NAMED
        shown = [*names, *listed][:_MOST_NAMED] + ([count(more, "other")] if more > 0 else [])
        reporter.say(f"watching {', '.join(shown)}; Ctrl-C ends this")
        while True:
            watch.wait()
            try:
                render(watch)
            except SpectroRenderError as error:
                complain(str(error))
    finally:
        watch.close()


def _places(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """The folders to watch: those that hold named files, and those that are searched with others.

    A file is watched by its folder, as editors replace it by another one of its name.
    """
    folders, trees = set(), set()
    for name in names:
        if os.path.isdir(name):
            trees.add(os.path.realpath(name))
        elif glob.has_magic(name) and not os.path.lexists(name):
            parts = Path(name).parts
            fixed = next(number for number, part in enumerate(parts) if glob.has_magic(part))
            trees.add(os.path.realpath(Path(*parts[:fixed])))
        else:
            folders.add(os.path.dirname(os.path.abspath(name)))
            folders.add(os.path.dirname(os.path.realpath(name)))
    return sorted(filter(os.path.isdir, folders)), sorted(filter(os.path.isdir, trees))
