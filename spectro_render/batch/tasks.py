"""What is handed to those who render, and what they tell of it; all of it can be sent elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeAlias

from spectro_render.audio.destination import Destination
from spectro_render.batch.jobs import Job
from spectro_render.options import Encoding


@dataclass(frozen=True)
class Settings:
    """How all songs of one command are rendered and written."""

    model: dict[str, Any]  # for Renderer.load
    choices: dict[str, Any]  # for RenderOptions: what the user chose
    encoding: Encoding
    batch_size: int | None = None  # songs side by side; None: what suits the model

    @property
    def origin(self) -> dict[str, Any]:
        """What of it can be heard, but for the model, which `fingerprint` tells."""
        network = {name: self.model.get(name) for name in ("dtype", "vocoder")}
        return {**network, **asdict(self.encoding), **self.choices}

    def fingerprint(self) -> str:
        """Which model this is, wherever it lies. Raises WeightsError."""
        from spectro_render.checkpoints.find import fingerprint_of

        return fingerprint_of(self._files())

    def size(self) -> int:
        """Bytes of the model's files. Raises WeightsError."""
        from spectro_render.checkpoints.find import bytes_of

        return bytes_of(self._files())

    def _files(self) -> Any:
        from spectro_render.checkpoints.find import resolve_model
        from spectro_render.report import Reporter

        model, vocoder = self.model.get("model", "default"), self.model.get("vocoder")
        return resolve_model(model, vocoder, Reporter(quiet=bool(self.model.get("quiet"))))


@dataclass(frozen=True)
class Cluster:
    """Which Ray cluster to render on, and how much of it to use."""

    address: str | None = None  # as ray.init takes it; None: the one at hand, else this machine
    workers: int | None = None  # None: as many as its machines have room for
    cores: int | None = None  # of a worker without a GPU


@dataclass(eq=False)
class Task:
    """A song to render."""

    job: Job
    data: bytes  # MIDI
    open: Callable[[], Destination]  # takes the output, once; raises OutputError, OutputBusy
    on_progress: OnProgress = field(default=lambda windows, of: None)  # from any thread


OnProgress: TypeAlias = Callable[[float, int], None]  # called with windows done, of how many


@dataclass(frozen=True)
class Begun:
    """The notes of a task have been read."""

    notes: int
    ignored: Sequence[str]  # what the MIDI holds and the model cannot play
    repairs: Sequence[str]
    left_out: Sequence[tuple[float, int]]  # where it is too dense: seconds, notes


@dataclass(frozen=True)
class Finished:
    """The output of a task is complete."""

    seconds: float  # of sound
    wall_seconds: float  # since it was begun
    beside: int  # songs for which there was room beside it
    model: str
    device: str
    sample_rate: int  # Hz
    host: str = ""  # the machine; "": this one


Event: TypeAlias = "Begun | Finished | Exception"  # after the last two a task is over
