"""Measures drums: compares onsets in three frequency bands with the drum notes of the score.

The spectral flux of a band (the rise of its compressed mel from frame to frame; Bello et al. 2005,
"A tutorial on onset detection in music signals") peaks where a drum of that band is struck. Pitched
instruments make it rise as well. So drum notes that begin together with a pitched note are left
out, whether they are found or not, and so are peaks where any other note begins. Music without its
drums scores near 0.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from mir_eval.util import match_events

from spectro_render.constants import FRAME_RATE, MEL_MAX_HZ, N_MELS
from spectro_render.evaluation.arrays import Matrix
from spectro_render.evaluation.measures import Measure
from spectro_render.midi.score import Note

TOLERANCE = 0.05  # seconds: largest distance between a drum note and its peak
TOGETHER = 0.06  # seconds: notes that are nearer begin together
MERGED = 0.05  # seconds: drum notes of a band that are nearer count as one
COMPRESSION = 100.0  # the flux is that of ln(1 + COMPRESSION mel)
LEAST_RISE = 0.3  # nats a frame: how far a peak rises above the mean of its neighbourhood
PEAK_FRAMES = 2  # a peak is the highest of this many frames on either side
MEAN_FRAMES = 12  # the neighbourhood is this many frames on either side
LAG = 1.5 / FRAME_RATE  # seconds: a rise from frame t to t + 1 is in the middle of the latter

Times = npt.NDArray[np.float64]  # (n,) seconds, rising


class Band(NamedTuple):
    """A frequency band, and the drums that stand out in it."""

    low: float  # Hz
    high: float  # Hz
    drums: frozenset[int]  # General MIDI drum notes


_LOW = frozenset({35, 36, 41, 43, 45, 47, 61, 64, 66, 68})  # bass drums, low toms and the like
_HIGH = frozenset({22, 26, 42, 44, 46, 49, *range(51, 56), 57, 59, 69, 70, 73, 74, 75, 80, 81, 82})
BANDS = (
    Band(40, 160, _LOW),
    Band(1000, 4000, frozenset(range(128)) - _LOW - _HIGH),  # snares, high toms, wood
    Band(5000, MEL_MAX_HZ, _HIGH),  # cymbals and shakers
)


def drum_f1(mel: Matrix, notes: Iterable[Note]) -> Measure:
    """F1 of the drum onsets in a log-mel (T, 128), over all bands; empty without drum notes."""
    notes = list(notes)
    pitched = _onsets(note for note in notes if not note.is_drum)
    parts = [_band_f1(mel, notes, pitched, band) for band in BANDS]
    return Measure(sum(part for part, _ in parts), sum(whole for _, whole in parts))


def _band_f1(mel: Matrix, notes: list[Note], pitched: Times, band: Band) -> Measure:
    """F1 of the onsets in one band: 2 found / (found + wrong + all that count)."""
    is_here = [note.is_drum and note.pitch in band.drums for note in notes]
    hits = _onsets(note for note, here in zip(notes, is_here, strict=True) if here)
    others = _onsets(note for note, here in zip(notes, is_here, strict=True) if not here)
    peaks = flux_peaks(mel, band)
    pairs = match_events(hits, peaks, TOLERANCE) if len(hits) and len(peaks) else []
    counts = ~_is_near(hits, pitched)
    found = sum(bool(counts[hit]) for hit, _ in pairs)
    is_extra = ~_is_near(peaks, others)
    is_extra[[peak for _, peak in pairs]] = False
    wrong = int(is_extra.sum()) if counts.any() else 0
    return Measure(2.0 * found, float(found + wrong + counts.sum()))


def flux_peaks(mel: Matrix, band: Band) -> Times:
    """The times of peaks in the spectral flux of a band of a log-mel (T, 128)."""
    loudness = np.log1p(COMPRESSION * np.exp(mel[:, _bands_between(band.low, band.high)]))
    flux = np.diff(loudness, axis=0).clip(0).mean(1)
    around = np.pad(flux, PEAK_FRAMES)
    highest = np.lib.stride_tricks.sliding_window_view(around, 2 * PEAK_FRAMES + 1).max(1)
    width = 2 * MEAN_FRAMES + 1
    mean = np.convolve(np.pad(flux, MEAN_FRAMES, "edge"), np.full(width, 1 / width), "valid")
    frames = np.flatnonzero((flux >= highest) & (flux >= mean + LEAST_RISE))
    return frames / FRAME_RATE + LAG


def _bands_between(low: float, high: float) -> npt.NDArray[np.bool_]:
    """Whether the centre of each mel band lies from `low` to `high` Hz, (128,)."""
    edges = np.linspace(0, np.log1p(MEL_MAX_HZ / 700), N_MELS + 2)
    centres = 700 * np.expm1(edges[1:-1])
    return (centres >= low) & (centres < high)


def _onsets(notes: Iterable[Note]) -> Times:
    """The times at which notes begin; times within MERGED of each other count once."""
    times: list[float] = []
    for start in sorted(note.start for note in notes):
        if not times or start - times[-1] > MERGED:
            times.append(start)
    return np.array(times)


def _is_near(times: Times, others: Times) -> npt.NDArray[np.bool_]:
    """Whether each time has one of the others within TOGETHER, (n,)."""
    if not len(others):
        return np.zeros(len(times), bool)
    distances = np.abs(times[:, None] - others)
    return np.asarray(distances.min(1) < TOGETHER)
