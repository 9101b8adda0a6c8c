"""A worker on a machine of a Ray cluster, which renders songs into files."""

from __future__ import annotations

import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

from spectro_render import __version__
from spectro_render.audio.destination import Destination
from spectro_render.batch.cores import let_idle_threads_sleep
from spectro_render.batch.engine import LocalEngine
from spectro_render.batch.jobs import Job
from spectro_render.batch.tasks import Begun, Event, Finished, Settings, Task
from spectro_render.checkpoints.find import fingerprint_of, resolve_model
from spectro_render.errors import DeviceError, EngineError, SpectroRenderError, WeightsError
from spectro_render.options import ModelChoice, Progress
from spectro_render.report import Reporter

if TYPE_CHECKING:
    import ray

    from spectro_render.checkpoints.manifest import ModelFiles

MakeEngine: TypeAlias = Callable[[Settings, int], LocalEngine]  # settings and number of cores


@dataclass(frozen=True)
class WorkerReady:
    """What a worker reports when it has loaded the model."""

    host: str
    node: str  # name of the machine in Ray
    version: str  # of this program
    fingerprint: str  # of the model
    size: int  # number of songs that it renders at once


@dataclass(frozen=True)
class FinishedFile:
    """A complete song and the bytes of its output, which stay on the worker's machine."""

    finished: Finished
    data: ray.ObjectRef[Any]  # uint8 (bytes,)


SendableEvent: TypeAlias = "Begun | FinishedFile | Exception"


@dataclass(frozen=True)
class Report:
    """What a worker reports of its songs: events, and progress by the songs' numbers."""

    events: list[tuple[int, SendableEvent]]
    progress: dict[int, Progress]


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
    return resolve_model(choice.name, choice.vocoder, Reporter(quiet=True))


class Worker:
    """A Ray actor that renders songs; it computes only while `render` is called."""

    def __init__(self, settings: Settings, cores: int, make_engine: MakeEngine) -> None:
        self._settings, self._cores, self._make_engine = settings, cores, make_engine
        self._host = socket.gethostname()
        self._numbers: dict[Task, int] = {}
        self._files: dict[Task, BinaryIO] = {}  # temporary files without names
        self._progress: dict[int, Progress] = {}

    def start(self) -> WorkerReady:
        """Load the model. Raises EngineError if that fails."""
        try:
            fingerprint = fingerprint_of(find_model(self._settings.model))
            self._engine = self._make_engine(self._settings, self._cores)
        except (WeightsError, DeviceError) as error:
            raise EngineError(f"{self._host}: {error.message}", error.hint) from None
        self._engine.on_progress = self._on_progress
        import ray

        node = ray.get_runtime_context().get_node_id()
        return WorkerReady(self._host, node, __version__, fingerprint, self._engine.size)

    def render(self, songs: Sequence[tuple[int, Job, bytes]], seconds: float) -> Report:
        """Begin new songs, and render all for `seconds` seconds or until one is over.

        A new song is given as its number, its job and the bytes of its MIDI file.
        """
        end = time.monotonic() + seconds
        failed = [self._begin(*song) for song in songs]
        events: list[tuple[int, SendableEvent]] = [event for event in failed if event is not None]
        is_one_over = bool(events)
        while not (is_one_over or self._engine.is_idle or time.monotonic() > end):
            for task, event in self._engine.advance():
                events.append(self._sendable(task, event))
                is_one_over |= not isinstance(event, Begun)
        return Report(events, dict(self._progress))

    def _begin(self, number: int, job: Job, data: bytes) -> tuple[int, Exception] | None:
        """Begin a song; returns its number and the error if that fails."""
        try:
            file: Any = tempfile.TemporaryFile()
        except OSError as error:
            return number, error
        task = Task(job, data, Destination(file, job.name, can_seek=True))
        try:
            self._engine.begin(task)
        except Exception as error:
            file.close()
            return number, _explained(error)
        self._numbers[task], self._files[task] = number, file
        return None

    def _on_progress(self, task: Task, progress: Progress) -> None:
        if task in self._numbers:
            self._progress[self._numbers[task]] = progress

    def _sendable(self, task: Task, event: Event) -> tuple[int, SendableEvent]:
        """Convert an event so that it can be sent, with the number of its song."""
        import numpy as np
        import ray

        number = self._numbers[task]
        if isinstance(event, Begun):
            return number, event
        del self._numbers[task]
        self._progress.pop(number, None)
        with self._files.pop(task) as file:
            if isinstance(event, Exception):
                return number, _explained(event)
            try:
                file.seek(0)
                data = ray.put(np.fromfile(file, np.uint8))
                return number, FinishedFile(replace(event, host=self._host), data)
            except Exception as error:  # no memory, no room in the object store
                return number, _explained(error)


def _explained(error: Exception) -> Exception:
    """Add the traceback to an error that is a bug, as Ray would send it without one."""
    if not isinstance(error, (SpectroRenderError, OSError)) and sys.version_info >= (3, 11):
        error.add_note("".join(traceback.format_exception(error)))
    return error
