"""Faults of a sound that need no reference: clipping, silence, an offset, audible seams."""

import numpy as np

from spectro_render.constants import HOP_LENGTH, WINDOW_FRAMES
from spectro_render.evaluation.arrays import Matrix, Samples
from spectro_render.evaluation.measures import Measure

CLIPPED = 0.99  # of full scale
SILENT = 1e-3  # root mean square of a frame: -60 dBFS


def clipped_samples(samples: Samples) -> int:
    """How many samples (S,) exceed 0.99 of full scale."""
    return int((np.abs(samples) > CLIPPED).sum())


def silent_share(samples: Samples) -> float:
    """Share of the 20 ms frames of samples (S,) below -60 dBFS; NaN without a whole frame."""
    frames = samples[: len(samples) // HOP_LENGTH * HOP_LENGTH].reshape(-1, HOP_LENGTH)
    return float((np.sqrt((frames**2).mean(1)) < SILENT).mean()) if len(frames) else float("nan")


def offset(samples: Samples) -> float:
    """Mean of samples (S,), where 1 is full scale: the direct current."""
    return float(samples.mean(dtype=np.float64)) if len(samples) else 0.0


def seams(mel: Matrix) -> Measure:
    """Mean change from frame to frame of a log-mel (T, 128): at window borders / elsewhere.

    It is about 1 without seams, and empty without borders. The music itself may change at a border,
    and borders are few. So compare it with a reference that plays the same notes, and pool files.
    """
    flux = np.abs(np.diff(mel, axis=0)).mean(1)  # [t]: from frame t to t + 1
    borders = np.arange(WINDOW_FRAMES, len(mel), WINDOW_FRAMES) - 1
    is_border = np.isin(np.arange(len(flux)), [borders - 1, borders])
    if not is_border.any():
        return Measure(0.0, 0.0)
    return Measure(float(flux[is_border].mean()), float(flux[~is_border].mean()))
