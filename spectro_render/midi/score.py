"""A score: notes in seconds, the tracks that they came from, and sections of a score."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from spectro_render.errors import MidiError
from spectro_render.midi.course import Course

if TYPE_CHECKING:
    from note_seq.protobuf.music_pb2 import NoteSequence

    from spectro_render.midi.changes import Changes
    from spectro_render.midi.meter import Meter


@dataclass(frozen=True, slots=True)
class Note:
    """One note as it sounds: with pedal, channel volume and expression applied."""

    start: float  # seconds
    end: float  # seconds, after start
    pitch: int  # MIDI 0..127
    velocity: int  # 1..127
    program: int  # General MIDI 0..127
    is_drum: bool
    # Where the note is in its file. Notes that differ in nothing else are equal.
    channel: int = field(default=0, compare=False)  # 16 * port + channel, from 0
    track: int = field(default=0, compare=False)  # from 0
    # What the note is without the bends and the volume that its channel's Course may have: moved
    # by -bend semitones, and struck with another velocity. 0 as a velocity means the one above.
    bend: int = field(default=0, compare=False)
    struck: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Track:
    """The notes of one instrument of one channel in one track of a MIDI file, counted."""

    name: str
    program: int  # General MIDI 0..127
    is_drum: bool
    n_notes: int
    channel: int = 1  # 1..16
    lowest: int = 0  # pitch, 0..127
    highest: int = 127
    number: int = field(default=0, compare=False)  # of the track in its file, from 0
    port: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class About:
    """What a file says about its music; empty texts where it says nothing."""

    title: str = ""
    artist: str = ""
    copyright: str = ""


_NOTHING = About()


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
    end_of_tracks: float = 0.0  # seconds: where the file says that its last track ends
    # None where the bars are not known: in other libraries' objects, in sections, and in files that
    # count time in frames of a film.
    meter: Meter | None = field(default=None, compare=False, repr=False)
    about: About = _NOTHING  # what the file says about the music
    changes: Changes | None = None  # that were made to the file's music
    # By channel, of those that pan, or whose level or pitch moves while notes sound. A model that
    # renders all parts at once leaves them out; `midi.buses` says how they are played.
    courses: tuple[Course, ...] = ()

    def to_note_sequence(self) -> NoteSequence:
        """The notes as a note_seq.NoteSequence, an instrument for each program and each drum kit.

        Raises ImportError where note_seq cannot be imported.
        """
        from note_seq.protobuf.music_pb2 import NoteSequence

        sequence = NoteSequence(ticks_per_quarter=220, total_time=self.duration)
        kinds = sorted({(note.is_drum, note.program) for note in self.notes})
        instruments = {kind: number for number, kind in enumerate(kinds)}
        for note in self.notes:
            sequence.notes.add(
                start_time=note.start,
                end_time=note.end,
                pitch=note.pitch,
                velocity=note.velocity,
                program=note.program,
                is_drum=note.is_drum,
                instrument=instruments[note.is_drum, note.program],
            )
        return sequence


def section(
    score: Score, start: float, duration: float | None, *, with_rests: bool = False
) -> Score:
    """The part of a score that sounds from `start` for `duration` seconds (None: to the end).

    Times count from `start`. Notes that go beyond an edge are shortened; drum hits before `start`
    are left out. Raises MidiError where nothing sounds; `with_rests`, where its tracks have ended.
    """
    if start == 0 and duration is None:
        return score
    end = float("inf") if duration is None else start + duration
    notes = tuple(
        replace(note, start=max(0.0, note.start - start), end=min(note.end, end) - start)
        for note in score.notes
        if note.end > start and note.start < end and not (note.is_drum and note.start < start)
    )
    length = max(score.duration, score.end_of_tracks) if with_rests else score.duration
    if not notes and (not with_rests or start >= length):
        until = "the end" if duration is None else f"{end:g} s"
        raise MidiError(
            f"no note sounds from {start:g} s to {until}",
            f"the music lasts {length:.1f} s: choose an earlier start or a longer duration",
        )
    fades = tuple((seconds - start, factor) for seconds, factor in score.fades)
    return replace(
        score,
        notes=notes,
        duration=max(0.0, min(score.duration, end) - start),
        fades=fades,
        meter=None,
        courses=tuple(course.moved(start) for course in score.courses),
        end_of_tracks=max(0.0, score.end_of_tracks - start),
    )
