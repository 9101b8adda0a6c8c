"""Finds the channels that pan, and those whose level, place or pitch moves while notes sound."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from math import inf

from spectro_render.midi.course import CENTRE, OFF_CENTRE, SETTLING_SECONDS, Course, Curve
from spectro_render.midi.loudness import FAINT_DB, Fades, decibels
from spectro_render.midi.notes import Performance
from spectro_render.midi.pitch import AT_REST, Pitch
from spectro_render.midi.played import PlayedNote, Setting
from spectro_render.midi.tempo import Clock

MOVING_DB = 1.0  # a level moves where it changes by more within a note
# The deepest vibrato by modulation in a SoundFont, in semitones (SoundFont 2.04, section 8.4.3).
VIBRATO_DEPTH = 0.5
LEAST_MODULATION = 13  # its value from which vibrato counts: 5 cents
# The channels that move and are played so, by their numbers of notes: each is rendered for itself.
MOST_MOVING = 32


class _Spans:
    """When notes of one channel sound, without their first and last moments."""

    def __init__(self, notes: Iterable[PlayedNote]) -> None:
        spans = sorted(
            (note.start_seconds + SETTLING_SECONDS, note.end_seconds - SETTLING_SECONDS)
            for note in notes
        )
        self._starts = [start for start, _ in spans]
        self._ends = list(accumulate((end for _, end in spans), max))  # latest so far

    def end(self, seconds: float) -> float:
        """When the last note ends that has begun before a time; -inf if there is none."""
        index = bisect_left(self._starts, seconds)
        return self._ends[index - 1] if index else -inf


def find_courses(
    performance: Performance, fades: Fades, clock: Clock
) -> tuple[dict[int, Course], set[int]]:
    """The courses of the channels that need one; `fades` are those that all channels share.

    Returned are also the channels that move and whose movement is not played, as MOST_MOVING have
    more notes.
    """
    by_channel: dict[int, list[PlayedNote]] = defaultdict(list)
    for note in performance.notes:
        by_channel[note.channel].append(note)
    found = []
    for channel, notes in by_channel.items():
        course = _course(channel, notes, performance, fades, clock)
        if course is not None:
            found.append(course)
    moving = sorted(
        (course for course in found if course.moves),
        key=lambda course: -len(by_channel[course.channel]),
    )
    still = {course.channel for course in moving[MOST_MOVING:]}
    courses = {
        course.channel: Course(course.channel, course.pan) if course.channel in still else course
        for course in found
    }
    return courses, still


def _course(
    channel: int, notes: list[PlayedNote], performance: Performance, fades: Fades, clock: Clock
) -> Course | None:
    levels, pitch = performance.levels[channel], performance.pitches[channel]
    pan, modulation = performance.pans[channel], performance.modulations[channel]
    if not (levels.ticks or pitch.moves or pan.ticks or modulation.ticks):
        return None
    pitched = [note for note in notes if not note.is_drum]
    spans = _Spans(pitched)
    panned = _curve(pan, clock)
    is_panned = any(abs(pan.at(note.start) - CENTRE) >= OFF_CENTRE for note in notes)
    pan_moves = _moves(panned, spans, lambda value, *_: (value, value), OFF_CENTRE - 1)
    level = None
    decibel_curve = Curve(tuple(clock.seconds(levels.ticks)), tuple(map(decibels, levels.factors)))
    if _moves(decibel_curve, spans, lambda *step: _over_fades(fades, *step), MOVING_DB):
        level = Curve(decibel_curve.times, tuple(factor**2 for factor in levels.factors))
    bend = _bend(pitch, pitched, clock) if _is_bent(pitch, pitched, clock) else None
    vibrato = None
    if _is_modulated(modulation, pitched):
        depth = _curve(modulation, clock)
        values = tuple(value / 127 * VIBRATO_DEPTH for value in depth.values)
        vibrato = Curve(depth.times, values)
    course = Course(channel, panned, pan_moves, level, bend, vibrato)
    return course if is_panned or course.moves else None


def _curve(setting: Setting, clock: Clock) -> Curve:
    return Curve(tuple(clock.seconds(setting.ticks)), (setting.initial, *setting.values))


def _moves(
    curve: Curve,
    spans: _Spans,
    reach: Callable[[float, float, float], tuple[float, float]],
    tolerance: float,
) -> bool:
    """Whether a curve changes by more than `tolerance` while one note sounds.

    `reach` gives the lowest and highest values that one of the curve may stand for, given the times
    at which it begins and ends. Notes that overlap count as one.
    """
    low, high, before = -inf, inf, -1.0
    for place, now in enumerate(curve.times):
        end = spans.end(now)
        if end <= now:
            continue
        if spans.end(before) <= now:  # no note sounds from the change before to this one
            begin = curve.times[place - 1] if place else 0.0
            low, high = reach(curve.values[place], begin, now)
        later = min([end, *curve.times[place + 1 : place + 2]])
        lowest, highest = reach(curve.values[place + 1], now, later)
        low, high, before = max(low, lowest), min(high, highest), now
        if low - high > tolerance:
            return True
    return False


def _over_fades(fades: Fades, level: float, begin: float, end: float) -> tuple[float, float]:
    """What a level is over the fades that all channels share, in dB, at both ends of a time."""
    over = level - fades.at(begin), level - fades.at(end)
    return (-inf if level <= FAINT_DB else min(over)), max(over)


def _is_bent(pitch: Pitch, notes: Sequence[PlayedNote], clock: Clock) -> bool:
    """Whether a note can be heard to leave the keyboard's pitches, or to be between them."""
    if not pitch.moves:
        return False
    rests = (clock.last_tick(note.start_seconds + AT_REST) for note in notes)
    return not all(
        pitch.played(note.start, rest, note.end)[1] for note, rest in zip(notes, rests, strict=True)
    )


def _bend(pitch: Pitch, notes: Sequence[PlayedNote], clock: Clock) -> Curve:
    """The semitones over the pitches that notes have by their keys and the channel's tuning."""
    ends = list(accumulate((note.end for note in notes), max))
    starts = [note.start for note in notes]

    def is_between_notes(tick: int) -> bool:
        index = bisect_left(starts, tick)
        return not index or ends[index - 1] <= tick

    ticks, values = pitch.over_keys(is_between_notes)
    return Curve(tuple(clock.seconds(ticks)), values)


def _is_modulated(modulation: Setting, notes: Iterable[PlayedNote]) -> bool:
    """Whether vibrato by modulation can be heard in a note."""
    if max(modulation.values, default=0) < LEAST_MODULATION:
        return False
    deep = list(accumulate((v >= LEAST_MODULATION for v in modulation.values), initial=0))

    def is_deep(note: PlayedNote) -> bool:
        first = max(0, bisect_right(modulation.ticks, note.start) - 1)
        return deep[bisect_left(modulation.ticks, note.end)] > deep[first]

    return any(map(is_deep, notes))
