"""Makes scores for training: random music, and random variations of real music.

Real MIDI files are not enough. A seventh of the General MIDI programs never occurs in them, and
many files have hardly any dynamics. Random phrases use all programs and velocities, variations put
real music on other instruments, and single notes show how loud each sound is.
"""

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import replace
from random import Random

import numpy as np

from spectro_render.constants import WINDOW_SECONDS
from spectro_render.midi.score import Note, Score

SCALES = ((0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10), (0, 2, 4, 7, 9), tuple(range(12)))
CHORDS = ((0, 4, 7), (0, 3, 7), (0, 4, 7, 10), (0, 3, 6, 9), (0, 7, 12), (0, 5, 7), (0, 4, 7, 11))
COMMON_DRUMS = (35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 50, 51, 53, 54, 55, 56)
ALL_DRUMS = tuple(range(27, 88))
BASS_FAMILY = range(32, 40)

# Sounds that the third weights play more than 6 dB too loud or too soft (see `evaluate --parts
# levels`). They are drawn more often.
FAR_OFF_PROGRAMS = (9, 11, 12, 13, 31, 34, 83, 92, 105, 113, 115, 117, 118, 120, 123, 127)
FAR_OFF_DRUMS = (34, 67, 68, 71, 72, 78, 80, 81, 82)
FAR_OFF_PIANO = range(96, 121)  # pitches
FAR_OFF_SHARE = 0.2  # of programs and drums: drawn from these

BORDER_REACH = 0.015  # seconds: how far from a border `meet_borders` lets a note begin
BORDER_PULL = 0.4  # seconds: the farthest that it moves a note to a border

Part = list[Note]


class Phrase:
    """Random music of one instrument, with a beat, scale, loudness and articulation of its own."""

    def __init__(self, rng: Random, program: int, beat: float, root: int) -> None:
        """`beat` in seconds; `root` is the pitch class of the scale, 0 (C) to 11."""
        self.rng = rng
        self.program = program
        self.beat = beat
        low, high = (24, 55) if program in BASS_FAMILY else (36, 96)
        if rng.random() < 0.1:
            low, high = 0, 127
        self.centre = rng.randint(low, high)
        self.scale = [root + degree for degree in rng.choice(SCALES)]
        self.velocity = rng.randint(25, 120)
        self.spread = rng.choice((0, 4, 12, 30))
        self.step = beat * rng.choice((0.25, 0.5, 0.5, 1.0, 1.0, 2.0))
        self.articulation = rng.choice((0.3, 0.7, 0.95, 1.0, 1.3))

    def note(self, start: float, pitch: int, length: float) -> Note:
        """A note of the phrase's instrument; times in seconds, the velocity is random."""
        velocity = round(self.rng.gauss(self.velocity, self.spread))
        return Note(
            start,
            start + max(0.03, length),
            min(127, max(0, pitch)),
            min(127, max(1, velocity)),
            self.program,
            False,
        )

    def degree(self, index: int) -> int:
        """The pitch `index` steps up the scale from the phrase's centre."""
        octave, step = divmod(index, len(self.scale))
        return self.centre - self.centre % 12 + 12 * octave + self.scale[step]

    def melody(self, start: float, end: float) -> Part:
        """A random walk along the scale, with leaps and rests."""
        notes, index, now = [], self.rng.randint(0, 6), start
        while now < end:
            length = self.step * self.rng.choice((0.5, 1, 1, 1, 2, 3))
            if self.rng.random() > 0.12:
                notes.append(self.note(now, self.degree(index), length * self.articulation))
            index = max(-7, min(14, index + self.rng.choice((-4, -2, -1, -1, 0, 1, 1, 2, 3))))
            now += length
        return notes

    def chords(self, start: float, end: float) -> Part:
        """Random chords on degrees of the scale."""
        notes, now = [], start
        while now < end:
            length = self.step * self.rng.choice((1, 2, 4))
            bottom = self.degree(self.rng.randint(0, 6))
            for interval in self.rng.choice(CHORDS):
                notes.append(self.note(now, bottom + interval, length * self.articulation))
            now += length
        return notes

    def arpeggio(self, start: float, end: float) -> Part:
        """The notes of one chord over two octaves, repeated."""
        notes, now, step = [], start, self.step / 2
        chord = self.rng.choice(CHORDS)
        bottom = self.degree(self.rng.randint(0, 4))
        for count in range(int((end - start) / step)):
            octave, tone = divmod(count % (2 * len(chord)), len(chord))
            pitch = bottom + chord[tone] + 12 * octave
            notes.append(self.note(now, pitch, step * self.articulation))
            now += step
        return notes

    def repeated(self, start: float, end: float) -> Part:
        """One repeated pitch, in a crescendo or a diminuendo."""
        step, pitch = self.step / 2, self.degree(self.rng.randint(0, 8))
        first, last = self.rng.randint(10, 127), self.rng.randint(10, 127)
        count = max(1, int((end - start) / step))
        notes = [self.note(start + k * step, pitch, step * 0.8) for k in range(count)]
        slope = (last - first) / count
        return [replace(note, velocity=round(first + slope * k)) for k, note in enumerate(notes)]

    def long_notes(self, start: float, end: float) -> Part:
        """Groups of one to three notes, each up to 9 s long."""
        notes, now = [], start
        while now < end:
            length = self.rng.uniform(1.5, 9.0)
            for _ in range(self.rng.randint(1, 3)):
                pitch = self.degree(self.rng.randint(-3, 10))
                notes.append(self.note(now, pitch, length * self.rng.uniform(0.6, 1.0)))
            now += length + self.rng.choice((0, 0, self.beat, 3.0))
        return notes

    def play(self, start: float, end: float) -> Part:
        """A phrase of a random kind (melody, chords, ...), from `start` to `end` in seconds."""
        figures: list[Callable[[float, float], Part]] = [
            self.melody, self.melody, self.chords, self.arpeggio, self.repeated, self.long_notes
        ]  # fmt: skip
        return self.rng.choice(figures)(start, end)


