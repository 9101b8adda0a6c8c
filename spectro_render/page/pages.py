"""Makes the pictures and the pages of the songs of a batch, next to its outputs or elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from importlib.util import find_spec
from pathlib import Path

from spectro_render import __version__
from spectro_render.atomic import new_file
from spectro_render.audio.stems import INDEX, stems_folder
from spectro_render.batch.jobs import Job
from spectro_render.batch.tasks import Begun, Finished, Settings, Task
from spectro_render.errors import (
    OptionError,
    OutputError,
    SpectroRenderError,
    install_hint,
    reason_of,
)
from spectro_render.midi.length import part_to_render
from spectro_render.midi.read import as_score
from spectro_render.options import RenderOptions, Sampling
from spectro_render.page.rendering import Rendering, Stem
from spectro_render.page.sound import sound_of_file
from spectro_render.report import count, times_real_time

# Options that `describe` shows in words of its own, or that change no sound. Others are shown under
# their names if they are not the defaults.
_SHOWN = {
    *("seed", "quality", "sampler", "steps", "guidance", "programs", "drums", "transpose", "tempo"),
    *("velocity", "bars", "start", "duration", "gain", "max_hours", "skip_missing"),
}
_SUFFIXES = {"plot": ".png", "report": ".html"}


@dataclass(frozen=True)
class Wanted:
    """What to draw of each song; a path is a file for one song, and a folder for several."""

    plot: str | None = None
    report: str | None = None

    @property
    def kinds(self) -> dict[str, str]:
        """The paths by the name of the option, without those that are not wanted."""
        both = {"plot": self.plot, "report": self.report}
        return {kind: path for kind, path in both.items() if path is not None}


class Pages:
    """Draws songs when they are rendered; to be given to a Batch."""

    def __init__(
        self,
        wanted: Wanted,
        settings: Settings,
        jobs: Sequence[Job],
        *,
        several: bool,
        folder: Path | None,
    ) -> None:
        """Choose the files to write.

        With `several`, they are in the folders that are wanted, at the places of the outputs below
        `folder`, if there is one. Raises OptionError where a song has no file to draw or two would
        share one, SpectroRenderError where a package is missing.
        """
        self._settings = settings
        self._places: dict[Job, dict[str, Path]] = {job: {} for job in jobs}
        for kind, path in wanted.kinds.items():
            if settings.encoding.format == "raw":
                hint = "leave out --raw, or render twice"
                raise OptionError(f"--{kind} cannot read bare samples again", hint)
            if any(job.is_streamed for job in jobs):
                raise OptionError(f"--{kind} needs a file of the sound", "name one with -o")
            self._place(kind, path, several, folder)
        if wanted.plot is not None and find_spec("matplotlib") is None:
            raise SpectroRenderError("--plot needs the package matplotlib", install_hint("plot"))

    def _place(self, kind: str, path: str, several: bool, folder: Path | None) -> None:
        suffix = _SUFFIXES[kind]
        is_file = path.lower().endswith(suffix) and not Path(path).is_dir()
        if several and is_file:
            raise OptionError(
                f"--{kind} {path} is one file for several songs", "name a folder for them"
            )
        if not several and not is_file and not (path.endswith("/") or Path(path).is_dir()):
            raise OptionError(f"--{kind} {path} is no {suffix} file", f"name it {path}{suffix}")
        taken: dict[Path, Job] = {}
        for job, places in self._places.items():
            if job.target is None:
                continue
            place = Path(path)
            if not is_file:
                below = job.target.relative_to(folder) if folder else Path(job.target.name)
                place = place / below.with_suffix(suffix)
            if place in taken:
                raise OptionError(
                    f"{taken[place].name} and {job.name} would have the same --{kind} {place}",
                    "render them one by one",
                )
            taken[place] = job
            places[kind] = place

    def draw(self, task: Task, begun: Begun, made: Finished) -> dict[str, str]:
        """Draw a song whose output is complete.

        Returns the paths of what was written by its kind. Raises OutputError where the sound cannot
        be read again, or a file cannot be written.
        """
        places, target = self._places[task.job], task.job.target
        if not places or target is None:
            return {}
        options = task.job.options or self._settings.options
        score = as_score(task.data, options, allow_rests=options.to_end_of_track)
        rendering = Rendering(
            title=task.job.name if task.job.source is None else task.job.source.name,
            score=part_to_render(score, options),
            sound=sound_of_file(target),
            settings=describe(made.model, made.device, made.sampling, options),
            numbers={
                "rendered in": f"{made.wall_seconds:.2f} s"
                f" ({times_real_time(made.seconds, made.wall_seconds):.1f} times real time)"
            },
            losses=losses_of(begun),
            stems=_stems_beside(target) if task.job.has_stems else (),
        )
        for kind, place in places.items():
            _write(place, _MAKERS[kind](rendering))
        return {kind: str(place) for kind, place in places.items()}


def _stems_beside(mix: Path) -> list[Stem]:
    """The stems of a mix, which are in the folder beside it. Raises OutputError."""
    folder = stems_folder(mix)
    try:
        stems = json.loads((folder / INDEX).read_bytes())["stems"]
    except (OSError, ValueError, KeyError) as error:
        raise OutputError(f"{folder}: the stems cannot be read again: {error}") from error
    return [Stem(stem["name"], sound_of_file(folder / stem["file"])) for stem in stems]


def _plot(rendering: Rendering) -> bytes:
    from spectro_render.page.plot import draw_plot

    return draw_plot(rendering)


def _report(rendering: Rendering) -> bytes:
    from spectro_render.page.html import make_page

    return make_page(rendering).encode()


_MAKERS: dict[str, Callable[[Rendering], bytes]] = {"plot": _plot, "report": _report}


def _write(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        why = f"cannot make the folder: {reason_of(error)}"
        raise OutputError(f"{path.parent}: {why}", "choose another folder") from error
    with new_file(path) as temporary:
        temporary.write_bytes(data)


def describe(
    model: str, device: str, sampling: Sampling | None, options: RenderOptions
) -> dict[str, str]:
    """The settings of a rendered song, as they are shown: name and value."""
    shown = {"model": model, "seed": str(options.seed)}
    if sampling is not None:
        shown["steps"] = f"{sampling.steps} ({sampling.sampler})"
        shown["guidance"] = f"{sampling.guidance:g}" if sampling.guidance != 1 else "none"
    if options.programs:
        named = (f"{part}: {name}" for part, name in options.programs.items())
        shown["instruments"] = ", ".join(named)
    if not options.drums:
        shown["drums"] = "off"
    if options.transpose:
        shown["transposed by"] = f"{options.transpose:+d} semitones"
    if options.tempo != 1:
        shown["tempo"] = f"{options.tempo:g} times the file's"
    if options.velocity != 1:
        shown["velocity"] = f"{options.velocity:g} times the file's"
    if options.bars is not None:
        shown["bars"] = options.bars
    if options.start:
        shown["start"] = f"{options.start:g} s"
    if options.duration is not None:
        shown["duration"] = f"{options.duration:g} s"
    if options.gain is not None:
        shown["gain"] = f"{options.gain:g} dB"
    usual = RenderOptions()
    for field in fields(options):
        value = getattr(options, field.name)
        if field.name in _SHOWN or value == getattr(usual, field.name):
            continue
        if isinstance(value, bool):
            value = "on" if value else "off"
        elif isinstance(value, tuple):
            value = ", ".join(value)
        shown[field.name.replace("_", " ")] = str(value)
    return {**shown, "device": device, "program": f"spectro-render {__version__}"}


def losses_of(begun: Begun) -> list[str]:
    """What was repaired in a file, and what of it is not heard, in words."""
    return [
        *(f"repaired: {repair}" for repair in begun.repairs),
        *(f"ignored: {phrase}" for phrase in begun.ignored),
        *(
            f"too dense at {seconds:.2f} s: {count(notes, 'note')} left out"
            for seconds, notes in begun.left_out
        ),
    ]
