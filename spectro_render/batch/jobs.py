"""Turns the inputs and the output of the command line into one job per MIDI file."""

from __future__ import annotations

import codecs
import glob
import math
import os
import stat
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path

from spectro_render.atomic import walk
from spectro_render.audio.encoders import ELSEWHERE, SUFFIXES, format_of
from spectro_render.audio.stems import INDEX, stems_folder
from spectro_render.batch.template import NOWHERE, check_template, fill_template, is_template
from spectro_render.errors import MidiError, OptionError, OutputError, reason_of
from spectro_render.midi.read import MIDI_SUFFIXES, read_bytes
from spectro_render.options import RenderOptions

MAX_LIST = 1 << 28  # bytes of a list of files
_MOST_COMPARED = 10_000  # names that a name is compared with, which takes a second
_SCORES = (".musicxml", ".mxl", ".mscz", ".mscx")  # of notation programs
STREAM = "-"  # stands for standard input and for standard output


@dataclass(frozen=True)
class Job:
    """The input and the output of one song, or an input that has no song, with the problem."""

    source: Path | None  # None is standard input
    target: Path | None  # None is standard output, or nothing if the song is only played
    is_explicit: bool = False  # the user named this output in full, so it may be replaced
    is_played: bool = False  # whether the sound is only played, and not kept
    has_stems: bool = False  # whether a folder beside the output has the stems of the song
    problem: str = ""  # why the input has no song; it is reported when the job begins
    options: RenderOptions | None = None  # of this song; None: those of all songs

    @property
    def name(self) -> str:
        """The input's name in messages."""
        return str(self.source) if self.source else STREAM

    @property
    def is_streamed(self) -> bool:
        """Whether the sound goes to standard output."""
        return self.target is None and not (self.problem or self.is_played)

    @property
    def is_complete(self) -> bool:
        """Whether the output exists; files get their final names when they are complete."""
        target = self.target
        if target is None or not os.path.isfile(target) or os.path.getsize(target) == 0:
            return False
        return not self.has_stems or os.path.isfile(stems_folder(target) / INDEX)

    def check_input(self) -> None:
        """Raise MidiError if there is no input. It is not opened, which takes time."""
        if self.problem:
            raise MidiError(self.problem)
        if self.source is not None and not os.path.exists(self.source):
            raise _missing(self.source)

    def read(self) -> bytes:
        """Read the bytes of the MIDI file. Raises MidiError if that fails or there is none."""
        self.check_input()
        if self.source is not None and self.source.suffix.lower() in _SCORES:
            hint = "export MIDI from your notation program, with MuseScore: mscore -o song.mid"
            raise MidiError("is a score, not MIDI", f"{hint} {self.source.name}")
        return read_bytes(self.source or sys.stdin.buffer)

    @property
    def missing_folders(self) -> list[Path]:
        """The folders that `prepare_target` would make, innermost first."""
        if self.target is None or self.is_explicit:
            return []
        return [folder for folder in self.target.parents if not os.path.lexists(folder)]

    def prepare_target(self) -> Path | None:
        """The file to write, or None for standard output; what is only played goes to no file.

        Folders of a file that the user did not name in full are made. Raises OutputError if that
        fails.
        """
        if self.target and not self.is_explicit:
            try:
                self.target.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                why = f"cannot make the folder: {reason_of(error)}"
                raise OutputError(
                    f"{self.target.parent}: {why}", "choose another folder"
                ) from error
        return Path(os.devnull) if self.is_played else self.target


def _missing(source: Path) -> MidiError:
    """The error for an input that does not exist, with the names that may have been meant."""
    if os.path.lexists(source):
        return MidiError("is a link to a file that does not exist", "check the link")
    try:
        os.stat(source)
    except FileNotFoundError:
        pass
    except OSError as error:  # a name that is too long, a folder that may not be searched
        return MidiError(f"cannot be opened ({error.strerror})", "check the path")
    try:
        names = sorted(
            name for name in os.listdir(source.parent) if name.lower().endswith(MIDI_SUFFIXES)
        )[:_MOST_COMPARED]
    except OSError:
        return MidiError("no such file: its folder cannot be read", "check the path")
    near = get_close_matches(source.name, names, n=2, cutoff=0.75)
    meant = " or ".join(str(source.with_name(name)) for name in near)
    return MidiError("no such file", f"did you mean {meant}?" if near else "check the path")


