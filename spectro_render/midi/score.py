"""A score: notes in seconds, the tracks that they came from, and sections of a score."""

from __future__ import annotations

from dataclasses import dataclass, replace

from spectro_render.errors import MidiError


@dataclass(frozen=True, slots=True)
class Note:
    """One note as it sounds: with pedal, channel volume and expression applied."""

    start: float  # seconds
    end: float  # seconds, after start
    pitch: int  # MIDI 0..127
    velocity: int  # 1..127
    program: int  # General MIDI 0..127
    is_drum: bool


@dataclass(frozen=True, slots=True)
class Track:
    """The notes of one instrument in one track of a MIDI file, counted."""

    name: str
    program: int  # General MIDI 0..127
    is_drum: bool
    n_notes: int


@dataclass(frozen=True, slots=True)
class Score:
    """The music to render."""

    notes: tuple[Note, ...]  # sorted by start
    duration: float  # seconds, to the end of the last note
    ignored: tuple[str, ...] = ()  # kinds of events in the file that are not rendered, for users
    repairs: tuple[str, ...] = ()  # what was wrong with the file and how it was mended, for users
    tracks: tuple[Track, ...] = ()
    gain: float = 0.0  # dB by which the music is louder than velocities of at most 127 can say
    # The course of the loudness that all parts share: (seconds, factor of amplitude), with straight
    # lines between; before the first and after the last it stays. Empty: 1 throughout.
    fades: tuple[tuple[float, float], ...] = ()


def section(score: Score, start: float, duration: float | None) -> Score:
    """The part of a score that sounds from `start` for `duration` seconds (None: to the end).

    Times count from `start`. Notes that go beyond an edge are shortened; drum hits before `start`
    are left out. Raises MidiError where nothing sounds.
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
    fades = tuple((seconds - start, factor) for seconds, factor in score.fades)
    return replace(score, notes=notes, duration=min(score.duration, end) - start, fades=fades)
