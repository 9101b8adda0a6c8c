"""Divides a score into buses: groups of notes whose sound is rendered together, and then mixed.

A model that plays all parts at once can neither place a part between left and right nor bend it.
So notes of one pan share a bus, and a channel whose level, pan or pitch moves while its notes sound
has a bus of its own. Most files need a single one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from spectro_render.midi.course import CENTRE, OFF_CENTRE, SETTLING_SECONDS, Course, Curve
from spectro_render.midi.pitch import in_range
from spectro_render.midi.score import Note, Score

MOST_PANS_OF_CHANNEL = 4  # at the starts of its notes; with more, it has a bus of its own
MOST_PANS = 16  # of a song; with more, they are rounded to multiples of PAN_STEP
PAN_STEP = 8


@dataclass(frozen=True, slots=True)
class Bus:
    """Notes that are rendered together, and what is done to their sound before it is mixed."""

    score: Score  # the notes before they are bent; its duration is that of the whole song
    channels: tuple[int, ...]  # that have notes in it, 16 * port + channel
    pan: Curve  # 0 (left) to 127 (right)
    level: Curve | None = None  # as in Course
    bend: Curve | None = None
    vibrato: Curve | None = None
    part: int = 0  # of the song, such as the number of a stem

    @property
    def is_off_centre(self) -> bool:
        """Whether left and right differ audibly while notes sound."""
        notes = self.score.notes
        if not notes:
            return False
        values = self.pan.between(notes[0].start, max(note.end for note in notes))
        return any(abs(value - CENTRE) >= OFF_CENTRE for value in values)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the notes are not rendered with those of another bus, in words."""
        found = []
        if len(self.pan.values) > 1:
            found.append("pan over time")
        elif self.pan.values[0] != CENTRE:
            found.append(f"pan {self.pan.values[0]:g}")
        found += ["volume"] * (self.level is not None)
        found += ["pitch bend"] * (self.bend is not None)
        found += ["modulation"] * (self.vibrato is not None)
        return tuple(found)


BusKey: TypeAlias = tuple[bool, int, bool]


def bus_keys(score: Score) -> list[BusKey]:
    """The bus of each note, as a key that notes of one bus share.

    A key is whether the bus is that of a channel, which channel or which pan it is, and whether it
    is bent.
    """
    courses = {course.channel: course for course in score.courses}
    keys = []
    for note, place in zip(score.notes, _places(score, courses), strict=True):
        course = courses.get(note.channel)
        is_bent = course is not None and course.changes_pitch and not note.is_drum
        is_alone = is_bent or place is None or (course is not None and course.level is not None)
        keys.append((is_alone, note.channel if is_alone else place or 0, is_bent))
    return keys


def in_order(key: BusKey) -> tuple[bool, bool, int, bool]:
    """The order of buses: first that of the centre, then others that stay, then channels."""
    is_alone, place, is_bent = key
    return is_alone, place != CENTRE, place, is_bent


def buses(score: Score, parts: Sequence[int] | None = None) -> list[Bus]:
    """The buses of a score, ordered by parts; notes of different parts never share one.

    `parts` has the number of each note's part, by default 0. A score without notes has one bus.
    """
    courses = {course.channel: course for course in score.courses}
    groups: dict[tuple[int, BusKey], list[Note]] = defaultdict(list)
    numbers = parts or [0] * len(score.notes)
    for note, number, key in zip(score.notes, numbers, bus_keys(score), strict=True):
        groups[number, key].append(note)
    made = []
    for part, key in sorted(groups, key=lambda group: (group[0], in_order(group[1]))):
        (is_alone, place, is_bent), notes = key, groups[part, key]
        if is_alone:
            made.append(_own_bus(score, courses[place], notes, is_bent, part))
        else:
            channels = tuple(sorted({note.channel for note in notes}))
            own = replace(score, notes=tuple(notes))
            made.append(Bus(own, channels, Curve((), (place,)), part=part))
    return made or [Bus(score, (), Curve((), (CENTRE,)))]


def _own_bus(score: Score, course: Course, notes: list[Note], is_bent: bool, part: int) -> Bus:
    """The bus of notes of one channel, or of its drums or its other notes."""
    has_level = course.level is not None
    own = replace(score, notes=tuple(_plain(note, has_level, is_bent) for note in notes))
    if has_level:  # which the velocities and the fades of the score hold otherwise
        own = replace(own, gain=0.0, fades=())
    bend, vibrato = (course.bend, course.vibrato) if is_bent else (None, None)
    return Bus(own, (course.channel,), course.pan, course.level, bend, vibrato, part)


def _plain(note: Note, has_level: bool, is_bent: bool) -> Note:
    """A note without the volume and without the bends that its bus will have."""
    velocity = note.struck if has_level and note.struck else note.velocity
    pitch = in_range(note.pitch - note.bend) if is_bent else note.pitch
    return replace(note, pitch=pitch, velocity=velocity, bend=0, struck=0)


def _places(score: Score, courses: dict[int, Course]) -> list[int | None]:
    """The pan at which each note stays, close ones being equal; None if its channel's moves."""
    found: dict[int, set[int]] = defaultdict(set)
    places: list[int] = []
    for note in score.notes:
        course = courses.get(note.channel)
        place = CENTRE if course is None else round(course.pan.at(note.start + SETTLING_SECONDS))
        places.append(CENTRE if abs(place - CENTRE) < OFF_CENTRE else place)
        found[note.channel].add(places[-1])
    moving = {
        channel
        for channel, own in found.items()
        if len(own) > MOST_PANS_OF_CHANNEL or (channel in courses and courses[channel].pan_moves)
    }
    every = set().union(*(own for channel, own in found.items() if channel not in moving))
    if len(every) > MOST_PANS:
        places = [CENTRE + round((place - CENTRE) / PAN_STEP) * PAN_STEP for place in places]
    return [
        None if note.channel in moving else place
        for note, place in zip(score.notes, places, strict=True)
    ]
