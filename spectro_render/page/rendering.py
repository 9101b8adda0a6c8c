"""What a picture and a page show: the notes, the sound, the settings and what was lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from spectro_render.midi.score import Note, Score
from spectro_render.page.sound import Sound


@dataclass(frozen=True, eq=False)
class Stem:
    """A part of a song with its own sound, as long as the sound of the song."""

    name: str
    sound: Sound


@dataclass(frozen=True, eq=False)
class Rendering:
    """A song that has been rendered, with all that is shown of it."""

    title: str  # the name of the MIDI file
    score: Score  # the part of it that was rendered
    sound: Sound
    settings: Mapping[str, str]  # as they are shown: name and value
    numbers: Mapping[str, str]  # likewise
    losses: Sequence[str] = ()  # what was repaired, ignored or left out, in words
    stems: Sequence[Stem] = ()  # none: the page has no solo and mute


@dataclass(frozen=True, eq=False)
class Part:
    """The notes of one instrument."""

    name: str
    notes: Sequence[Note]
    hue: int  # degrees on the colour circle


def parts_of(score: Score) -> list[Part]:
    """The notes of a score by instrument, in the order of General MIDI, with drums at the end."""
    import pretty_midi

    kinds: dict[tuple[bool, int], list[Note]] = {}
    for note in score.notes:
        kinds.setdefault((note.is_drum, 0 if note.is_drum else note.program), []).append(note)
    parts = []
    for number, ((is_drum, program), notes) in enumerate(sorted(kinds.items())):
        name = "Drums" if is_drum else pretty_midi.program_to_instrument_name(program)
        # Steps of the golden angle keep neighbours apart, however many there are.
        parts.append(Part(name, notes, round(205 + number * 137.5) % 360))
    return parts


def pitch_range(score: Score) -> tuple[int, int]:
    """The octaves that hold all notes: the first pitch, and the one after the last."""
    pitches = [note.pitch for note in score.notes] or [60]
    return min(pitches) // 12 * 12, max(pitches) // 12 * 12 + 12


def as_time(seconds: float) -> str:
    """A time as minutes and seconds: `1:05`, and hours from one hour on: `1:00:05`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def time_step(seconds: float, most: int = 10) -> float:
    """The seconds between the marks of a time axis, so that there are at most `most` of them."""
    steps = (0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600)
    return next((step for step in steps if seconds / step <= most), 3600.0)