def any_program(rng: Random) -> int:
    """A random program of the 128; some are drawn more often, because they are hard to learn."""
    return rng.choice(FAR_OFF_PROGRAMS) if rng.random() < FAR_OFF_SHARE else rng.randrange(128)


def drum_part(rng: Random, beat: float, start: float, end: float) -> Part:
    """A random pattern of 16 steps for a few drums, repeated from `start` to `end` in seconds.

    A hit is sometimes left out.
    """
    drums = rng.sample(COMMON_DRUMS if rng.random() < 0.7 else ALL_DRUMS, rng.randint(1, 5))
    if rng.random() < FAR_OFF_SHARE:
        drums.append(rng.choice(FAR_OFF_DRUMS))
    step, notes = beat / rng.choice((1, 2, 4)), []
    pattern = {
        drum: [rng.random() < rng.choice((0.15, 0.4, 0.8)) for _ in range(16)] for drum in drums
    }
    level = rng.randint(40, 120)
    for count in range(int((end - start) / step)):
        now = start + count * step
        for drum, hits in pattern.items():
            if hits[count % 16] and rng.random() > 0.05:
                velocity = min(127, max(1, round(rng.gauss(level, 15))))
                notes.append(Note(now, now + 0.1, drum, velocity, 0, True))
    return notes


def score_of(notes: Part) -> Score:
    """A score of these notes, sorted by start."""
    ordered = tuple(sorted(notes, key=lambda note: note.start))
    return Score(ordered, max((note.end for note in ordered), default=0.0))


def made_up(rng: Random, seconds: float) -> Score:
    """Random music of `seconds` seconds for one to ten instruments, often with drums.

    All 128 programs are equally likely.
    """
    beat, root = 60 / rng.uniform(50, 190), rng.randint(0, 11)
    parts = rng.choice((1, 1, 1, 2, 2, 3, 4, 5, 7, 10))
    notes: Part = []
    for _ in range(parts):
        now, program = rng.uniform(0, 2), any_program(rng)
        while now < seconds:
            end = min(seconds, now + rng.uniform(3, 10))
            notes += Phrase(rng, program, beat, root).play(now, end)
            now = end + rng.choice((0, 0, 0, beat, 4.0))
            if parts == 1 and rng.random() < 0.6:  # alone, the next instrument takes over
                program = any_program(rng)
    if rng.random() < 0.45:
        bars = [t * 16 * beat for t in range(int(seconds / (16 * beat)) + 1)]
        for start in bars:
            notes += drum_part(rng, beat, start, min(seconds, start + 16 * beat))
    return score_of(notes)


