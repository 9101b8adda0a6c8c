"""A worker on a machine of a Ray cluster."""

from __future__ import annotations

import socket
import tempfile
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, BinaryIO

from spectro_render import __version__
from spectro_render.batch.engine import find_model
from spectro_render.batch.tasks import Finished, Settings
from spectro_render.batch.worker import MakeEngine, Worker
from spectro_render.checkpoints.find import fingerprint_of
from spectro_render.errors import DeviceError, EngineError, WeightsError

if TYPE_CHECKING:
    import ray


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


class RayWorker(Worker[FinishedFile]):
    """A Ray actor that renders songs into temporary files without names."""

    def __init__(self, settings: Settings, cores: int, make_engine: MakeEngine) -> None:
        super().__init__(settings, cores, make_engine)
        self._host = socket.gethostname()

    def start(self) -> WorkerReady:
        """Load the model. Raises EngineError if that fails."""
        try:
            fingerprint = fingerprint_of(find_model(self._settings.model))
            size = self.load()
        except (WeightsError, DeviceError) as error:
            raise EngineError(f"{self._host}: {error.message}", error.hint) from None
        import ray

        node = ray.get_runtime_context().get_node_id()
        return WorkerReady(self._host, node, __version__, fingerprint, size)

    def open_file(self, number: int) -> tuple[BinaryIO, bool]:
        """Open a temporary file. Raises OSError."""
        file: Any = tempfile.TemporaryFile()
        return file, True

    def deliver(self, file: BinaryIO, finished: Finished) -> FinishedFile:
        """Put the bytes of a song into Ray's object store."""
        import numpy as np
        import ray

        file.seek(0)
        data = ray.put(np.fromfile(file, np.uint8))
        return FinishedFile(replace(finished, host=self._host), data)
