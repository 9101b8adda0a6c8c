"""What an engine is given to render, and the events that it reports; all of it is plain data."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

from spectro_render.audio.destination import Destination
from spectro_render.batch.jobs import Job
from spectro_render.errors import OutputError
from spectro_render.options import Encoding, ModelChoice, RenderOptions


@dataclass(frozen=True)
class Settings:
    """How all songs of one command are rendered and written."""

    model: ModelChoice
    options: RenderOptions
    encoding: Encoding
    batch_size: int | None = None  # songs side by side; None: what suits the model

    @property
    def origin(self) -> dict[str, Any]:
        """The settings that change an output, apart from the model's files, as plain values."""
        network = {"dtype": self.model.dtype, "vocoder": self.model.vocoder}
        return {**network, **asdict(self.encoding), **asdict(self.options)}


@dataclass(frozen=True)
class Cluster:
    """Which Ray cluster to render on, and how much of it to use."""

    address: str | None = None  # as ray.init takes it; None: the one at hand, else this machine
    workers: int | None = None  # None: as many as its machines have room for
    cores: int | None = None  # of a worker without a GPU


@dataclass(frozen=True, eq=False)
class Task:
    """A song to render, and where its sound goes.

    The output belongs to the engine from the moment that `Engine.begin` returns.
    """

    job: Job
    data: bytes  # MIDI
    output: Destination


def discard(output: Destination) -> None:
    """Leave nothing of an output that will not be complete.

    Errors are suppressed, because the one that led here is reported already.
    """
    with suppress(OSError, OutputError):
        output.discard()


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
