"""Finds by how much a recording lies behind its notes, from the onsets of both."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from spectro_render.constants import HOP_LENGTH, SAMPLE_RATE
from spectro_render.mel import log_mel
from spectro_render.midi.score import Note
from spectro_render.vocoder.harmonic_map import line_mel

HOPS_PER_SECOND = 2 * SAMPLE_RATE // HOP_LENGTH  # 100: spectra begin at every half hop of the mel
SEARCHED = 6.0  # seconds to either side in which offsets are searched
AUDIBLE = -7.0  # natural log-mel relative to the loudest: below, nothing counts as an onset
DELAY = -0.02  # seconds from a note's onset to the begin of the spectrum that first shows it well
LEAST_MATCH = 0.08  # correlation below which notes and recording have nothing in common
LEAST_NOTES = 16  # in each half, for comparing the halves
# Music that repeats itself fits nearly as well a beat or a bar later, so lags at which onsets fit
# nearly as well as at the best one are compared by pitches, and a half that fits well where the
# whole does has no offset of its own.
NEARLY = 0.85  # of the best correlation
GOOD_MATCH = 0.25
ALIKE = 0.95  # of the best lag's fit: of lags that fit so well, the nearest to 0 is taken


@dataclass(frozen=True)
class Offset:
    """By how much a recording lies behind its notes."""

    seconds: float
    match: float  # correlation of both onset curves at this offset, at most 1
    drift: float  # seconds by which the second half's offset differs from the first half's


def find_offset(samples: Tensor, notes: Sequence[Note]) -> Offset:
    """Compare the onsets in samples (S,) at 16 kHz with those of notes, up to SEARCHED seconds."""
    rises = _rises(samples)
    starts = np.array([note.start for note in notes])
    weights = np.sqrt([note.velocity / 127 for note in notes])
    fits = _fits(rises.sum(1), starts, weights)
    best = _best_place(fits, rises, notes)
    seconds, match = _seconds(fits, best), float(fits[best])
    middle = float(np.median(starts))
    halves = []
    for is_first in (True, False):
        chosen = (starts <= middle) == is_first
        if chosen.sum() < LEAST_NOTES:
            return Offset(seconds, match, 0.0)
        own = _fits(rises.sum(1), starts[chosen], weights[chosen])
        there = float(own[max(0, best - 2) : best + 3].max())
        fits_there = there > max(GOOD_MATCH, NEARLY * own.max())
        halves.append(seconds if fits_there else _seconds(own, int(own.argmax())))
    return Offset(seconds, match, halves[1] - halves[0])


def _rises(samples: Tensor) -> np.ndarray:
    """How much each mel band rises, at each of HOPS_PER_SECOND places in a second: (S, 128)."""
    half = HOP_LENGTH // 2
    frames = -(-len(samples) // HOP_LENGTH)
    curves = []
    for start in (0, half):
        mel = log_mel(samples[start:])
        mel = torch.nn.functional.pad(mel, (0, 0, 0, frames - len(mel)), value=float(mel.min()))
        mel = mel.clamp(min=float(mel.max()) + AUDIBLE)
        curves.append(mel.diff(dim=0, prepend=mel[:1]).clamp(min=0))
    return torch.stack(curves, 1).flatten(0, 1).double().numpy()


def _best_place(fits: np.ndarray, rises: np.ndarray, notes: Sequence[Note]) -> int:
    """The index of the lag that fits best, by the pitches too where several fit nearly as well.

    `fits` are correlations by lag, `rises` (S, 128).
    """
    is_peak = (fits[1:-1] >= fits[:-2]) & (fits[1:-1] >= fits[2:])
    places = 1 + np.flatnonzero(is_peak & (fits[1:-1] > NEARLY * fits.max()))
    pitched = [note for note in notes if not note.is_drum]
    if len(places) < 2 or not pitched or fits.max() < GOOD_MATCH:
        return int(fits.argmax())
    hertz = 440 * 2 ** ((torch.arange(128) - 69) / 12)
    bands = line_mel(hertz)
    bands = bands / bands.norm(dim=1, keepdim=True).clamp(min=1e-9)
    by_pitch = (rises - rises.mean(0)) @ bands.double().numpy().T  # (S, 128 pitches)
    first = np.round((np.array([n.start for n in pitched]) + DELAY) * HOPS_PER_SECOND).astype(int)
    pitches = np.array([note.pitch for note in pitched])
    found = []
    for place in places:
        onsets = first + place - len(fits) // 2
        inside = (onsets >= 0) & (onsets < len(rises) - 1)
        two = [by_pitch[onsets[inside] + step, pitches[inside]] for step in (0, 1)]
        found.append(np.maximum(*two).mean() if inside.any() else 0.0)
    both = fits[places] * np.maximum(found, 0.0)
    alike = places[both >= ALIKE * both.max()]
    return int(alike[np.abs(alike - len(fits) // 2).argmin()])


def _fits(rises: np.ndarray, starts: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The correlation of onsets with rises at each lag from -SEARCHED to SEARCHED seconds."""
    reach = round(SEARCHED * HOPS_PER_SECOND)
    length = max(len(rises), math.ceil(float(starts.max()) * HOPS_PER_SECOND)) + 2 * reach + 8
    expected = np.zeros(length)
    places = (starts + DELAY) * HOPS_PER_SECOND
    for shift, share in ((-1, 0.5), (0, 1.0), (1, 0.5)):
        np.add.at(expected, np.round(places).astype(int) + shift + 1, share * weights)
    expected = expected[1:]
    found = np.zeros(length - 1)
    found[: len(rises)] = rises
    expected, found = expected - expected.mean(), found - found.mean()
    size = 2 ** math.ceil(math.log2(2 * length))
    product = np.fft.irfft(np.fft.rfft(found, size) * np.fft.rfft(expected, size).conj(), size)
    lags = np.concatenate([product[-reach:], product[: reach + 1]])
    return lags / max(1e-9, float(np.linalg.norm(expected) * np.linalg.norm(found)))


def _seconds(fits: np.ndarray, best: int) -> float:
    """The lag in seconds at the index of a peak, from the parabola through it."""
    last = len(fits) - 1
    left, middle, right = fits[max(0, best - 1)], fits[best], fits[min(last, best + 1)]
    curvature = left - 2 * middle + right
    between = 0.5 * (left - right) / curvature if curvature < 0 else 0.0
    return (best - last / 2 + float(np.clip(between, -0.5, 0.5))) / HOPS_PER_SECOND
