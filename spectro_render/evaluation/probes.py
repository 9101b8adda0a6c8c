"""Short phrases that ask one thing: which instrument is this, and does it play louder when told?

Each fits into one window, so that nothing but its notes tells the model what to do.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from spectro_render.constants import SAMPLE_RATE
from spectro_render.evaluation.distances import mel_of
from spectro_render.midi.score import Note, Score
from spectro_render.tokens.vocabulary import SLAKH_PROGRAMS

# The commonest of real music: bass drums, snares, hi-hats, a tom, cymbals.
DRUMS = (35, 36, 38, 40, 42, 44, 46, 45, 49, 51)

MELODY = (48, 55, 60, 64, 67, 72)  # MIDI pitches, each BEAT long; then a chord
CHORD = (48, 60, 64, 67)
BEAT = 0.4  # seconds
LEAD = 0.1  # seconds before the first note
VELOCITY = 90

VELOCITIES = (64, 127, 32, 96)  # not in order: a sound that only grows or fades has none of this
NOTE_SECONDS = 0.9
NOTE_STEP = 1.25
NOTE_PITCH = 60

AUDIBLE = -7.0  # log-mel: what is softer is treated alike
COEFFICIENTS = 20  # of the mel cepstrum, the level (coefficient 0) left out


Samples = npt.NDArray[np.float32]
Matrix = npt.NDArray[np.float64]
Play = Callable[[str, Score], Samples]  # a probe, by name -> its sound


class Instruments(NamedTuple):
    """Shares of probes whose own reference is the nearest, or among the nearest three."""

    top1: float
    top3: float
    mistaken: dict[str, str]  # for what: the nearest reference, where it is not their own


class Velocities(NamedTuple):
    """How the level follows the velocity."""

    rank_correlation: float  # Spearman's, of four levels with the reference's; mean of programs
    pooled: float  # the same of all levels at once, each against the mean of its program
    slope: float  # dB that the level rises for each dB of the reference's


def phrase(program: int) -> Score:
    """The same melody and chord on any program."""
    starts = LEAD + BEAT * np.arange(len(MELODY) + 1)
    melody = zip(starts.tolist(), MELODY, strict=False)
    notes = [Note(s, s + 0.95 * BEAT, pitch, VELOCITY, program, False) for s, pitch in melody]
    last = float(starts[-1])
    notes += [Note(last, last + 3 * BEAT, pitch, VELOCITY, program, False) for pitch in CHORD]
    return _score(notes)


def drum_phrase(drum: int) -> Score:
    """The same rhythm on any drum."""
    starts = LEAD + BEAT * np.array([0, 2, 3, 4, 4.5, 5, 7, 8])
    return _score([Note(s, s + 0.1, drum, VELOCITY, 0, True) for s in starts.tolist()])


def velocity_phrase(program: int) -> Score:
    """The same note at four velocities."""
    starts = LEAD + NOTE_STEP * np.arange(len(VELOCITIES))
    return _score(
        [
            Note(start, start + NOTE_SECONDS, NOTE_PITCH, velocity, program, False)
            for start, velocity in zip(starts.tolist(), VELOCITIES, strict=True)
        ]
    )


def _score(notes: list[Note]) -> Score:
    return Score(tuple(notes), max(note.end for note in notes))


def identify(play: Play, reference: Play) -> Instruments:
    """Which reference each of 34 programs and 10 drums is nearest to, among its own kind."""
    kinds = (
        {f"program-{program}": phrase(program) for program in SLAKH_PROGRAMS},
        {f"drum-{drum}": drum_phrase(drum) for drum in DRUMS},
    )
    ranks: list[int] = []
    mistaken: dict[str, str] = {}
    for scores in kinds:
        names = list(scores)
        heard, true = (
            [features(sound(name, score)) for name, score in scores.items()]
            for sound in (play, reference)
        )
        distances = _distances(heard, true)
        ranks += own_ranks(distances)
        nearest = [names[index] for index in distances.argmin(1)]
        mistaken |= {
            name: other for name, other in zip(names, nearest, strict=True) if name != other
        }
    count = len(ranks)
    top1, top3 = (sum(rank < limit for rank in ranks) / count for limit in (1, 3))
    return Instruments(top1, top3, mistaken)


def features(samples: Samples) -> Matrix:
    """Mel cepstrum of each frame (T, 20): the outline of its spectrum, whatever its level."""
    mel = np.maximum(mel_of(samples), AUDIBLE)
    bands = mel.shape[1]
    order = np.arange(1, COEFFICIENTS + 1)
    cosines = np.cos(np.pi / bands * (np.arange(bands)[:, None] + 0.5) * order)
    return mel @ cosines * np.sqrt(2 / bands)


def _distances(sounds: Sequence[Matrix], references: Sequence[Matrix]) -> Matrix:
    """Mean Euclidean distance of the frames of each sound to those of each reference."""
    return np.array(
        [[np.linalg.norm(one - other, axis=1).mean() for other in references] for one in sounds]
    )


def own_ranks(distances: Matrix) -> list[int]:
    """How many references are nearer to each sound than its own (on the diagonal)."""
    return [int(rank) for rank in (distances < np.diag(distances)[:, None]).sum(1)]


def follow_velocity(play: Play, reference: Play) -> Velocities:
    """Whether the level of a note rises with its velocity as the reference's does."""
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
    """Level of each note of `velocity_phrase`, dB."""
    length = round(NOTE_SECONDS * SAMPLE_RATE)
    starts = [round((LEAD + NOTE_STEP * k) * SAMPLE_RATE) for k in range(len(VELOCITIES))]
    powers = [np.mean(samples[start : start + length].astype(np.float64) ** 2) for start in starts]
    return [float(10 * np.log10(power + 1e-12)) for power in powers]


def rank_correlation(one: Matrix, other: Matrix) -> float:
    """Spearman's rank correlation of two lists of numbers (n,); 0 where one is all the same."""
    ranks = np.stack([_ranks(one), _ranks(other)])
    deviations = ranks - ranks.mean(1, keepdims=True)
    norm = np.sqrt((deviations[0] ** 2).sum() * (deviations[1] ** 2).sum())
    return float(deviations[0] @ deviations[1] / norm) if norm else 0.0


def _ranks(values: Matrix) -> Matrix:
    """Equal numbers share the mean of their ranks."""
    difference = values[:, None] - values
    ranks: Matrix = (difference > 0).sum(1) + (difference == 0).sum(1) / 2
    return ranks
