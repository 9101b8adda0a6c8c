"""The distance of two sounds in the band from 7.9 to 20 kHz, which mels do not hold."""

from functools import cache

import numpy as np
import torch

from spectro_render.constants import FULL_RATE
from spectro_render.evaluation.arrays import Matrix, Samples

BANDS = 14
EDGES_HZ = 7600.0, 20_000.0  # of the first and the last triangle
LOWEST_HZ = 7900.0  # below it resampling from 16 kHz leaves a part of the sound
WINDOW, HOP, SIZE = 1920, 960, 2048  # samples at 48 kHz: 40 ms, 20 ms, and the length of the FFT
SILENT = 1e-5  # magnitude; a full-scale sine has 480


def band_distance(samples: Samples, reference: Samples) -> float:
    """Log-spectral distance of two sounds (S,) at 48 kHz, in dB.

    In each frame of 40 ms it is the root of the mean square, over 14 bands, of the difference of
    levels; the distance is the mean over frames (Gray and Markel 1976, "Distance measures for
    speech processing").
    """
    difference = band_levels(samples) - band_levels(reference)
    return float(np.sqrt((difference**2).mean(1)).mean())


def band_levels(samples: Samples) -> Matrix:
    """Levels (T, 14) in dB of samples (S,) at 48 kHz, in bands that are evenly spaced in mel."""
    frames = max(1, len(samples) // HOP)
    padded = torch.from_numpy(np.pad(samples, (0, WINDOW))).double()
    windows = padded.unfold(0, WINDOW, HOP)[:frames] * torch.hann_window(WINDOW)
    power = torch.fft.rfft(windows, SIZE).abs().square().numpy()
    weights = _weights()
    level: Matrix = 20 * np.log10(np.sqrt(power @ weights / weights.sum(0)) + SILENT)
    return level


@cache
def _weights() -> Matrix:
    """Weight of each of the 1025 frequencies in each band, triangles, (1025, 14)."""
    lowest, highest = 1127 * np.log1p(np.array(EDGES_HZ) / 700)
    edges = 700 * np.expm1(np.linspace(lowest, highest, BANDS + 2) / 1127)
    hertz = np.linspace(0, FULL_RATE / 2, SIZE // 2 + 1)[:, None]
    rising = (hertz - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - hertz) / (edges[2:] - edges[1:-1])
    weights: Matrix = np.clip(np.minimum(rising, falling), 0, None)
    weights[hertz[:, 0] < LOWEST_HZ] = 0
    return weights
