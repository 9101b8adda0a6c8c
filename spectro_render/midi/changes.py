"""Changes to music before it is rendered: instruments, drums, pitch, tempo and velocities.

They are made to the notes as they are played, before their loudness is measured. Programs are
changed first: a channel that is made an instrument is transposed with the others, and one that is
made drums is left out without drums.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from spectro_render.errors import MidiError, OptionError
from spectro_render.midi.instruments import DRUMS, did_you_mean, find_instrument, one_of
from spectro_render.midi.notes import STANDARD_KIT, Performance
from spectro_render.midi.smf import Smf
from spectro_render.options import RenderOptions

CHANNELS, KEYS = 16, 128
MIN_TEMPO, MAX_TEMPO = 0.1, 10.0
MIN_VELOCITY, MAX_VELOCITY = 0.01, 100.0
_LOUDEST = 127


@dataclass(frozen=True)
class Changes:
    """The changes that options ask for, with every name resolved that needs no file for that."""

    programs: tuple[tuple[str, int], ...] = ()  # channel or track; program 0..127 or DRUMS
    drums: bool = True
    transpose: int = 0
    tempo: float = 1.0
    velocity: float = 1.0


def changes_of(options: RenderOptions) -> Changes | None:
    """The changes in options; None if there are none. Raises OptionError for impossible values."""
    check_range("tempo", options.tempo, MIN_TEMPO, MAX_TEMPO)
    check_range("velocity", options.velocity, MIN_VELOCITY, MAX_VELOCITY)
    check_range("transpose", options.transpose, 1 - KEYS, KEYS - 1)
    if options.transpose != int(options.transpose):
        raise OptionError(f"transpose is {options.transpose}", "give a whole number of semitones")
    programs = tuple(
        (_checked_part(part), find_instrument(name)) for part, name in options.programs.items()
    )
    changes = Changes(
        programs, options.drums, int(options.transpose), options.tempo, options.velocity
    )
    return None if changes == Changes() else changes


def check_range(name: str, value: float, least: float, most: float) -> None:
    """Raise OptionError unless a value is a number from `least` to `most`."""
    if not (math.isfinite(value) and least <= value <= most):
        raise OptionError(f"{name} is {value:g}", f"give a number from {least:g} to {most:g}")


def _checked_part(part: int | str) -> str:
    """A channel or a name of a track. Raises OptionError for a channel that does not exist."""
    text = str(part).strip()
    number = _channel(text)
    if number is not None and not 1 <= number <= CHANNELS:
        raise OptionError(
            f"there is no channel {text}", f"give one from 1 to {CHANNELS}, or a track's name"
        )
    if not text:
        raise OptionError("a program is given for a part without a name", "name a channel or track")
    return text


def _channel(part: str) -> int | None:
    """The number of a channel, if the part is one: a number is never the name of a track."""
    return int(part) if part.isascii() and part.isdigit() and len(part) < 10 else None


def change(performance: Performance, smf: Smf, changes: Changes, skip_missing: bool) -> list[str]:
    """Change the notes of a performance in place; returns what was not possible, for users.

    Notes that would be beyond the keys 0..127 are left out. Raises MidiError for a part that the
    file does not have, unless `skip_missing`, and where no note is left.
    """
    notes, said = performance.notes, []
    for part, program in changes.programs:
        chosen = _notes_of(part, performance, smf)
        if isinstance(chosen, MidiError):
            if not skip_missing:
                raise chosen
            said.append(f"program for {part!r}: {chosen.message}")
            continue
        for index in chosen:
            notes[index].is_drum = program == DRUMS
            notes[index].program = STANDARD_KIT if program == DRUMS else program
            notes[index].is_variation = False
    if not changes.drums:
        notes[:] = [note for note in notes if not note.is_drum]
        _check_left(performance, "drums", "leave out --drums off")
    if changes.transpose:
        moved = [note for note in notes if not note.is_drum]
        for note in moved:
            note.pitch += changes.transpose
        lost = sum(not 0 <= note.pitch < KEYS for note in moved)
        notes[:] = [note for note in notes if 0 <= note.pitch < KEYS]
        _check_left(performance, "notes beyond the keys", "choose a smaller --transpose")
        if lost:
            said.append(f"transposed beyond the 128 keys ({_number(lost)})")
    if changes.velocity != 1.0:
        louder = [note.velocity * changes.velocity for note in notes]
        for note, velocity in zip(notes, louder, strict=True):
            note.velocity = min(max(round(velocity), 1), _LOUDEST)
        if clipped := sum(velocity > _LOUDEST + 0.5 for velocity in louder):
            said.append(f"velocity above {_LOUDEST}, lowered to that ({_number(clipped)})")
    return said


def _check_left(performance: Performance, what: str, hint: str) -> None:
    if not performance.notes:
        raise MidiError(f"no note is left without {what}", hint)


def _notes_of(part: str, performance: Performance, smf: Smf) -> list[int] | MidiError:
    """The places of the notes of a channel or track, or the error if the file has none."""
    notes, number = performance.notes, _channel(part)
    if number is not None and smf.counts == "seconds":
        return MidiError(f"there is no channel {part} in this object", "name the instrument")
    if number is not None:
        places = [
            place for place, note in enumerate(notes) if note.channel % CHANNELS == number - 1
        ]
        channels = sorted({note.channel % CHANNELS + 1 for note in notes})
        known = f"channels with notes: {', '.join(map(str, channels))}"
        return places or MidiError(f"channel {part} plays no note", known)
    names = [_same(track.name) for track in smf.tracks]
    # A name as it is written; if there is none, one that differs in case or in spaces.
    written = [number for number, track in enumerate(smf.tracks) if track.name == part]
    tracks = set(written) or {number for number, name in enumerate(names) if name == _same(part)}
    places = [place for place, note in enumerate(notes) if note.track in tracks]
    if places:
        return places
    playing = dict.fromkeys(smf.tracks[note.track].name for note in notes)
    playing.pop("", None)
    if tracks:
        return MidiError(f"the track {part!r} plays no note", _tracks(playing))
    meant = did_you_mean(part, playing)
    return MidiError(f"no track is called {part!r}", meant or _tracks(playing))


def _tracks(names: Iterable[str]) -> str:
    known = list(map(repr, names))
    return f"there is {one_of(known)}" if known else f"give a channel, 1 to {CHANNELS}"


def _same(name: str) -> str:
    """A name without differences of case, spaces, and ways to write one letter in Unicode."""
    return " ".join(unicodedata.normalize("NFC", name).casefold().split())


def _number(count: int) -> str:
    return f"{count} note{'' if count == 1 else 's'}"
