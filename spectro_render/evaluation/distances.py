"""Distances and similarities of two sounds: their spectra, harmony and loudness.

Sounds are 16 kHz mono samples (S,), and sounds that are compared have the same length. T is the
number of frames of 20 ms.
"""

from functools import cache

import numpy as np
import torch
from torch import Tensor

from spectro_render.constants import HOP_LENGTH, N_FFT, SAMPLE_RATE
from spectro_render.evaluation.arrays import Matrix, Samples
from spectro_render.mel import log_mel

RESOLUTIONS = (512, 1024, 2048)  # FFT and window sizes; the hop is a quarter
FLOOR = 1e-5  # of a full-scale sine's magnitude: softer parts do not count
CHROMA_FFT = 4096
AUDIBLE = 1e-3  # of the loudest frame's chroma: softer frames are left out
LOUDNESS_FRAMES = 5  # 100 ms: one value of the loudness curve
STEP = 160  # samples, 10 ms
QUIET = 1e-4  # of full scale: softer sounds do not count as rises
SOFTEST = -80.0  # dB: lowest value of the loudness curve


def mel_of(samples: Samples) -> Matrix:
    """Natural log-mel (T, 128) of samples (S,)."""
    return log_mel(torch.from_numpy(samples)).double().numpy()


def mel_distance(mel: Matrix, reference: Matrix) -> float:
    """Mean absolute difference of two log-mels (T, 128) in nats, over the frames of the shorter."""
    frames = min(len(mel), len(reference))
    return float(np.abs(mel[:frames] - reference[:frames]).mean())


def change(mel: Matrix) -> float:
    """Mean absolute change of a log-mel (T, 128) from frame to frame in nats; NaN for one frame."""
    return float(np.abs(np.diff(mel, axis=0)).mean()) if len(mel) > 1 else float("nan")


