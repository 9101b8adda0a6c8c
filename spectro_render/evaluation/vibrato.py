"""How much and how fast single notes of strings, winds and voices sway, beside the reference's."""

from typing import NamedTuple

import numpy as np
import torch

from spectro_render.constants import FRAME_RATE, SAMPLE_RATE
from spectro_render.evaluation.arrays import Samples
from spectro_render.evaluation.probes import LEAD, VELOCITY, Play
from spectro_render.midi.score import Note, Score
from spectro_render.training.compose import score_of
from spectro_render.training.lines import SWINGING_HZ, find_lines, line_deviations

# Bowed strings and string ensembles, choirs and voices, brass, reeds, flutes and pipes.
PROGRAMS = (40, 41, 42, 44, 48, 49, 50, 52, 53, 54, 56, 60, 64, 65, 68, 70, 71, 72, 73, 75, 79)
PITCHES = (55, 64, 73)
NOTE_SECONDS = 2.5
SETTLED = slice(round((LEAD + 0.2) * FRAME_RATE), round((LEAD + 2.1) * FRAME_RATE))  # frames
STRONGEST = 8  # lines whose movement is measured
LEAST_CENTS = 3.0  # of the reference's deviation: a note with less has no vibrato
MOST_CENTS = 60.0  # more is a line that was mistaken for another
SLOWEST_HZ = 2.0  # what is slower is no vibrato
NEAR_HZ = 1.0


class Vibrato(NamedTuple):
    """The vibrato of notes whose reference has some."""

    notes: int  # that have some
    deviation: float  # mean standard deviation of the frequency in cents, over the reference's
    rate: float  # share of the notes whose strongest rate is within 1 Hz of the reference's


def compare_vibrato(play: Play, reference: Play) -> Vibrato:
    """Play notes of 21 programs at 3 pitches each, and compare how their partials move."""
    found = []
    for program in PROGRAMS:
        for pitch in PITCHES:
            name = f"vibrato-{program}-{pitch}"
            note = Note(LEAD, LEAD + NOTE_SECONDS, pitch, VELOCITY, program, False)
            score: Score = score_of([note])
            true = reference(name, score)
            hertz = [line for line, _ in find_lines(true[round(LEAD * SAMPLE_RATE) :])]
            hertz = [line for line in hertz if SWINGING_HZ[0] < line < SWINGING_HZ[1]][:STRONGEST]
            deviation, rate = _sway(true, hertz)
            if deviation > LEAST_CENTS:
                found.append((deviation, rate, *_sway(play(name, score), hertz)))
    if not found:
        return Vibrato(0, float("nan"), float("nan"))
    true_cents, true_rate, cents, rate_found = np.array(found).T
    near = np.abs(rate_found - true_rate) < NEAR_HZ
    return Vibrato(len(found), float(cents.mean() / true_cents.mean()), float(near.mean()))


def _sway(samples: Samples, hertz: list[float]) -> tuple[float, float]:
    """The deviation of lines of samples (S,) in cents, and the strongest rate in Hz."""
    if not hertz:
        return 0.0, 0.0
    cents = line_deviations(torch.from_numpy(np.float32(samples)), torch.tensor(hertz)).numpy()
    cents = cents[SETTLED] - np.median(cents[SETTLED])
    cents = cents.clip(-MOST_CENTS, MOST_CENTS)
    size = 512
    strength = np.abs(np.fft.rfft((cents - cents.mean()) * np.hanning(len(cents)), size))
    strength[: round(SLOWEST_HZ * size / FRAME_RATE)] = 0
    return float(cents.std()), float(strength.argmax()) * FRAME_RATE / size
