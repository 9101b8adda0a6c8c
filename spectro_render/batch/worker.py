"""A worker: renders songs for an engine in another process, on this machine or another one."""

from __future__ import annotations

import pickle
import sys
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO, Generic, Protocol, TypeAlias, TypeVar

from spectro_render.audio.destination import Destination
from spectro_render.batch.jobs import Job
from spectro_render.batch.tasks import Begun, Engine, Event, Finished, Settings, Task
from spectro_render.errors import SpectroRenderError
from spectro_render.options import Progress

Made = TypeVar("Made")


@dataclass(frozen=True)
class Report(Generic[Made]):
    """What a worker reports of its songs: events, and progress by the songs' numbers."""

    events: list[tuple[int, Begun | Made | Exception]]
    progress: dict[int, Progress]


class SongEngine(Engine, Protocol):
    """An Engine that a worker renders with."""

    @property
    def size(self) -> int:
        """The number of tasks that can be rendered at once."""

    @property
    def is_idle(self) -> bool:
        """Whether every task is over and all events have been returned."""


MakeEngine: TypeAlias = Callable[[Settings, int], SongEngine]  # settings and number of cores


class Worker(ABC, Generic[Made]):
    """Renders songs into files; it computes only while `render` is called.

    What a complete song is sent as, a `Made`, depends on where the engine is.
    """

    def __init__(self, settings: Settings, cores: int, make_engine: MakeEngine) -> None:
        self._settings, self._cores, self._make_engine = settings, cores, make_engine
        self._numbers: dict[Task, int] = {}
        self._files: dict[Task, BinaryIO] = {}
        self._progress: dict[int, Progress] = {}

    def load(self) -> int:
        """Load the model, and return the number of songs that are rendered at once.

        Raises WeightsError or DeviceError.
        """
        self._engine = self._make_engine(self._settings, self._cores)
        self._engine.on_progress = self._on_progress
        return self._engine.size

    @abstractmethod
    def open_file(self, number: int) -> tuple[BinaryIO, bool]:
        """Open the file for the sound of a song, and tell whether it can seek. Raises OSError."""

    @abstractmethod
    def deliver(self, file: BinaryIO, finished: Finished) -> Made:
        """Make what is sent for a complete song, whose file is closed after that."""

    def render(self, songs: Sequence[tuple[int, Job, bytes]], seconds: float) -> Report[Made]:
        """Begin new songs, and render all for `seconds` seconds or until one is over.

        A new song is given as its number, its job and the bytes of its MIDI file.
        """
        end = time.monotonic() + seconds
        failed = [self._begin(*song) for song in songs]
        events: list[tuple[int, Begun | Made | Exception]]
        events = [event for event in failed if event is not None]
        is_one_over = bool(events)
        while not (is_one_over or self._engine.is_idle or time.monotonic() > end):
            for task, event in self._engine.advance():
                events.append(self._sendable(task, event))
                is_one_over |= not isinstance(event, Begun)
        return Report(events, dict(self._progress))

    def _begin(self, number: int, job: Job, data: bytes) -> tuple[int, Exception] | None:
        """Begin a song; returns its number and the error if that fails."""
        try:
            file, can_seek = self.open_file(number)
        except OSError as error:
            return number, error
        task = Task(job, data, Destination(file, str(job.target or job.name), can_seek))
        try:
            self._engine.begin(task)
        except Exception as error:
            _close(file)
            return number, sendable(error)
        self._numbers[task], self._files[task] = number, file
        return None

    def _on_progress(self, task: Task, progress: Progress) -> None:
        if task in self._numbers:
            self._progress[self._numbers[task]] = progress

    def _sendable(self, task: Task, event: Event) -> tuple[int, Begun | Made | Exception]:
        """Convert an event so that it can be sent, with the number of its song."""
        number = self._numbers[task]
        if isinstance(event, Begun):
            return number, event
        del self._numbers[task]
        self._progress.pop(number, None)
        file = self._files.pop(task)
        try:
            if isinstance(event, Exception):
                return number, sendable(event)
            made = self.deliver(file, event)
            file.close()
            return number, made
        except Exception as error:  # no memory, no room on a disk or in the object store
            return number, sendable(error)
        finally:
            _close(file)


def _close(file: BinaryIO) -> None:
    """Close a file whose last bytes may be refused, which does not matter any more."""
    with suppress(OSError):
        file.close()


def sendable(error: Exception) -> Exception:
    """An error that can be sent to another process, with its traceback if it is a bug."""
    if not isinstance(error, (SpectroRenderError, OSError)) and sys.version_info >= (3, 11):
        error.add_note("".join(traceback.format_exception(error)))
    try:
        copy: Exception = pickle.loads(pickle.dumps(error))
    except Exception:  # a class that cannot be sent, or not be made again
        return RuntimeError(f"{type(error).__name__}: {error}")
    return copy
