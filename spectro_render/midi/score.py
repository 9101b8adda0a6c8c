"""What is to be rendered: notes in seconds, tracks, and sections of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from spectro_render.errors import MidiError

if TYPE_CHECKING:
    pass


@dataclass(frozen=True, slots=True)
class Note:
    """One note, as it is heard: pedal, channel volume and expression are in it."""

    start: float  # seconds
    end: float  # seconds, after start
    pitch: int  # MIDI 0..127
    velocity: int  # 1..127
    program: int  # General MIDI 0..127
    is_drum: bool


@dataclass(frozen=True, slots=True)
class Track:
    """What one instrument plays in one track of the file."""

    name: str
    program: int
    is_drum: bool
    n_notes: int


@dataclass(frozen=True, slots=True)
class Score:
    """What there is to render."""

    notes: tuple[Note, ...]  # by start
    duration: float  # seconds, to the end of the last note
    ignored: tuple[str, ...] = ()  # in the file, but not in the vocabulary
    repairs: tuple[str, ...] = ()  # what was wrong with the file, and what was made of it
    tracks: tuple[Track, ...] = ()


def section(score: Score, start: float, duration: float | None) -> Score:
    """The notes that sound from `start` for `duration` seconds; those cut by an edge are shortened.

    Raises MidiError where nothing sounds.
    """
    if start == 0 and duration is None:
        return score
    end = float("inf") if duration is None else start + duration
    notes = tuple(
        replace(note, start=max(0.0, note.start - start), end=min(note.end, end) - start)
        for note in score.notes
        if note.end > start and note.start < end and not (note.is_drum and note.start < start)
    )
    if not notes:
        until = "the end" if duration is None else f"{end:g} s"
        raise MidiError(
            f"no note sounds from {start:g} s to {until}",
            f"the music lasts {score.duration:.1f} s: choose an earlier start or a longer duration",
        )
    return replace(score, notes=notes, duration=min(score.duration, end) - start)
