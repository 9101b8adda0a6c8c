"""How far one sound is from another: spectra, harmony, loudness. All sounds are 16 kHz mono, (S,).

Two sounds of one comparison have the same length.
"""

from functools import cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spectro_render.constants import HOP_LENGTH, N_FFT, SAMPLE_RATE
from spectro_render.mel import log_mel

RESOLUTIONS = (512, 1024, 2048)  # samples of a window; the hop is a quarter
FLOOR = 1e-5  # of a full-scale sine's magnitude: what is softer does not count
CHROMA_FFT = 4096
AUDIBLE = 1e-3  # of the loudest frame's chroma: softer frames have no harmony
LOUDNESS_FRAMES = 5  # 100 ms: one value of the loudness curve
SOFTEST = -80.0  # dB: what is softer is silence

Samples = npt.NDArray[np.float32]
Matrix = npt.NDArray[np.float64]


def mel_of(samples: Samples) -> Matrix:
    """Natural log-mel (T, 128)."""
    return log_mel(torch.from_numpy(samples)).double().numpy()


def mel_distance(mel: Matrix, reference: Matrix) -> float:
    """Mean |difference| of two log-mels (T, 128), in nats, over the frames that both have."""
    frames = min(len(mel), len(reference))
    return float(np.abs(mel[:frames] - reference[:frames]).mean())


def stft_distance(samples: Samples, reference: Samples) -> float:
    """Spectral convergence plus mean |log ratio| of magnitudes, averaged over three resolutions.

    Yamamoto et al. 2020 (Parallel WaveGAN, arXiv 1910.11480), equations 3-5.
    """
    return float(np.mean([_stft_distance(samples, reference, size) for size in RESOLUTIONS]))


def _stft_distance(samples: Samples, reference: Samples, size: int) -> float:
    magnitude, wanted = (_magnitudes(sound, size) for sound in (samples, reference))
    convergence = (wanted - magnitude).norm() / wanted.norm().clamp(min=1e-12)
    ratio = wanted.clamp(min=FLOOR).log() - magnitude.clamp(min=FLOOR).log()
    return float(convergence + ratio.abs().mean())


def _magnitudes(samples: Samples, size: int, hop: int | None = None) -> Tensor:
    """Centred STFT, (size/2 + 1, T); a full-scale sine has magnitude 1."""
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
    """Mean cosine of the 12 pitch classes' strengths, where both sound; NaN where neither does."""
    one, other = _chroma(samples), _chroma(reference)
    norms = np.linalg.norm(one, axis=1), np.linalg.norm(other, axis=1)
    sounds = np.logical_and(*(norm > AUDIBLE * max(norm.max(), 1e-9) for norm in norms))
    if not sounds.any():
        return float("nan")
    cosine = (one * other).sum(1)[sounds] / (norms[0] * norms[1])[sounds]
    return float(cosine.mean())


def _chroma(samples: Samples) -> Matrix:
    """Strength of the pitch classes, from A upwards, (T, 12)."""
    return _magnitudes(samples, CHROMA_FFT, HOP_LENGTH).numpy().T ** 2 @ _chroma_weights()


@cache
def _chroma_weights() -> Matrix:
    """Share of each bin's power in each pitch class, (2049, 12), as librosa has it.

    A bump a semitone wide (wider where bins are), less of what is far from 880 Hz (Ellis 2007,
    "Chroma feature analysis and synthesis").
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
    """Pearson's correlation of the two loudness curves in dB; NaN where one does not change."""
    one, other = loudness_curve(samples), loudness_curve(reference)
    if one.std() < 1e-6 or other.std() < 1e-6:
        return float("nan")
    return float(np.corrcoef(one, other)[0, 1])


def loudness_curve(samples: Samples) -> Matrix:
    """A-weighted level in dB, ten values a second."""
    power = _loudness(samples)
    frames = len(power) // LOUDNESS_FRAMES * LOUDNESS_FRAMES
    smooth = power[:frames].reshape(-1, LOUDNESS_FRAMES).mean(1)
    return np.maximum(10 * np.log10(smooth + 1e-30), SOFTEST)


def loudness_difference(samples: Samples, reference: Samples) -> float:
    """How much louder the first sound is, A-weighted, in dB."""
    one, other = (10 * np.log10(_loudness(sound).mean() + 1e-16) for sound in (samples, reference))
    return float(one - other)


def _loudness(samples: Samples) -> Matrix:
    """A-weighted power of each frame, (T,)."""
    return _a_weights() @ _magnitudes(samples, N_FFT, HOP_LENGTH).numpy() ** 2


@cache
def _a_weights() -> Matrix:
    """Share of each bin's power in the loudness, (513,): IEC 61672's curve A."""
    hz = np.linspace(0, SAMPLE_RATE / 2, N_FFT // 2 + 1) ** 2
    gain = 12194**2 * hz**2 / (hz + 20.6**2) / (hz + 12194**2)
    gain /= np.sqrt((hz + 107.7**2) * (hz + 737.9**2))
    return (1.2589 * gain) ** 2
