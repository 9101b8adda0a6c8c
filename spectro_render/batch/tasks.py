"""The tasks that an engine renders, the settings for them, and the events that it reports."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Protocol, TypeAlias

from spectro_render.audio.destination import Destination
from spectro_render.audio.normalize import Result
from spectro_render.batch.jobs import Job
from spectro_render.errors import OutputError
from spectro_render.midi.changes import changes_of
from spectro_render.options import Encoding, ModelChoice, Progress, RenderOptions, Sampling


@dataclass(frozen=True)
class Settings:
    """The settings for all songs of one command."""

    model: ModelChoice
    options: RenderOptions
    encoding: Encoding
    batch_size: int | None = None  # songs at once; None: what suits the model

    @property
    def origin(self) -> dict[str, Any]:
        """The settings that change an output, apart from the model's files, as plain values."""
        return self._origin(self.options)

    def origin_of(self, job: Job) -> dict[str, Any]:
        """The settings that change the output of a song."""
        return self._origin(job.options or self.options)

    def _origin(self, options: RenderOptions) -> dict[str, Any]:
        network: dict[str, Any] = {"dtype": self.model.dtype, "vocoder": self.model.vocoder}
        if self.model.timbres:  # which older records do not name
            network["timbres"] = [[each.program, each.given] for each in self.model.timbres]
        values = asdict(options)
        # They decide whether there is an output, but change none.
        del values["max_hours"], values["skip_missing"]
        changes = changes_of(options)  # with numbers for the names of instruments
        values["programs"] = list(map(list, changes.programs)) if changes else []
        encoding = asdict(self.encoding)
        quality = encoding.pop("quality")  # a field of the options has this name, too
        if quality is not None:  # which older records do not name
            encoding["encoder_quality"] = quality
        return {**network, **encoding, **values}


@dataclass(frozen=True)
class Cluster:
    """Which Ray cluster to render on, and how much of it to use."""

    address: str | None = (
        None  # as for ray.init; None: the running cluster, else one on this machine
    )
    workers: int | None = None  # None: as many as fit on its machines
    cores: int | None = None  # of a worker without a GPU


@dataclass(frozen=True, eq=False)
class Task:
    """A song to render, and where its sound goes.

    When `Engine.begin` has returned, the engine is responsible for the output.
    """

    job: Job
    data: bytes  # MIDI
    output: Destination


def discard(output: Destination) -> None:
    """Remove an output that will not be completed.

    Errors are suppressed, as the error that was the cause is reported already.
    """
    with suppress(OSError, OutputError):
        output.discard()


@dataclass(frozen=True)
class Begun:
    """Event: the notes of a task have been read, and its rendering begins."""

    notes: int
    ignored: Sequence[str]  # what is in the MIDI file but cannot be played
    repairs: Sequence[str]  # what was damaged in the MIDI file
    left_out: Sequence[tuple[float, int]]  # time in seconds, and number of notes left out there
    is_whole: bool = False  # whether all sound comes at the end, as the vocoder needs it


@dataclass(frozen=True)
class Finished:
    """Event: the output of a task is complete."""

    seconds: float  # length of the sound
    wall_seconds: float  # time since the task began
    beside: int  # number of other songs that could be rendered at the same time
    model: str
    device: str
    sample_rate: int  # Hz
    sampling: Sampling | None = None  # None: of an autoregressive model
    host: str = ""  # name of the machine; "": this one
    level: Result | None = None  # what normalizing did


Event: TypeAlias = "Begun | Finished | Exception"  # Finished and errors end a task


class Engine(Protocol):
    """Something that renders tasks. A task that does not finish leaves no output behind."""

    on_progress: Callable[[Task, Progress], None]  # called from any thread

    @property
    def has_room(self) -> bool:
        """Whether one more task may begin."""

    def begin(self, task: Task) -> None:
        """Begin a task and take over its output. If this raises, the caller keeps the output."""

    def advance(self) -> list[tuple[Task, Event]]:
        """Work on the tasks that have begun until there is an event, or for some time."""

    def stop(self) -> None:
        """Give up all tasks that are not over. No task can begin after that."""
