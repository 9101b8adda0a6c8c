"""The log-mel spectrogram of audio, and its scaling to the Transformer's [-1, 1].

The definitions are TensorFlow's (`tf.signal.stft(pad_end=True)`, `linear_to_mel_weight_matrix`),
not librosa's: magnitudes rather than powers, triangles that are linear in mel rather than in Hz, no
normalisation by area, and frame i starts at sample 320 i.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from spectro_render.constants import (
    HOP_LENGTH,
    LOG_MEL_MAX,
    LOG_MEL_MIN,
    MEL_CEILING,
    MEL_FLOOR,
    MEL_MAX_HZ,
    N_FFT,
    N_MELS,
    SAMPLE_RATE,
    WIN_LENGTH,
)


def hz_to_mel(hz: Tensor) -> Tensor:
    """Frequency f in Hz -> mel: 1127 ln(1 + f/700) (Young et al., The HTK Book, 5.4)."""
    return 1127.0 * torch.log1p(hz / 700.0)


def band_of(hz: Tensor) -> Tensor:
    """The mel band whose centre lies at a frequency in Hz, with a fraction; any shape."""
    return hz_to_mel(hz) / _mels_between_bands() - 1


def band_centres() -> Tensor:
    """The centre frequencies of the mel bands in Hz, (128,)."""
    return 700.0 * torch.expm1((torch.arange(N_MELS) + 1) * _mels_between_bands() / 1127.0)


def _mels_between_bands() -> float:
    return float(hz_to_mel(torch.tensor(MEL_MAX_HZ))) / (N_MELS + 1)


@lru_cache(maxsize=1)
@torch.inference_mode(False)  # training may use the cached tensor after inference made it
def hann_window() -> Tensor:
    """Periodic Hann window, (640,) float32, rounded as TensorFlow rounds it.

    80 dB below a frame's peak the last bit of the window matters: `torch.hann_window` rounds
    otherwise, and log-mels there differ from the reference's by up to 3e-4.
    """
    angle = torch.arange(WIN_LENGTH) * (2 * torch.pi) / WIN_LENGTH
    return 0.5 - 0.5 * angle.cos()


@lru_cache(maxsize=1)
@torch.inference_mode(False)
def mel_matrix() -> Tensor:
    """Weights of the mel bands, (513, 128) float32: magnitude spectrum @ matrix = mel spectrum.

    Band b rises from edge b to edge b+1 and falls to edge b+2, linearly in mel; the 130 edges lie
    evenly in mel from 0 to 8000 Hz. The DC bin belongs to no band.
    """
    top = torch.tensor(MEL_MAX_HZ, dtype=torch.float64)
    bins = hz_to_mel(torch.linspace(0, SAMPLE_RATE / 2, N_FFT // 2 + 1, dtype=torch.float64))
    edges = torch.linspace(0, float(hz_to_mel(top)), N_MELS + 2, dtype=torch.float64)
    lower, centre, upper = edges[:-2], edges[1:-1], edges[2:]
    rising = (bins[:, None] - lower) / (centre - lower)
    falling = (upper - bins[:, None]) / (upper - centre)
    matrix = torch.minimum(rising, falling).clamp(min=0)
    matrix[0] = 0
    return matrix.float()


def stft(samples: Tensor) -> Tensor:
    """The complex spectrum (..., ceil(S/320), 513) of samples (..., S), padded with zeros."""
    frames = -(-samples.shape[-1] // HOP_LENGTH)
    padding = max(0, (frames - 1) * HOP_LENGTH + WIN_LENGTH - samples.shape[-1])
    framed = F.pad(samples, (0, padding)).unfold(-1, WIN_LENGTH, HOP_LENGTH)[..., :frames, :]
    return torch.fft.rfft(framed * hann_window().to(framed), N_FFT)


def log_mel(samples: Tensor) -> Tensor:
    """The natural log-mel of mono samples at 16 kHz: (..., S) -> (..., ceil(S/320), 128)."""
    magnitude = stft(samples).abs()
    mel = magnitude @ mel_matrix().to(magnitude)
    return mel.clamp(MEL_FLOOR, MEL_CEILING).log()


def to_model(log_mel: Tensor) -> Tensor:
    """Scale a natural log-mel to the Transformer's [-1, 1], and clip it; any shape."""
    return ((log_mel - LOG_MEL_MIN) / (LOG_MEL_MAX - LOG_MEL_MIN) * 2 - 1).clamp(-1, 1)


def from_model(scaled: Tensor) -> Tensor:
    """Scale a mel in the Transformer's [-1, 1] back to a natural log-mel; any shape."""
    return (scaled + 1) / 2 * (LOG_MEL_MAX - LOG_MEL_MIN) + LOG_MEL_MIN
