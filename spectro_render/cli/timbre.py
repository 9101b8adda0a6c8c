"""The values of --timbre: which instrument gets the timbre of which sound or file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from spectro_render.errors import OptionError
from spectro_render.midi.instruments import find_program, instrument_name

if TYPE_CHECKING:
    from spectro_render.options import ProgramTimbre
    from spectro_render.report import Reporter

SUFFIX = ".timbre"


def split_value(value: str) -> tuple[int, str]:
    """The program and the file of `INSTRUMENT=FILE`, split at the first equals sign."""
    instrument, sign, file = value.partition("=")
    if not sign or not instrument.strip() or not file:
        message = f"{value!r} does not name an instrument and a file"
        raise OptionError(message, "write INSTRUMENT=FILE, such as violin=mine.wav")
    return find_program(instrument), file


def timbre_files(
    values: Iterable[str], model: str, reporter: Reporter
) -> tuple[ProgramTimbre, ...]:
    """The files of timbres for values of --timbre; what is a sound is fitted, unless it was before.

    Raises OptionError for wrong values and sounds that cannot be used, WeightsError for a model
    that takes no timbres.
    """
    from spectro_render.checkpoints.find import resolve_model
    from spectro_render.options import ProgramTimbre
    from spectro_render.training.timbre.make import kept_timbre

    chosen: dict[int, str] = {}
    for value in values:
        program, file = split_value(value)
        if program in chosen:
            message = f"{instrument_name(program)} has two timbres: {chosen[program]} and {file}"
            raise OptionError(message, "leave one of them out")
        if not Path(file).is_file():
            raise OptionError(f"no file {file!r} for a timbre", "check the path")
        chosen[program] = file
    found = []
    for program, file in chosen.items():
        path = Path(file)
        if path.suffix.lower() != SUFFIX:
            files = resolve_model(model, None, reporter)
            path = kept_timbre(path, program, files, reporter.say)
        found.append(ProgramTimbre(program, file, str(path)))
    return tuple(found)
