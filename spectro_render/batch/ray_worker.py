"""What a machine of a Ray cluster does: renders as one machine does, and keeps what it has made."""

from __future__ import annotations

import os
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
from spectro_render.batch.engine import LocalEngine
from spectro_render.batch.jobs import Job
from spectro_render.batch.tasks import Begun, Event, Finished, Settings, Task
from spectro_render.errors import DeviceError, EngineError, SpectroRenderError, WeightsError

if TYPE_CHECKING:
    import ray

MakeEngine: TypeAlias = Callable[[Settings, int], LocalEngine]  # of so many cores


@dataclass(frozen=True)
class Welcome:
    """A worker that is ready."""

    host: str
    node: str  # Ray's name of the machine
    version: str  # of this program
    fingerprint: str  # of the model
    size: int  # songs side by side


@dataclass(frozen=True)
class Sound:
    """A song that is over, and the bytes of its output, until they are fetched."""

    finished: Finished
    data: ray.ObjectRef[Any]  # uint8 (bytes,)


Told: TypeAlias = "Begun | Sound | Exception"


@dataclass(frozen=True)
class Report:
    """What a worker has to tell of its songs, which have numbers."""

    events: list[tuple[int, Told]]
    progress: dict[int, tuple[float, int]]  # windows done, of how many


def make_engine(settings: Settings, cores: int) -> LocalEngine:
    """An engine on some cores of this machine, with the model in memory."""
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as `cli` does, for torch
    import torch

    torch.set_num_threads(cores)
    engine = LocalEngine(settings, sys.maxsize)
    _ = engine.renderer
    return engine


class Worker:
    """The actor. One call at a time; songs are computed only within `render`."""

    def __init__(self, settings: Settings, cores: int, make_engine: MakeEngine) -> None:
        self._settings, self._cores, self._make_engine = settings, cores, make_engine
        self._host = socket.gethostname()
        self._numbers: dict[Task, int] = {}
        self._outputs: dict[Task, BinaryIO] = {}  # files without names
        self._progress: dict[int, tuple[float, int]] = {}

    def hello(self) -> Welcome:
        """Load the model. Raises EngineError."""
        try:
            fingerprint = self._settings.fingerprint()
            self._engine = self._make_engine(self._settings, self._cores)
        except (WeightsError, DeviceError) as error:
            raise EngineError(f"{self._host}: {error.message}", error.hint) from None
        import ray

        node = ray.get_runtime_context().get_node_id()
        return Welcome(self._host, node, __version__, fingerprint, self._engine.size)

    def render(self, songs: Sequence[tuple[int, Job, bytes]], seconds: float) -> Report:
        """Begin songs, and go on with all until some are over, or so many seconds have passed."""
        end = time.monotonic() + seconds
        failed = [self._begin(*song) for song in songs]
        events: list[tuple[int, Told]] = [event for event in failed if event is not None]
        is_one_over = bool(events)
        while not (is_one_over or self._engine.is_idle or time.monotonic() > end):
            for task, event in self._engine.advance():
                events.append(self._told(task, event))
                is_one_over |= not isinstance(event, Begun)
        return Report(events, dict(self._progress))

    def _begin(self, number: int, job: Job, data: bytes) -> tuple[int, Exception] | None:
        """What is wrong with a song, if anything."""
        try:
            file: Any = tempfile.TemporaryFile()
        except OSError as error:
            return number, error
        task = Task(job, data, partial(Destination, file, job.name, can_seek=True))
        task.on_progress = partial(self._on_progress, number)
        try:
            self._engine.begin(task)
        except Exception as error:
            file.close()
            return number, _explained(error)
        self._numbers[task], self._outputs[task] = number, file
        return None

    def _on_progress(self, number: int, done: float, windows: int) -> None:
        self._progress[number] = done, windows

    def _told(self, task: Task, event: Event) -> tuple[int, Told]:
        """An event as it can be sent."""
        number = self._numbers[task]
        if isinstance(event, Begun):
            return number, event
        del self._numbers[task]
        self._progress.pop(number, None)
        with self._outputs.pop(task) as file:
            if isinstance(event, Exception):
                return number, _explained(event)
            try:
                return number, _kept(replace(event, host=self._host), file)
            except Exception as error:  # no memory, no room in the object store
                return number, _explained(error)


def _kept(finished: Finished, file: BinaryIO) -> Sound:
    import numpy as np
    import ray

    file.seek(0)
    return Sound(finished, ray.put(np.fromfile(file, np.uint8)))


def _explained(error: Exception) -> Exception:
    """A bug with its trace, which would not travel with it."""
    if not isinstance(error, (SpectroRenderError, OSError)) and sys.version_info >= (3, 11):
        error.add_note("".join(traceback.format_exception(error)))
    return error