def read_lists(inputs: Sequence[str], files_from: str | None) -> tuple[list[str], list[str]]:
    """Split the inputs: returns those that are not lists, and the names in the lists.

    Lists are `files_from` and inputs of the form `@LIST`. Raises OptionError for a list that cannot
    be read or is empty.
    """
    is_list = [name.startswith("@") and not os.path.exists(name) for name in inputs]
    lists = [name[1:] for name, listed in zip(inputs, is_list, strict=True) if listed]
    plain = [name for name, listed in zip(inputs, is_list, strict=True) if not listed]
    lists += [] if files_from is None else [files_from]
    if (*lists, *plain).count(STREAM) > 1:
        raise OptionError("standard input can be read only once", "give one '-'")
    return plain, [name for listing in lists for name in _listed(listing)]


def _listed(listing: str) -> list[str]:
    """Read the names in a list: one per line, or each ended by a null byte (`find -print0`)."""
    try:
        if listing == STREAM:
            data = sys.stdin.buffer.read(MAX_LIST + 1)
        else:
            with open(listing, "rb") as file:
                data = file.read(MAX_LIST + 1)
    except OSError as error:
        message = f"the list {listing} cannot be read: {reason_of(error)}"
        raise OptionError(message, "check the path") from error
    if len(data) > MAX_LIST:
        hint = "name the folders instead, or give several lists"
        raise OptionError(f"the list {listing} is larger than {MAX_LIST >> 20} MB", hint)
    try:
        data = _without_mark(data)
    except UnicodeError as error:
        message = f"the list {listing} is in UTF-16 that cannot be read"
        raise OptionError(message, "save it in UTF-8") from error
    names = data.split(b"\0")
    if len(names) == 1:
        names = [line.removesuffix(b"\r") for line in data.split(b"\n")]
    if not any(names):
        raise OptionError(f"the list {listing} is empty", "write the name of a file on each line")
    return [os.fsdecode(name) for name in names if name]


def _without_mark(data: bytes) -> bytes:
    """The text of a list as bytes of names, without a byte order mark.

    With the mark of UTF-16, which PowerShell writes, the names are encoded as the system does.
    Without a mark, UTF-16 would look like names of one letter ended by null bytes, and `/` is one:
    that raises UnicodeError, as does text that is damaged.
    """
    data = data.removeprefix(codecs.BOM_UTF8)
    if b"\0" not in data:
        return data
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return os.fsencode(data.decode("utf-16"))
    if len(data) >= 8 and not (any(data[0:8:2]) and any(data[1:8:2])):
        raise UnicodeError
    return data


def is_batch(inputs: Sequence[str], listed: Sequence[str] = ()) -> bool:
    """Whether there may be several outputs."""
    return (
        len(inputs) > 1
        or bool(listed)
        or any(os.path.isdir(name) or _is_pattern(name) for name in inputs if name != STREAM)
    )


def _is_pattern(name: str) -> bool:
    """Whether an input has wildcards and is not itself the name of a file."""
    return glob.has_magic(name) and not os.path.lexists(name)


def common_folder(
    inputs: Sequence[str], output: str | None, listed: Sequence[str] = ()
) -> Path | None:
    """The folder that has all outputs, directly or in folders below; None if there is none."""
    if is_template(output):
        return None
    if output is not None and output != STREAM and (is_batch(inputs, listed) or _is_folder(output)):
        return Path(output)
    if output is None and not listed and len(inputs) == 1 and os.path.isdir(inputs[0]):
        return Path(inputs[0])
    return None


def choose_format(output: str | None, format: str | None, *, batch: bool) -> str:
    """The audio format: `format`, else what the suffix of `output` says, else WAV.

    Raises OptionError for a suffix that is unknown or contradicts `format`.
    """
    in_template = is_template(output) and Path(output or "").suffix.startswith(".{")
    in_folder = output is None or output == STREAM or _is_folder(output)
    if output is None or in_folder or in_template or (batch and not is_template(output)):
        return format or "wav"
    if format is None:
        return format_of(output)
    if SUFFIXES.get(Path(output).suffix.lower(), format) != format:
        raise OptionError(f"the suffix of {output} contradicts --format {format}", "leave one out")
    return format


