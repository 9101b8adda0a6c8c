"""Turns notes into the onsets and offsets of each window, on the 10 ms grid."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import NamedTuple

from spectro_render.constants import (
    SAMPLE_RATE,
    STEPS_PER_SECOND,
    STEPS_PER_WINDOW,
    WINDOW_SAMPLES,
)
from spectro_render.midi.score import Note
from spectro_render.tokens.vocabulary import Vocabulary


class Sound(NamedTuple):
    """A note in the terms of a vocabulary; sorted by their fields, sounds are in writing order."""

    is_drum: bool
    program: int
    pitch: int
    start: float  # s
    end: float  # s
    velocity: int  # 1..127
    velocity_bin: int


class Event(NamedTuple):
    """An onset or, with velocity bin 0, an offset."""

    step: int  # 10 ms from the start of the score
    sound: int  # index of the sound that it belongs to
    is_drum: bool
    program: int
    pitch: int
    velocity_bin: int


SOUND_OF = attrgetter("sound")  # of an event


def step_of(seconds: float) -> int:
    """The nearest 10 ms step, halves to even."""
    return round(seconds * STEPS_PER_SECOND)


def to_sounds(notes: Iterable[Note], vocabulary: Vocabulary) -> list[Sound]:
    """Convert notes to sorted sounds; only the published vocabulary keeps their times as they are.

    With all others, the sounds are on the 10 ms grid and do not overlap on one pitch.
    """
    if vocabulary.is_published:
        return sorted(_sound(note, note.start, note.end, vocabulary) for note in notes)
    return _tidy(sorted(_grid_sound(note, vocabulary) for note in notes))


def _sound(note: Note, start: float, end: float, vocabulary: Vocabulary) -> Sound:
    # Drum hits carry no program, but the published order of hits at one time depends on it.
    program = note.program if note.is_drum else vocabulary.program_class(note.program)
    velocity_bin = vocabulary.velocity_bin(note.velocity)
    return Sound(note.is_drum, program, note.pitch, start, end, note.velocity, velocity_bin)


def _grid_sound(note: Note, vocabulary: Vocabulary) -> Sound:
    onset = step_of(note.start)
    offset = max(step_of(note.end), onset + 1)
    sound = _sound(note, onset / STEPS_PER_SECOND, offset / STEPS_PER_SECOND, vocabulary)
    return sound._replace(program=0) if note.is_drum else sound


def _tidy(sounds: Iterable[Sound]) -> list[Sound]:
    """End a sound where its pitch is struck anew; the new one lasts until the later end."""
    tidied: list[Sound] = []
    for sound in sounds:
        previous = tidied[-1] if tidied else None
        if previous and previous[:3] == sound[:3] and sound.start < previous.end:
            sound = sound._replace(end=max(sound.end, previous.end))
            if sound.start > previous.start:
                tidied[-1] = previous._replace(end=sound.start)
            else:
                sound = max(sound, tidied.pop()._replace(end=sound.end))  # the louder of the two
        tidied.append(sound)
    return tidied


def to_events(sounds: Sequence[Sound]) -> list[Event]:
    """The onsets and offsets of sounds, sorted by time; at equal times offsets come first."""
    ends = [
        _event(index, sound, sound.end, 0)
        for index, sound in enumerate(sounds)
        if not sound.is_drum
    ]
    starts = [
        _event(index, sound, sound.start, sound.velocity_bin) for index, sound in enumerate(sounds)
    ]

    def seconds(event: Event) -> float:
        sound = sounds[event.sound]
        return sound.start if event.velocity_bin else sound.end

    return sorted(ends + starts, key=seconds)


def _event(index: int, sound: Sound, seconds: float, velocity_bin: int) -> Event:
    return Event(step_of(seconds), index, sound.is_drum, sound.program, sound.pitch, velocity_bin)


def split_events(
    events: Iterable[Event], duration: float, vocabulary: Vocabulary
) -> list[list[Event]]:
    """Divide sorted events into windows; `duration` seconds end within the last window.

    An event that rounding puts after the last window is kept in the last window.
    """
    count = int(duration * SAMPLE_RATE) // WINDOW_SAMPLES + 1
    windows: list[list[Event]] = [[] for _ in range(count)]
    # An offset on the edge belongs to the window before; in the published order, to the next one.
    early = 0 if vocabulary.is_published else 1
    for event in events:
        step = event.step if event.velocity_bin else event.step - early
        # Rounding may put the last event on the end of the last window, where it stays.
        windows[min(step // STEPS_PER_WINDOW, count - 1)].append(event)
    return windows
