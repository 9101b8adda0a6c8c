"""Divides a score into parts, such as the stems of a mix, and chooses some of them."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches

from spectro_render.errors import MidiError, OptionError
from spectro_render.midi.buses import bus_keys, in_order
from spectro_render.midi.instruments import instrument_name
from spectro_render.midi.score import Note, Score
from spectro_render.options import STEMS_BY

MOST_PARTS = 64  # each is rendered for itself
_LONGEST_NAME = 60  # characters of a file's name
# What file systems, shells or terminals do not take in a name: separators, wildcards, control
# characters and marks of the direction of writing.
_UNSAFE = re.compile(
    r'[\x00-\x1f\x7f-\x9f<>:"/\\|?*\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]+'
)
_MOST_LISTED = 16


@dataclass(frozen=True)
class Part:
    """Some notes of a score, such as those of one track."""

    number: int  # from 1
    name: str  # of the track, else the instrument
    instrument: str  # that plays most of its notes
    channels: tuple[int, ...]  # 16 * port + channel, from 0
    tracks: tuple[int, ...]  # from 0
    n_notes: int

    @property
    def file_name(self) -> str:
        """A name for a file, without a suffix: its number makes it unique in its song."""
        name = _UNSAFE.sub(" ", unicodedata.normalize("NFC", self.name))
        name = " ".join(name.split())[:_LONGEST_NAME].strip(" .")
        return f"{self.number:02d} {name or self.instrument}"


@dataclass(frozen=True)
class Parts:
    """The parts of a score, and which of its notes belong to which."""

    score: Score
    parts: tuple[Part, ...]
    numbers: tuple[int, ...]  # of the part of each note, from 0

    def only(self, chosen: Sequence[int]) -> Parts:
        """These parts alone, by their places from 0; the length of the score does not change."""
        places = {number: place for place, number in enumerate(chosen)}
        pairs = zip(self.score.notes, self.numbers, strict=True)
        kept = [(note, places[number]) for note, number in pairs if number in places]
        score = replace(self.score, notes=tuple(note for note, _ in kept))
        parts = tuple(self.parts[number] for number in chosen)
        return Parts(score, parts, tuple(place for _, place in kept))


def parts_of(score: Score, by: str, within: Score | None = None) -> Parts:
    """The parts of a score by track, channel, program or bus, in the order of the file.

    A track whose notes are on several channels has a part for each. All drums are one program.
    With `within`, a section of the score, the notes are those of the section; the parts have the
    numbers that they have in the score, unless they are buses. Raises OptionError for another way.
    """
    if by not in STEMS_BY:
        raise OptionError(f"stems_by is {by!r}", f"give one of {', '.join(STEMS_BY)}")
    within = within or score
    score = within if by == "bus" else score
    keys = _keys(score, by)
    places = {key: place for place, key in enumerate(sorted(set(keys)))}
    if len(places) > MOST_PARTS:
        raise OptionError(
            f"the song has {len(places)} parts by {by}, and no more than {MOST_PARTS} are rendered",
            "divide it by program",
        )
    groups: list[list[Note]] = [[] for _ in places]
    for note, key in zip(score.notes, keys, strict=True):
        groups[places[key]].append(note)
    names = {
        (track.number, 16 * track.port + track.channel - 1): track.name for track in score.tracks
    }
    parts = (_part(number, notes, names, by) for number, notes in enumerate(groups, start=1))
    return Parts(within, tuple(parts), tuple(places[key] for key in _keys(within, by)))


def _keys(score: Score, by: str) -> list[tuple[int, ...]]:
    if by == "bus":
        return [tuple(map(int, in_order(key))) for key in bus_keys(score)]
    return [_key(note, by) for note in score.notes]


def _key(note: Note, by: str) -> tuple[int, ...]:
    if by == "track":
        return note.track, note.channel
    if by == "channel":
        return (note.channel,)
    return (128 if note.is_drum else note.program,)


def _part(
    number: int, notes: Sequence[Note], names: Mapping[tuple[int, int], str], by: str
) -> Part:
    programs = Counter(None if note.is_drum else note.program for note in notes)
    program = programs.most_common(1)[0][0]
    instrument = instrument_name(program or 0, program is None)
    channels = tuple(sorted({note.channel for note in notes}))
    tracks = tuple(sorted({note.track for note in notes}))
    found = {names.get((note.track, note.channel), "").strip() for note in notes} - {""}
    name = found.pop() if len(found) == 1 and by in ("track", "channel") else ""
    if by == "bus" and len(channels) > 1:
        name = "Several instruments"
    return Part(number, name or instrument, instrument, channels, tracks, len(notes))


def choose(parts: Parts, solo: Sequence[str], mute: Sequence[str]) -> Parts:
    """The parts that `solo` names, or all, without those that `mute` names.

    A part is named by its number, its name or its instrument, whatever the case, or by what is in
    one of these names only. Raises OptionError for a name without a part, or if none is left.
    """
    every = range(len(parts.parts))
    wanted = set(every) if not solo else {n for name in solo for n in _named(parts.parts, name)}
    wanted -= {number for name in mute for number in _named(parts.parts, name)}
    if not wanted and parts.parts:
        raise OptionError("every part is muted", "leave one of them out of --mute")
    return parts.only([number for number in every if number in wanted])


def with_notes(parts: Parts) -> Parts:
    """The parts that have notes. Raises MidiError if none has."""
    found = sorted(set(parts.numbers))
    if not found:
        raise MidiError("no note of these parts sounds there", "choose other parts or times")
    return parts.only(found)


def _named(parts: Sequence[Part], name: str) -> list[int]:
    """The places of the parts that a name stands for."""
    wanted = name.strip().casefold()
    tests: tuple[Callable[[Part], bool], ...] = (
        lambda part: wanted == str(part.number),
        lambda part: wanted in (part.name.casefold(), part.instrument.casefold()),
        lambda part: bool(wanted) and wanted in f"{part.name}\n{part.instrument}".casefold(),
    )
    for fits in tests:
        if found := [place for place, part in enumerate(parts) if fits(part)]:
            return found
    known = {known.casefold(): known for part in parts for known in (part.name, part.instrument)}
    close = [known[key] for key in get_close_matches(wanted, known, n=3)]
    listed = ", ".join(f"{part.number} {part.name}" for part in parts[:_MOST_LISTED])
    more = ", ..." if len(parts) > _MOST_LISTED else ""
    hint = f"did you mean {' or '.join(close)}?" if close else f"the song has {listed}{more}"
    raise OptionError(f"no part is called {name!r}", hint)