def single_notes(rng: Random, seconds: float) -> Score:
    """Notes one after the other for `seconds` seconds, each of another sound, with rests between.

    They are of all programs and drums, at all pitches and velocities.
    """
    notes: Part = []
    now = rng.uniform(0, 0.5)
    while now < seconds:
        length = rng.choice((0.1, 0.3, 0.5, 1.0))
        end, velocity, kind = now + length, rng.randint(20, 127), rng.random()
        if kind < 0.25:
            drum = rng.choice(FAR_OFF_DRUMS if rng.random() < 0.3 else ALL_DRUMS)
            notes.append(Note(now, now + 0.1, drum, velocity, 0, True))
        elif kind < 0.35:
            notes.append(Note(now, end, rng.choice(FAR_OFF_PIANO), velocity, 0, False))
        else:
            notes.append(Note(now, end, rng.randint(21, 108), velocity, any_program(rng), False))
        now = end + rng.uniform(0.1, 0.6)
    return score_of(notes)


def meet_borders(score: Score, rng: Random) -> Score:
    """Stretch the music between window borders a little, so that a note begins at each border.

    It begins up to 15 ms before or after it. Borders without a note nearby stay as they are.
    """
    starts = sorted({note.start for note in score.notes})
    before, after = [0.0], [0.0]  # seconds: the same moments in the score and in the result
    for border in np.arange(WINDOW_SECONDS, score.duration, WINDOW_SECONDS).tolist():
        here = before[-1] + border - after[-1]
        first = bisect_left(starts, here - BORDER_PULL)
        near = [start for start in starts[first:] if start < here + BORDER_PULL]
        if near:
            before.append(min(near, key=lambda start: abs(start - here)))
            after.append(border + rng.uniform(-BORDER_REACH, BORDER_REACH))
    before.append(before[-1] + 3600)
    after.append(after[-1] + 3600)
    return score_of(
        [
            replace(
                note,
                start=float(np.interp(note.start, before, after)),
                end=float(np.interp(note.end, before, after)),
            )
            for note in score.notes
        ]
    )


def excerpt(score: Score, rng: Random, seconds: float) -> Score:
    """The notes that begin within `seconds` seconds from a random time, moved to the start."""
    last = max((note.start for note in score.notes), default=0.0)
    start = rng.uniform(0, max(0.0, last - seconds))
    inside = [note for note in score.notes if start <= note.start < start + seconds]
    lead = rng.uniform(0, 0.5)
    moved = [
        replace(
            note, start=note.start - start + lead, end=min(note.end - start, seconds + 2) + lead
        )
        for note in inside
    ]
    return score_of(moved)


def mix(one: Score, other: Score) -> Score:
    """The notes of two scores at the same time."""
    return score_of([*one.notes, *other.notes])


def vary(score: Score, rng: Random) -> Score:
    """A random variation: transposed, stretched, louder or softer, on other instruments.

    In music of several instruments, some may be left out.
    """
    shift, stretch = rng.randint(-6, 6), rng.uniform(0.8, 1.25)
    loudness = rng.uniform(0.55, 1.3)
    programs = sorted({note.program for note in score.notes if not note.is_drum})
    swapped = {p: rng.randrange(128) if rng.random() < 0.45 else p for p in programs}
    muted = {p for p in programs if len(programs) > 1 and rng.random() < 0.15}
    notes = [
        replace(
            note,
            start=note.start * stretch,
            end=note.end * stretch,
            pitch=note.pitch if note.is_drum else note.pitch + shift,
            program=note.program if note.is_drum else swapped[note.program],
            velocity=min(127, max(1, round(note.velocity * loudness))),
        )
        for note in score.notes
        if note.is_drum or (note.program not in muted and 0 <= note.pitch + shift <= 127)
    ]
    return score_of(notes)
