"""What is wrong with a sound whatever it plays: clipping, silence, an offset, audible seams."""

import numpy as np
import numpy.typing as npt

from spectro_render.constants import HOP_LENGTH, WINDOW_FRAMES
from spectro_render.evaluation.scores import Score

CLIPPED = 0.99  # of full scale
SILENT = 1e-3  # root mean square of a frame: -60 dBFS

Samples = npt.NDArray[np.float32]
Matrix = npt.NDArray[np.float64]


def clipped_samples(samples: Samples) -> int:
    """How many of the samples are all but full scale."""
    return int((np.abs(samples) > CLIPPED).sum())


def silent_share(samples: Samples) -> float:
    """Share of the 20 ms frames below -60 dBFS."""
    frames = samples[: len(samples) // HOP_LENGTH * HOP_LENGTH].reshape(-1, HOP_LENGTH)
    return float((np.sqrt((frames**2).mean(1)) < SILENT).mean()) if len(frames) else float("nan")


def offset(samples: Samples) -> float:
    """Mean of the samples, of full scale: direct current."""
    return float(samples.mean(dtype=np.float64)) if len(samples) else 0.0


def seams(mel: Matrix) -> Score:
    """How much a log-mel (T, 128) changes a frame at window borders, over how much elsewhere.

    1 without seams; empty without borders. Music may change at a border just then, and there are
    few of them: compare with the same measure of a reference that plays the same notes, and pool.
    """
    flux = np.abs(np.diff(mel, axis=0)).mean(1)  # [t]: from frame t to t + 1
    borders = np.arange(WINDOW_FRAMES, len(mel), WINDOW_FRAMES) - 1
    is_border = np.isin(np.arange(len(flux)), [borders - 1, borders])
    if not is_border.any():
        return Score(0.0, 0.0)
    return Score(float(flux[is_border].mean()), float(flux[~is_border].mean()))
