"""Names of outputs with fields in braces, such as `out/{stem}-{seed}.{format}`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from string import Formatter

from spectro_render.errors import OptionError

OF_SONG = ("stem", "name", "folder", "format")  # fields that depend on the song
NOWHERE = Path("\x01")  # a folder in which outputs are planned, to be put into the template


def is_template(output: str | None) -> bool:
    """Whether the name of an output has braces. A literal brace is written twice."""
    return output is not None and ("{" in output or "}" in output)


def check_template(template: str, values: Mapping[str, object]) -> None:
    """Raise OptionError for a template with an unknown field or a single brace.

    `values` are the fields that are the same for all songs.
    """
    known = (*OF_SONG, *values)
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise OptionError(
            f"{template}: {str(error).lower()}", "write a literal one twice"
        ) from error
    for _, field, _, conversion in parts:
        if field is not None and (field not in known or conversion):
            near = get_close_matches(field, known, n=1)
            hint = f"did you mean {{{near[0]}}}?" if near else f"use one of {', '.join(known)}"
            raise OptionError(f"{template}: no such field: {{{field}}}", hint)


def fill_template(
    template: str, planned: Path, source: Path | None, values: Mapping[str, object]
) -> Path:
    """The output of a song: `planned` is where it would be in the folder NOWHERE.

    `source` is the MIDI file, None for standard input. Raises OptionError for a format that a value
    cannot have.
    """
    folder = planned.parent.relative_to(NOWHERE)
    own = {
        "stem": planned.stem,
        "name": source.name if source else planned.stem,
        "folder": str(folder),
        "format": planned.suffix[1:],
    }
    try:
        name = Formatter().vformat(template, (), {**values, **own})
    except ValueError as error:
        raise OptionError(f"{template}: {error}", "leave out what follows the colon") from error
    return Path(os.path.normpath(name))