def plan_jobs(
    inputs: Sequence[str],
    output: str | None,
    format: str,
    listed: Sequence[str] = (),
    values: Mapping[str, object] | None = None,
) -> list[Job]:
    """Make one job for each MIDI file in `inputs` and in `listed` (see `read_lists`), in order.

    A folder is searched with all folders in it; hidden names and links to folders are skipped. The
    outputs are at the same places below `output`. For a pattern (`**` stands for any folders) that
    is the place below its first wildcard; a listed file keeps the folders of its name.

    An output with braces is a template, whose fields are filled for each song and from `values`.

    Inputs that would share an output keep their own suffix in its name: `a.mid` and `a.kar` become
    `a.mid.wav` and `a.kar.wav`. Raises OptionError for no inputs, an output that does not suit
    them, and outputs that would still be equal or would replace an input.
    """
    _check_inputs((*inputs, *listed))
    _refuse_sound(inputs)
    batch = is_batch(inputs, listed)
    template = output if is_template(output) else None
    if template is not None:
        check_template(template, values or {})
        output = f"{NOWHERE}/"
    if batch:
        _check_batch_output(output)
    found = [job for name in inputs for job in _jobs_of(name, output, format, batch)]
    found += [job for name in listed for job in _listed_jobs(Path(name), output, format)]
    distinct = list(dict.fromkeys(found))
    if template is not None:
        distinct = [
            replace(job, target=fill_template(template, job.target, job.source, values or {}))
            if job.target
            else job
            for job in distinct
        ]
    distinct = _distinct(distinct, may_rename=template is None)
    sources = {_identity(job.source) for job in distinct if job.source} - {None}
    for job in distinct:
        if job.target and _identity(job.target) in sources:
            raise OptionError(f"the output {job.target} is an input, too", "choose another output")
    return distinct


def plan_playing(inputs: Sequence[str], listed: Sequence[str] = ()) -> list[Job]:
    """Make one job for each MIDI file in the inputs (see `plan_jobs`), which is only played.

    They are in order, and a file that is named twice is played twice.
    """
    _check_inputs((*inputs, *listed))
    _refuse_sound(inputs)
    folder = f"{NOWHERE}/"
    found = [job for name in inputs for job in _jobs_of(name, folder, "wav", True)]
    found += [job for name in listed for job in _listed_jobs(Path(name), folder, "wav")]
    return [replace(job, target=None, is_played=True) for job in found]


def longest_first(jobs: Iterable[Job]) -> list[Job]:
    """Sort jobs from the longest song to the shortest, so that all workers end at about one time.

    The size of the file is taken for the length of the song, as files are not read yet.
    """

    def size(job: Job) -> float:
        try:
            return os.path.getsize(job.source) if job.source else math.inf
        except OSError:
            return math.inf

    return sorted(jobs, key=size, reverse=True)


def _check_inputs(inputs: Sequence[str]) -> None:
    if not inputs:
        raise OptionError("no input", "name a MIDI file, a folder, a list or -")
    if "" in inputs:
        raise OptionError("an input has an empty name", "name a file, a folder or -")
    if inputs.count(STREAM) > 1:
        raise OptionError("standard input can be read only once", "give one '-'")


def _refuse_sound(inputs: Sequence[str]) -> None:
    """Raise OptionError for an input that by its name and content is sound, not MIDI."""
    for name in inputs:
        if Path(name).suffix.lower() not in (*SUFFIXES, *ELSEWHERE):
            continue
        if os.path.isdir(name) or _is_pattern(name):
            continue
        try:
            with open(name, "rb") as file:
                mark = file.read(12)
            is_midi = mark.startswith((b"MThd", b"RIFF", b"\x1f\x8b")) and mark[8:] != b"WAVE"
        except OSError:
            is_midi = False
        if not is_midi:
            raise OptionError(f"{name} is sound, not MIDI", f"to name the output: -o {name}")


def _check_batch_output(output: str | None) -> None:
    if output is None:
        return
    if output == STREAM:
        raise OptionError("standard output is for one song only", "name a folder with -o")
    if os.path.exists(output) and not os.path.isdir(output):
        raise OptionError(f"{output} is a file", "name a folder for several outputs")
    if not _is_folder(output) and Path(output).suffix.lower() in SUFFIXES:
        raise OptionError(f"{output} looks like a file", "name a folder for several outputs")


