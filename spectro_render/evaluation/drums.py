"""Are drums heard when they are struck? Onsets of three bands against the score's drum notes.

A band's spectral flux (the rise of its compressed mel from frame to frame; Bello et al. 2005, "A
tutorial on onset detection") peaks where a drum of that band is struck. Pitched instruments make
it rise as well. So a hit on which a pitched note begins is left out, found or not, and a peak on
which any other note begins is not held against the sound: without its drums, music scores near 0.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from mir_eval.util import match_events

from spectro_render.constants import FRAME_RATE, MEL_MAX_HZ, N_MELS
from spectro_render.evaluation.scores import Score
from spectro_render.midi.score import Note

TOLERANCE = 0.05  # seconds between a hit and its peak
BESIDE = 0.06  # seconds: nearer notes begin together
MERGED = 0.05  # seconds: nearer hits of a band are one
COMPRESSION = 100.0  # flux is that of ln(1 + COMPRESSION mel)
LEAST_RISE = 0.3  # nats a frame, above the mean of the neighbourhood
PEAK_FRAMES = 2  # a peak is the highest among so many to each side ...
MEAN_FRAMES = 12  # ... and rises above the mean of so many
LAG = 1.5 / FRAME_RATE  # a frame that has just risen is half way through an onset

Times = npt.NDArray[np.float64]  # (n,) seconds, rising


class Band(NamedTuple):
    """Where some drums stand out."""

    low: float  # Hz
    high: float
    drums: frozenset[int]  # General MIDI


_LOW = frozenset({35, 36, 41, 43, 45, 47, 61, 64, 66, 68})  # bass drums, low toms and the like
_HIGH = frozenset({22, 26, 42, 44, 46, 49, *range(51, 56), 57, 59, 69, 70, 73, 74, 75, 80, 81, 82})
BANDS = (
    Band(40, 160, _LOW),
    Band(1000, 4000, frozenset(range(128)) - _LOW - _HIGH),  # snares, high toms, wood
    Band(5000, MEL_MAX_HZ, _HIGH),  # cymbals and shakers
)


def drum_f1(mel: npt.NDArray[np.float64], notes: Iterable[Note]) -> Score:
    """F1 of the drum onsets in a log-mel (T, 128), all bands together; empty without any."""
    notes = list(notes)
    pitched = _onsets(note for note in notes if not note.is_drum)
    parts = [_band_f1(mel, notes, pitched, band) for band in BANDS]
    return Score(sum(part for part, _ in parts), sum(whole for _, whole in parts))


def _band_f1(mel: npt.NDArray[np.float64], notes: list[Note], pitched: Times, band: Band) -> Score:
    """Twice the hits found, over those played and those found: F1's two terms."""
    is_here = [note.is_drum and note.pitch in band.drums for note in notes]
    hits = _onsets(note for note, here in zip(notes, is_here, strict=True) if here)
    others = _onsets(note for note, here in zip(notes, is_here, strict=True) if not here)
    peaks = flux_peaks(mel, band)
    pairs = _match(hits, peaks)
    counts = ~_is_near(hits, pitched)
    found = sum(bool(counts[hit]) for hit, _ in pairs)
    is_extra = ~_is_near(peaks, others)
    is_extra[[peak for _, peak in pairs]] = False
    wrong = int(is_extra.sum()) if counts.any() else 0
    return Score(2.0 * found, float(found + wrong + counts.sum()))


def flux_peaks(mel: npt.NDArray[np.float64], band: Band) -> Times:
    """When a band of a log-mel (T, 128) rises suddenly, in seconds."""
    loudness = np.log1p(COMPRESSION * np.exp(mel[:, _bands_between(band.low, band.high)]))
    flux = np.diff(loudness, axis=0).clip(0).mean(1)
    around = np.pad(flux, PEAK_FRAMES)
    highest = np.lib.stride_tricks.sliding_window_view(around, 2 * PEAK_FRAMES + 1).max(1)
    width = 2 * MEAN_FRAMES + 1
    mean = np.convolve(np.pad(flux, MEAN_FRAMES, "edge"), np.full(width, 1 / width), "valid")
    frames = np.flatnonzero((flux >= highest) & (flux >= mean + LEAST_RISE))
    return frames / FRAME_RATE + LAG


def _bands_between(low: float, high: float) -> npt.NDArray[np.bool_]:
    """Which of the mel bands have their centre from `low` to `high` Hz, (128,)."""
    edges = np.linspace(0, np.log1p(MEL_MAX_HZ / 700), N_MELS + 2)
    centres = 700 * np.expm1(edges[1:-1])
    return (centres >= low) & (centres < high)


def _onsets(notes: Iterable[Note]) -> Times:
    """When notes begin; those that begin together once."""
    times: list[float] = []
    for start in sorted(note.start for note in notes):
        if not times or start - times[-1] > MERGED:
            times.append(start)
    return np.array(times)


def _match(hits: Times, peaks: Times) -> list[tuple[int, int]]:
    """As many pairs (hit, peak) within the tolerance as there can be, each of them once."""
    if not len(hits) or not len(peaks):
        return []
    return list(match_events(hits, peaks, TOLERANCE))


def _is_near(times: Times, others: Times) -> npt.NDArray[np.bool_]:
    """Which times have one of the others beside them."""
    if not len(others):
        return np.zeros(len(times), bool)
    distances = np.abs(times[:, None] - others)
    return np.asarray(distances.min(1) < BESIDE)
