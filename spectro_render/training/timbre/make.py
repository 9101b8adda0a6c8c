"""Makes the file of a timbre from a sound, and keeps it for the next time."""

from __future__ import annotations

import atexit
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from spectro_render.atomic import read_regular
from spectro_render.checkpoints.find import resolve_model
from spectro_render.checkpoints.kept import kept_folder
from spectro_render.checkpoints.manifest import ModelFiles, checksum_of
from spectro_render.checkpoints.timbres import (
    StoredTimbre,
    digest_of,
    require_curves,
    table_of,
    write_timbre,
)
from spectro_render.errors import OptionError, OutputError, reason_of
from spectro_render.midi.instruments import find_program, instrument_name
from spectro_render.report import Reporter

KEPT = "timbres"  # the folder of timbres in the folder of what is kept
MOST_KEPT = 200  # of these files; the oldest go first
METHOD = "1"  # how timbres are fitted: others are not taken from there
MOST_BYTES = 1 << 30  # of a sound


@dataclass(frozen=True)
class Report:
    """How well a timbre fits."""

    program: int
    notes: int  # of the sound
    are_detected: bool  # whether they were found in the sound, without a MIDI file
    start: int  # the program whose recordings it plays
    gain: float  # dB by which the sound was amplified
    before: float  # error of the sound's log-mel with the program as it was, in nats
    after: float  # and with the timbre


def fit_timbre(
    sound: str | os.PathLike[str],
    instrument: str | int,
    output: str | os.PathLike[str],
    *,
    midi: str | os.PathLike[str] | None = None,
    model: str | os.PathLike[str] = "default",
    keep_level: bool = False,
    quiet: bool = True,
) -> Report:
    """Fit the timbre of an instrument to a sound, and write it to a file.

    `instrument` is a General MIDI name or a number, 1 to 128. The notes are those of `midi`, by
    default of the MIDI file of the same name beside the sound; where there is none they are found
    in the sound, which then has to play one note at a time. The sound is brought to the loudness
    that the instrument has with the same notes, unless `keep_level`.

    Raises OptionError for a sound that cannot be used, WeightsError for a model without curves of
    notes, OutputError where the file cannot be written.
    """
    files = resolve_model(model, None, Reporter(quiet=quiet))
    place = None if midi is None else Path(midi)
    program = find_program(instrument)
    return _fit_to(files, Path(sound), place, program, Path(output), keep_level=keep_level)


def kept_timbre(sound: Path, program: int, files: ModelFiles, say: Callable[[str], None]) -> Path:
    """The file of the timbre of a program for a sound: the one that is kept, or else a new one.

    It is found by the contents of the sound and of the MIDI file beside it, and by the model. Where
    nothing may be kept, it is removed at the end of the program. Errors are as in `fit_timbre`.
    """
    from spectro_render.training.timbre.example import notes_beside

    midi = notes_beside(sound)
    facts = [METHOD, str(program), digest_of(files.directory), _checksum(sound)]
    facts += [checksum_of(path) for path in _vocoder_files(files)]
    facts += [_checksum(midi)] if midi else []
    name = hashlib.sha256("\n".join(facts).encode()).hexdigest()[:32] + ".timbre"
    folder = kept_folder()
    if folder is not None and (folder / KEPT / name).is_file():
        return folder / KEPT / name
    try:
        place = _writable(folder / KEPT if folder is not None else None)
        path = place / name
        say(f"fitting the timbre of {instrument_name(program)} to {sound}")
        report = _fit_to(files, sound, midi, program, path)
    except OutputError as error:
        raise OutputError(f"the timbre cannot be kept: {error.message}", error.hint) from error
    say(f"{sound}: {describe(report)}")
    _remove_oldest(place)
    return path


def describe(report: Report) -> str:
    """A report in words."""
    notes = f"{report.notes} {'note' if report.notes == 1 else 'notes'}"
    found = "found in it" if report.are_detected else "from its MIDI file"
    change = f"error {report.before:.2f} before, {report.after:.2f} nats with its timbre"
    return f"{notes} {found}, {report.gain:+.1f} dB, {change}"


def _fit_to(
    files: ModelFiles,
    sound: Path,
    midi: Path | None,
    program: int,
    output: Path,
    *,
    keep_level: bool = False,
) -> Report:
    from spectro_render.checkpoints.load import load_model
    from spectro_render.training.timbre.example import notes_beside, read_example
    from spectro_render.training.timbre.fit import fit
    from spectro_render.training.timbre.lines import fit_lines

    checkpoint = load_model(files)
    curves = require_curves(checkpoint.model, files.name)
    example = read_example(sound, midi or notes_beside(sound))
    fitted = fit(curves, checkpoint.vocabulary, example, program, keep_level=keep_level)
    table = table_of(checkpoint.vocoder) if checkpoint.reads_notes else None
    lines = {} if table is None else fit_lines(table, example, fitted.start, fitted.gain)
    digest = digest_of(files.directory)
    stored = StoredTimbre(program, files.name, digest, sound.name, fitted.timbre, lines)
    write_timbre(output, stored)
    return Report(
        program,
        len(example.notes),
        example.are_detected,
        fitted.start,
        fitted.gain,
        fitted.before,
        fitted.after,
    )


def _vocoder_files(files: ModelFiles) -> list[Path]:
    """The files of the vocoder whose lines a timbre has rows of."""
    from spectro_render.checkpoints.manifest import vocoder_files

    return [files.directory / file for file in vocoder_files(files.directory)]


def _checksum(path: Path) -> str:
    """The SHA-256 of a file that the user named. Raises OptionError where it cannot be read."""
    try:
        return hashlib.sha256(read_regular(path, MOST_BYTES)).hexdigest()
    except OSError as error:
        raise OptionError(f"{path} cannot be read: {reason_of(error)}", "check the path") from error


def _writable(folder: Path | None) -> Path:
    """The folder, made if it is missing; a temporary one where it cannot be used."""
    if folder is not None:
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            if os.access(folder, os.W_OK):
                return folder
    temporary = tempfile.mkdtemp(prefix="spectro-render-")
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    return Path(temporary)


def _remove_oldest(folder: Path) -> None:
    """Keep the newest timbres in a folder."""
    with suppress(OSError):
        found = sorted(folder.glob("*.timbre"), key=lambda path: path.stat().st_mtime)
        for path in found[:-MOST_KEPT]:
            path.unlink()
