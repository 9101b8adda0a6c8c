"""Probes: phrases on single instruments that test their timbre, response to velocity and level.

Each phrase fits into one window, so that it is rendered from its notes alone, without context.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from spectro_render.constants import SAMPLE_RATE
from spectro_render.evaluation.arrays import Matrix, Samples
from spectro_render.evaluation.distances import mel_cepstrum, mel_of
from spectro_render.midi.score import Note, Score
from spectro_render.tokens.vocabulary import SLAKH_PROGRAMS
from spectro_render.training.compose import score_of

# The most common drums in real music: bass drums, snares, hi-hats, a tom, cymbals.
DRUMS = (35, 36, 38, 40, 42, 44, 46, 45, 49, 51)

MELODY = (48, 55, 60, 64, 67, 72)  # MIDI pitches, each BEAT long, before the chord
CHORD = (48, 60, 64, 67)
BEAT = 0.4  # seconds
LEAD = 0.1  # seconds before the first note
VELOCITY = 90

VELOCITIES = (64, 127, 32, 96)  # out of order, so that a crescendo or a fade does not match them
NOTE_SECONDS = 0.9
NOTE_STEP = 1.25  # seconds between onsets
NOTE_PITCH = 60

LEVEL_PITCHES = (45, 60, 72)  # of a program: below, at and above middle C
LEVEL_CHORD = (0, 4, 7)  # of a piano's octave: semitones above its C
LEVEL_OCTAVES = range(24, 120, 12)  # the lowest pitch of each of the piano's octaves
LEVEL_DRUMS = range(27, 88)  # General MIDI's and General Standard's drum notes
LEVEL_STEP = 1.5  # seconds between onsets
LEVEL_SECONDS = 1.0  # of a note, and of the sound whose level counts
FAR_OFF = 6.0  # dB
SILENCE = 1e-9  # power: -90 dBFS, so that what is silent on both sides does not differ

AUDIBLE = -7.0  # log-mel: softer values are raised to it
COEFFICIENTS = range(1, 21)  # orders of the mel cepstrum; order 0, the level, is left out

Play = Callable[[str, Score], Samples]  # a probe's name and score -> its sound


class Instruments(NamedTuple):
    """How often a probe's nearest reference is the one of its own instrument."""

    top1: float  # share of the probes whose own reference is the nearest
    top3: float  # share of the probes whose own reference is among the nearest three
    mistaken: dict[str, str]  # probe -> the nearest reference, where that is not its own


class Velocities(NamedTuple):
    """How the level of a note follows its velocity, compared with the reference."""

    rank_correlation: float  # Spearman's, of a program's four levels; mean over programs
    pooled: float  # Spearman's, of all levels at once, each relative to its program's mean
    slope: float  # rise of the level in dB for each dB of the reference's rise


class Levels(NamedTuple):
    """How far the levels of programs, drums and the piano's octaves are from the reference's."""

    within: float  # dB: 95 % of them differ by no more
    worst: float  # dB: the largest difference
    far_off: dict[str, float]  # dB above the reference: those that differ by more than 6 dB


def phrase(program: int) -> Score:
    """A melody and a chord on a program, with the same notes for every program."""
    starts = LEAD + BEAT * np.arange(len(MELODY) + 1)
    melody = zip(starts.tolist(), MELODY, strict=False)
    notes = [Note(s, s + 0.95 * BEAT, pitch, VELOCITY, program, False) for s, pitch in melody]
    last = float(starts[-1])
    notes += [Note(last, last + 3 * BEAT, pitch, VELOCITY, program, False) for pitch in CHORD]
    return score_of(notes)


def drum_phrase(drum: int) -> Score:
    """A rhythm on a drum, the same for every drum."""
    starts = LEAD + BEAT * np.array([0, 2, 3, 4, 4.5, 5, 7, 8])
    return score_of([Note(s, s + 0.1, drum, VELOCITY, 0, True) for s in starts.tolist()])


def velocity_phrase(program: int) -> Score:
    """One note on a program, at four velocities."""
    starts = LEAD + NOTE_STEP * np.arange(len(VELOCITIES))
    return score_of(
        [
            Note(start, start + NOTE_SECONDS, NOTE_PITCH, velocity, program, False)
            for start, velocity in zip(starts.tolist(), VELOCITIES, strict=True)
        ]
    )


def level_phrases() -> dict[str, Score]:
    """Notes one by one on every program, every drum and in every octave of the piano, by name.

    Each phrase has the notes of one of them, far from the window's borders.
    """
    phrases: dict[str, list[tuple[int, int, bool]]] = {
        f"program-{program}": [(pitch, program, False) for pitch in LEVEL_PITCHES]
        for program in range(128)
    }
    for low in LEVEL_OCTAVES:
        phrases[f"piano-{low}"] = [(low + step, 0, False) for step in LEVEL_CHORD]
    phrases |= {f"drum-{drum}": [(drum, 0, True)] * len(LEVEL_CHORD) for drum in LEVEL_DRUMS}
    return {
        name: score_of(
            [
                Note(start, start + LEVEL_SECONDS, pitch, VELOCITY, program, is_drum)
                for start, (pitch, program, is_drum) in zip(_level_starts(), notes, strict=True)
            ]
        )
        for name, notes in phrases.items()
    }


