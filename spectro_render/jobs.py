"""What is to be rendered: the command line's inputs and output, as one job a file."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from spectro_render.encoders import FORMATS, format_of
from spectro_render.errors import OptionError

MIDI_SUFFIXES = (".mid", ".midi", ".kar", ".rmi")
STREAM = "-"  # stands for standard input and for standard output


@dataclass(frozen=True)
class Job:
    """One file to render, or a folder that gives none."""

    source: Path | None  # None is standard input
    target: Path | None  # None is standard output
    is_explicit: bool = False  # the user named this very output, so it may be replaced
    problem: str = ""  # with a folder: said when its turn comes, and the others go on

    @property
    def name(self) -> str:
        """The input, as messages call it."""
        return str(self.source) if self.source else STREAM

    @property
    def is_streamed(self) -> bool:
        """Whether the sound goes to standard output."""
        return self.target is None and not self.problem

    @property
    def is_complete(self) -> bool:
        """Whether the output is there; a file has its final name only once it is complete."""
        target = self.target
        return target is not None and os.path.isfile(target) and os.path.getsize(target) > 0


def is_batch(inputs: Sequence[str]) -> bool:
    """Whether there may be several outputs."""
    return len(inputs) > 1 or any(name != STREAM and os.path.isdir(name) for name in inputs)


def choose_format(output: str | None, format: str | None, *, batch: bool) -> str:
    """The audio format: `format`, else what the suffix of `output` says, else WAV.

    Raises OptionError for a suffix that is unknown or that contradicts `format`.
    """
    if output is None or output == STREAM or batch or _is_folder(output):
        return format or "wav"
    suffix = Path(output).suffix.lower().removeprefix(".")
    if format is None:
        return format_of(output)
    if suffix in FORMATS and suffix != format:
        raise OptionError(f"{output} says {suffix}, but {format} is asked for", "leave one out")
    return format


def plan_jobs(inputs: Sequence[str], output: str | None, format: str) -> list[Job]:
    """One job for each MIDI file that `inputs` name, in a stable order.

    Folders are searched in depth (hidden names are passed over) and their layout is mirrored under
    `output`. Inputs that would share an output keep their own suffix in its name: `a.mid` and
    `a.kar` become `a.mid.wav` and `a.kar.wav`. Raises OptionError for what cannot be.
    """
    _check_inputs(inputs)
    batch = is_batch(inputs)
    if batch:
        _check_batch_output(output)
    jobs = dict.fromkeys(job for name in inputs for job in _jobs_of(name, output, format, batch))
    distinct = _distinct(list(jobs))
    _check_no_input_replaced(distinct)
    return distinct


def _check_inputs(inputs: Sequence[str]) -> None:
    if "" in inputs:
        raise OptionError("an input has an empty name", "name a file, a folder or '-'")
    if inputs.count(STREAM) > 1:
        raise OptionError("standard input can be read only once", "give one '-'")


def _check_batch_output(output: str | None) -> None:
    if output is None:
        return
    if output == STREAM:
        raise OptionError("standard output holds only one song", "name a folder with -o")
    if os.path.exists(output) and not os.path.isdir(output):
        raise OptionError(f"{output} is a file", "several inputs need a folder")
    if not _is_folder(output) and Path(output).suffix.lower().removeprefix(".") in FORMATS:
        raise OptionError(f"{output} looks like a file", "several inputs need a folder")


def _jobs_of(name: str, output: str | None, format: str, batch: bool) -> Iterator[Job]:
    """The jobs of one input."""
    if name == STREAM:
        yield _stream_job(output, format, batch)
    elif os.path.isdir(name):
        yield from _folder_jobs(Path(name), output, format)
    else:
        yield _file_job(Path(name), output, format, batch)


def _folder_jobs(folder: Path, output: str | None, format: str) -> Iterator[Job]:
    """A job each MIDI file and each folder that cannot be read."""
    errors: list[OSError] = []
    found = list(_midi_files(folder, errors.append))
    for source in found:
        below = source.relative_to(folder) if output else source
        yield Job(source, Path(output or "", below).with_suffix(f".{format}"))
    for error in errors:
        reason = os.strerror(error.errno or 0).lower()
        yield Job(Path(error.filename), None, problem=f"cannot read the folder: {reason}")
    if not found and not errors:
        suffixes = ", ".join(MIDI_SUFFIXES)
        yield Job(folder, None, problem=f"no MIDI file in this folder; looked for {suffixes}")


def _stream_job(output: str | None, format: str, batch: bool) -> Job:
    if output in (None, STREAM) and not batch:
        return Job(None, None)
    if output is None:
        raise OptionError("standard input has no folder of its own", "name one with -o")
    if batch or _is_folder(output):
        return Job(None, Path(output, f"stdin.{format}"))
    return Job(None, Path(output), is_explicit=True)


def _file_job(source: Path, output: str | None, format: str, batch: bool) -> Job:
    if output is None:
        return Job(source, source.with_suffix(f".{format}"))
    if output == STREAM:
        return Job(source, None)
    if batch or _is_folder(output):
        return Job(source, Path(output, source.name).with_suffix(f".{format}"))
    return Job(source, Path(output), is_explicit=True)


def _is_folder(output: str) -> bool:
    return output.endswith(("/", os.sep)) or os.path.isdir(output)


def _midi_files(folder: Path, on_error: Callable[[OSError], None]) -> Iterator[Path]:
    """All MIDI files below `folder`, by name; `on_error` hears of folders that cannot be read."""
    for parent, folders, files in os.walk(folder, onerror=on_error):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and name.lower().endswith(MIDI_SUFFIXES):
                yield Path(parent, name)


def _distinct(jobs: list[Job]) -> list[Job]:
    """Jobs whose outputs are all different."""
    shared = _shared_targets(jobs)
    longer = [_keep_suffix(job) if job.target in shared else job for job in jobs]
    for target in _shared_targets(longer):
        sources = " and ".join(job.name for job in longer if job.target == target)
        raise OptionError(f"{sources} would both become {target}", "render them one by one")
    return longer


def _shared_targets(jobs: list[Job]) -> set[Path]:
    counts = Counter(job.target for job in jobs if job.target)
    return {target for target, count in counts.items() if count > 1}


def _keep_suffix(job: Job) -> Job:
    """`a.wav` made from `a.mid` becomes `a.mid.wav`."""
    if job.source is None or job.target is None:
        return job
    return replace(job, target=job.target.with_name(job.source.name + job.target.suffix))


def _check_no_input_replaced(jobs: list[Job]) -> None:
    inputs = {_identity(job.source) for job in jobs if job.source} - {None}
    for job in jobs:
        if job.target and _identity(job.target) in inputs:
            raise OptionError(f"{job.target} is an input", "choose another output")


def _identity(path: Path) -> tuple[int, int] | None:
    """What stays the same under every name of a file; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