def rises(samples: Samples) -> float:
    """How suddenly samples (S,) get louder: the 99th percentile of rises within 10 ms, in dB.

    It is the mean over eight grids of steps of 10 ms, since an onset may lie between two steps.
    """
    found = []
    for start in range(0, STEP, STEP // 8):
        length = max(len(samples) - start, 0) // STEP * STEP
        steps = samples[start : start + length].astype(np.float64).reshape(-1, STEP)
        level = 20 * np.log10(np.sqrt((steps**2).mean(1)) + QUIET)
        if len(level) < 2:
            return float("nan")
        found.append(np.percentile(np.diff(level), 99))
    return float(np.mean(found))


def mel_cepstrum(mel: Matrix, orders: range) -> Matrix:
    """Coefficients of these orders of the cosine transform of each frame: (T, M) -> (T, K).

    Davis and Mermelstein 1980, "Comparison of parametric representations for monosyllabic word
    recognition in continuously spoken sentences". Order 0 is the level.
    """
    bands = mel.shape[1]
    cosines = np.cos(np.pi / bands * (np.arange(bands)[:, None] + 0.5) * np.array(orders))
    return mel @ cosines * np.sqrt(2 / bands)


def stft_distance(samples: Samples, reference: Samples) -> float:
    """Spectral convergence plus log-magnitude L1, mean over three resolutions; 0 if equal.

    Yamamoto et al. 2020 (Parallel WaveGAN, arXiv 1910.11480), equations 3-5.
    """
    distances = []
    for size in RESOLUTIONS:
        magnitude, wanted = (_magnitudes(sound, size) for sound in (samples, reference))
        convergence = (wanted - magnitude).norm() / wanted.norm().clamp(min=1e-12)
        ratio = wanted.clamp(min=FLOOR).log() - magnitude.clamp(min=FLOOR).log()
        distances.append(float(convergence + ratio.abs().mean()))
    return float(np.mean(distances))


def _magnitudes(samples: Samples, size: int, hop: int | None = None) -> Tensor:
    """Magnitudes of the centred STFT of samples (S,), (size/2 + 1, T); a full-scale sine has 1."""
    spectrum = torch.stft(
        torch.from_numpy(samples).double(),
        size,
        hop or size // 4,
        window=torch.hann_window(size, dtype=torch.float64),
        pad_mode="constant",
        return_complex=True,
    )
    return spectrum.abs() / (size / 4)


def chroma_similarity(samples: Samples, reference: Samples) -> float:
    """Mean cosine similarity of the two chromagrams, over the frames in which both sounds play.

    It is 1 for the same pitch classes, and NaN where there is no such frame.
    """
    one, other = _chroma(samples), _chroma(reference)
    norms = np.linalg.norm(one, axis=1), np.linalg.norm(other, axis=1)
    sounds = np.logical_and(*(norm > AUDIBLE * max(norm.max(), 1e-9) for norm in norms))
    if not sounds.any():
        return float("nan")
    cosine = (one * other).sum(1)[sounds] / (norms[0] * norms[1])[sounds]
    return float(cosine.mean())


def _chroma(samples: Samples) -> Matrix:
    """Chromagram (T, 12) of samples (S,): the power of each pitch class, from A upwards."""
    return _magnitudes(samples, CHROMA_FFT, HOP_LENGTH).numpy().T ** 2 @ _chroma_weights()


@cache
def _chroma_weights() -> Matrix:
    """Weight of each FFT bin in each pitch class, (2049, 12), as in librosa's `filters.chroma`.

    The weight of a bin is a Gaussian of its distance from the pitch class, a semitone wide, or as
    wide as a bin where that is more. Bins far from 880 Hz weigh less (Ellis 2007, "Chroma feature
    analysis and synthesis").
    """
    hertz = np.arange(1, CHROMA_FFT // 2 + 2) * SAMPLE_RATE / CHROMA_FFT
    semitones = 12 * np.log2(hertz / 27.5)  # above the lowest A
    semitones = np.concatenate([[semitones[0] - 18], semitones])  # DC lies 1.5 octaves lower
    width = np.maximum(np.diff(semitones), 1)[:, None]
    octaves = semitones[:-1, None] / 12
    distance = (12 * octaves - np.arange(12) + 6) % 12 - 6
    bumps = np.exp(-2 * (distance / width) ** 2)
    bumps /= np.linalg.norm(bumps, axis=1, keepdims=True)
    weights: Matrix = bumps * np.exp(-(((octaves - 5) / 2) ** 2) / 2)
    return weights


def loudness_correlation(samples: Samples, reference: Samples) -> float:
    """Pearson's correlation of the two loudness curves in dB; NaN if one is constant."""
    one, other = loudness_curve(samples), loudness_curve(reference)
    if one.std() < 1e-6 or other.std() < 1e-6:
        return float("nan")
    return float(np.corrcoef(one, other)[0, 1])


def loudness_curve(samples: Samples) -> Matrix:
    """A-weighted level of samples (S,) in dB, ten values a second, at least SOFTEST."""
    power = _loudness(samples)
    frames = len(power) // LOUDNESS_FRAMES * LOUDNESS_FRAMES
    smooth = power[:frames].reshape(-1, LOUDNESS_FRAMES).mean(1)
    return np.maximum(10 * np.log10(smooth + 1e-30), SOFTEST)


def loudness_difference(samples: Samples, reference: Samples) -> float:
    """Difference of the two A-weighted levels in dB, positive if the samples are louder."""
    one, other = (10 * np.log10(_loudness(sound).mean() + 1e-16) for sound in (samples, reference))
    return float(one - other)


def _loudness(samples: Samples) -> Matrix:
    """A-weighted power of each frame of samples (S,), (T,)."""
    return _a_weights() @ _magnitudes(samples, N_FFT, HOP_LENGTH).numpy() ** 2


@cache
def _a_weights() -> Matrix:
    """Weight of the power in each of 513 FFT bins: the A-weighting of IEC 61672-1."""
    hz = np.linspace(0, SAMPLE_RATE / 2, N_FFT // 2 + 1) ** 2
    gain = 12194**2 * hz**2 / (hz + 20.6**2) / (hz + 12194**2)
    gain /= np.sqrt((hz + 107.7**2) * (hz + 737.9**2))
    return (1.2589 * gain) ** 2