def _level_starts() -> list[float]:
    """The times in seconds at which the notes of a level phrase begin."""
    return [LEAD + LEVEL_STEP * index for index in range(len(LEVEL_PITCHES))]


def compare_levels(play: Play, reference: Play) -> Levels:
    """Compare the level of each program, drum and octave of the piano with the reference's."""
    differences = {}
    for name, score in level_phrases().items():
        own, true = (_power(sound(name, score)) for sound in (play, reference))
        differences[name] = float(np.mean(10 * np.log10(own / true)))
    sizes = np.abs(list(differences.values()))
    return Levels(
        float(np.quantile(sizes, 0.95)),
        float(sizes.max()),
        {name: level for name, level in differences.items() if abs(level) > FAR_OFF},
    )


def _power(samples: Samples) -> Matrix:
    """The mean power of each note of a level phrase in samples (S,)."""
    length = round(LEVEL_SECONDS * SAMPLE_RATE)
    starts = [round(start * SAMPLE_RATE) for start in _level_starts()]
    notes = np.stack([samples[start : start + length] for start in starts]).astype(np.float64)
    return np.asarray((notes**2).mean(1) + SILENCE)


def identify(play: Play, reference: Play) -> Instruments:
    """Find the nearest reference of each probe, among those of 34 programs or of 10 drums."""
    kinds = (
        {f"program-{program}": phrase(program) for program in SLAKH_PROGRAMS},
        {f"drum-{drum}": drum_phrase(drum) for drum in DRUMS},
    )
    ranks: list[int] = []
    mistaken: dict[str, str] = {}
    for scores in kinds:
        names = list(scores)
        own, true = (
            [timbre(sound(name, score)) for name, score in scores.items()]
            for sound in (play, reference)
        )
        distances = np.array(
            [[np.linalg.norm(one - other, axis=1).mean() for other in true] for one in own]
        )
        ranks += own_ranks(distances)
        nearest = [names[index] for index in distances.argmin(1)]
        mistaken |= {
            name: other for name, other in zip(names, nearest, strict=True) if name != other
        }
    count = len(ranks)
    top1, top3 = (sum(rank < limit for rank in ranks) / count for limit in (1, 3))
    return Instruments(top1, top3, mistaken)


def timbre(samples: Samples) -> Matrix:
    """The spectral envelope of each frame of samples (S,), without its level: (T, 20)."""
    return mel_cepstrum(np.maximum(mel_of(samples), AUDIBLE), COEFFICIENTS)


def own_ranks(distances: Matrix) -> list[int]:
    """Count, for each of n sounds, the references that are nearer than its own.

    `distances` (n, n) has a row for each sound and a column for each reference; a sound's own
    reference is on the diagonal.
    """
    return [int(rank) for rank in (distances < np.diag(distances)[:, None]).sum(1)]


def follow_velocity(play: Play, reference: Play) -> Velocities:
    """Compare how the level of a note rises with its velocity in both sounds."""
    scores = {f"velocity-{program}": velocity_phrase(program) for program in SLAKH_PROGRAMS}
    levels, wanted = (
        np.array([_levels(sound(name, score)) for name, score in scores.items()])
        for sound in (play, reference)
    )
    each = [rank_correlation(one, other) for one, other in zip(levels, wanted, strict=True)]
    levels, wanted = (one - one.mean(1, keepdims=True) for one in (levels, wanted))
    return Velocities(
        float(np.mean(each)),
        rank_correlation(levels.ravel(), wanted.ravel()),
        float((levels * wanted).sum() / (wanted**2).sum()),
    )


def _levels(samples: Samples) -> list[float]:
    """Level in dB of each note of `velocity_phrase` in samples (S,)."""
    length = round(NOTE_SECONDS * SAMPLE_RATE)
    starts = [round((LEAD + NOTE_STEP * k) * SAMPLE_RATE) for k in range(len(VELOCITIES))]
    powers = [np.mean(samples[start : start + length].astype(np.float64) ** 2) for start in starts]
    return [float(10 * np.log10(power + 1e-12)) for power in powers]


def rank_correlation(one: Matrix, other: Matrix) -> float:
    """Spearman's rank correlation of two lists of numbers (n,); 0 if one is constant."""
    ranks = np.stack([_ranks(one), _ranks(other)])
    deviations = ranks - ranks.mean(1, keepdims=True)
    norm = np.sqrt((deviations[0] ** 2).sum() * (deviations[1] ** 2).sum())
    return float(deviations[0] @ deviations[1] / norm) if norm else 0.0


def _ranks(values: Matrix) -> Matrix:
    """Ranks of numbers (n,), from 0.5; equal numbers share the mean of their ranks."""
    difference = values[:, None] - values
    ranks: Matrix = (difference > 0).sum(1) + (difference == 0).sum(1) / 2
    return ranks
