"""Mapping files: TOML that says how the music of one or many songs is changed."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from spectro_render.atomic import open_regular
from spectro_render.batch.jobs import Job
from spectro_render.errors import OptionError, reason_of
from spectro_render.midi.changes import changes_of
from spectro_render.midi.instruments import did_you_mean
from spectro_render.midi.meter import parse_bars
from spectro_render.options import RenderOptions

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MAX_BYTES = 1 << 24
Changes = dict[str, Any]  # fields of RenderOptions


@dataclass(frozen=True)
class MappingFile:
    """The changes for all songs, and for songs whose names match a pattern, in this order."""

    name: str
    everywhere: Changes
    files: tuple[tuple[str, Changes], ...] = ()

    def options_of(
        self, song: str, options: RenderOptions, given: Mapping[str, Any]
    ) -> RenderOptions:
        """The options with the changes for a song; `given` are those that win over the file's."""
        changes = dict(self.everywhere)
        for pattern, own in self.files:
            if matches(song, pattern):
                changes = _merged(changes, own)
        if options.start or options.duration is not None:
            changes.pop("bars", None)
        return replace(options, **_merged(changes, given))

    def unused(self, songs: Iterable[str]) -> list[str]:
        """A line for each pattern that no song matches."""
        left = [pattern for pattern, _ in self.files]
        for song in songs:
            left = [pattern for pattern in left if not matches(song, pattern)]
        return [f"{self.name}: no input matches {pattern!r}" for pattern in left]


def _merged(changes: Mapping[str, Any], later: Mapping[str, Any]) -> Changes:
    """Changes of which the later win; programs for different parts are all kept, the later last."""
    own = later.get("programs", {})
    before = {part: name for part, name in changes.get("programs", {}).items() if part not in own}
    return {**changes, **later, "programs": {**before, **own}}


def map_jobs(
    mapping: MappingFile, jobs: Iterable[Job], options: RenderOptions, given: Mapping[str, Any]
) -> list[Job]:
    """The jobs with the options that a mapping file sets for each."""
    return [replace(job, options=mapping.options_of(job.name, options, given)) for job in jobs]


def matches(song: str, pattern: str) -> bool:
    """Whether a song's path, or the end of it, matches a pattern; `*` also matches slashes."""
    path = song.replace(os.sep, "/")
    return fnmatchcase(path, pattern) or fnmatchcase(path, f"*/{pattern}")


def read_mapping(path: str) -> MappingFile:
    """Read a mapping file. Raises OptionError for one that cannot be read or has other content."""
    try:
        with open_regular(path, os.O_RDONLY) as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise OptionError(f"{path} is larger than {MAX_BYTES >> 20} MB", "name a mapping file")
        content = tomllib.loads(data.decode("utf-8-sig"))
    except OSError as error:
        raise OptionError(f"{path} cannot be read: {reason_of(error)}", "check the path") from error
    except UnicodeDecodeError as error:
        raise OptionError(f"{path} is not in UTF-8", "save it in UTF-8") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        message = f"{path} is not TOML: {error}"
        raise OptionError(message, "see docs/command-line.md for an example") from error
    sections = content.pop("files", {})
    everywhere = _changes(content, path, (*_KEYS, "files"))
    if not isinstance(sections, dict):
        raise _wrong_type(f"{path}: files", sections, "a table of patterns")
    files = []
    for pattern, section in sections.items():
        place = f"{path}, files.{pattern!r}"
        if not isinstance(section, dict):
            raise _wrong_type(place, section, "a table")
        files.append((pattern, _changes(section, place, _KEYS)))
    return MappingFile(path, everywhere, tuple(files))


def _changes(table: Mapping[str, Any], place: str, known: Iterable[str]) -> Changes:
    """The changes of one table of the file, checked as far as no MIDI file is needed for that."""
    changes: Changes = {}
    for key, value in table.items():
        if key not in _KEYS:
            hint = did_you_mean(key, known) or f"known are {', '.join(known)}"
            raise OptionError(f"{place}: unknown key {key!r}", hint)
        field, read = _KEYS[key]
        changes[field] = read(f"{place}: {key}", value)
        try:
            changes_of(RenderOptions(**{field: changes[field]}))
        except OptionError as error:
            raise OptionError(f"{place}: {error.message}", error.hint) from error
    return changes


def _number(place: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong_type(place, value, "a number")
    return value


def _switch(place: str, value: object) -> bool:
    if value in ("on", "off"):
        return value == "on"
    if not isinstance(value, bool):
        raise _wrong_type(place, value, "true or false")
    return value


def _bars(place: str, value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise _wrong_type(place, value, 'bars such as "40-48"')
    try:
        parse_bars(str(value))
    except OptionError as error:
        raise OptionError(f"{place}: {error.message}", error.hint) from error
    return str(value)


def _programs(place: str, value: object) -> dict[str, int | str]:
    if not isinstance(value, dict):
        raise _wrong_type(place, value, "a table of channels and tracks")
    for part, instrument in value.items():
        if isinstance(instrument, bool) or not isinstance(instrument, int | str):
            raise _wrong_type(f"{place}.{part}", instrument, "the name or number of an instrument")
    return value


def _wrong_type(place: str, value: object, wanted: str) -> OptionError:
    return OptionError(f"{place} is {value!r}", f"give {wanted}")


# Keys of a mapping file: the field of RenderOptions that each sets, and what reads its value.
_KEYS: dict[str, tuple[str, Callable[[str, object], Any]]] = {
    "program": ("programs", _programs),
    "drums": ("drums", _switch),
    "transpose": ("transpose", _number),
    "tempo": ("tempo", _number),
    "velocity": ("velocity", _number),
    "bars": ("bars", _bars),
}
