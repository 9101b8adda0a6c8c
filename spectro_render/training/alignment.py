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

HOPS_PER_SECOND = 2 * SAMPLE_RATE // HOP_LENGTH  # 100: spectra begin at every half hop of the mel
SEARCHED = 6.0  # seconds to either side in which offsets are searched
AUDIBLE = -7.0  # natural log-mel relative to the loudest: below, nothing counts as an onset
DELAY = -0.02  # seconds from a note's onset to the begin of the spectrum that first shows it well
LEAST_MATCH = 0.08  # correlation below which notes and recording have nothing in common
LEAST_NOTES = 16  # in each half, for comparing the halves


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
    seconds, match = _best_lag(rises, starts, weights)
    middle = float(np.median(starts))
    halves = []
    for is_first in (True, False):
        chosen = (starts <= middle) == is_first
        if chosen.sum() < LEAST_NOTES:
            return Offset(seconds, match, 0.0)
        halves.append(_best_lag(rises, starts[chosen], weights[chosen])[0])
    return Offset(seconds, match, halves[1] - halves[0])


def _rises(samples: Tensor) -> np.ndarray:
    """How much all mel bands together rise, at each of HOPS_PER_SECOND places in a second."""
    half = HOP_LENGTH // 2
    frames = -(-len(samples) // HOP_LENGTH)
    curves = []
    for start in (0, half):
        mel = log_mel(samples[start:])
        mel = torch.nn.functional.pad(mel, (0, 0, 0, frames - len(mel)), value=float(mel.min()))
        mel = mel.clamp(min=float(mel.max()) + AUDIBLE)
        rise = mel.diff(dim=0, prepend=mel[:1]).clamp(min=0).sum(1)
        curves.append(rise)
    return torch.stack(curves, 1).flatten().double().numpy()


def _best_lag(rises: np.ndarray, starts: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """The lag in seconds at which onsets fit rises best, and their correlation there."""
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
    lags = lags / max(1e-9, float(np.linalg.norm(expected) * np.linalg.norm(found)))
    best = int(lags.argmax())
    left, middle, right = lags[max(0, best - 1)], lags[best], lags[min(2 * reach, best + 1)]
    curvature = left - 2 * middle + right
    between = 0.5 * (left - right) / curvature if curvature < 0 else 0.0
    return (best - reach + float(np.clip(between, -0.5, 0.5))) / HOPS_PER_SECOND, float(middle)