def _jobs_of(name: str, output: str | None, format: str, batch: bool) -> Iterator[Job]:
    """The jobs of one input that is not a list."""
    if name == STREAM:
        yield _stream_job(output, format, batch)
    elif os.path.isdir(name):
        yield from _folder_jobs(Path(name), output, format)
    elif _is_pattern(name):
        yield from _pattern_jobs(name, output, format)
    else:
        yield _file_job(Path(name), output, format, batch)


def _pattern_jobs(pattern: str, output: str | None, format: str) -> Iterator[Job]:
    """A job for each MIDI file whose name matches the pattern."""
    try:
        matching = glob.glob(pattern, recursive=True)
    except RecursionError:
        yield Job(Path(pattern), None, problem="folders are nested too deeply for a pattern")
        return
    names = sorted(
        name for name in matching if name.lower().endswith(MIDI_SUFFIXES) and _may_be_file(name)
    )
    parts = Path(pattern).parts
    fixed = next(number for number, part in enumerate(parts) if glob.has_magic(part))
    for source in map(Path, names):
        kept = (part for part in source.parts[fixed:] if part != os.pardir)
        below = Path(*kept) if output else source
        yield Job(source, Path(output or "", below).with_suffix(f".{format}"))
    if not names:
        yield Job(Path(pattern), None, problem="no MIDI file matches this pattern")


def _may_be_file(path: str | os.PathLike[str]) -> bool:
    """Whether a search takes what has this name: a file, or a link whose problem is reported.

    A pipe or a device is not taken, as reading it may wait for ever.
    """
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return True


def _listed_jobs(source: Path, output: str | None, format: str) -> Iterator[Job]:
    """A job for a listed file, or for each MIDI file of a listed folder."""
    kept = Path(*(part for part in source.parts if part not in (source.anchor, os.pardir)))
    if source.is_dir():
        yield from _folder_jobs(source, output and str(Path(output, kept)), format)
    else:
        target = Path(output, kept) if output else source
        yield Job(source, target.with_suffix(f".{format}"))


def _folder_jobs(folder: Path, output: str | None, format: str) -> Iterator[Job]:
    """A job for each MIDI file in a folder, and for each folder in it that cannot be read."""
    errors: list[OSError] = []
    found: list[Path] = []
    for parent, folders, files in walk(folder, errors.append):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [
            Path(parent, name)
            for name in sorted(files)
            if not name.startswith(".") and name.lower().endswith(MIDI_SUFFIXES)
            if _may_be_file(Path(parent, name))
        ]
    for source in found:
        below = source.relative_to(folder) if output else source
        yield Job(source, Path(output or "", below).with_suffix(f".{format}"))
    for error in errors:
        problem = f"cannot read this folder: {reason_of(error)}"
        yield Job(Path(error.filename), None, problem=problem)
    if not found and not errors:
        suffixes = ", ".join(MIDI_SUFFIXES)
        yield Job(folder, None, problem=f"no MIDI file ({suffixes}) in this folder")


def _stream_job(output: str | None, format: str, batch: bool) -> Job:
    if output in (None, STREAM) and not batch:
        return Job(None, None)
    if output is None:
        raise OptionError("no folder for the output of standard input", "name one with -o")
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


def _distinct(jobs: list[Job], *, may_rename: bool) -> list[Job]:
    """Rename outputs that several jobs share. Raises OptionError if that is not enough."""
    shared = _shared_targets(jobs) if may_rename else set()
    longer = []
    for job in jobs:
        if job.source and job.target and job.target in shared:
            job = replace(job, target=job.target.with_name(job.source.name + job.target.suffix))
        longer.append(job)
    for target in _shared_targets(longer):
        sources = " and ".join(job.name for job in longer if job.target == target)
        hint = "a list (@LIST) keeps their folders"
        if not may_rename:
            hint = "use {folder}, {stem} or {name}"
        raise OptionError(f"{sources} would have the same output {target}", hint)
    return longer


def _shared_targets(jobs: list[Job]) -> set[Path]:
    counts = Counter(job.target for job in jobs if job.target)
    return {target for target, count in counts.items() if count > 1}


def _identity(path: Path) -> tuple[int, int] | None:
    """Device and inode of a file, which are equal for all its names; None without a file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
