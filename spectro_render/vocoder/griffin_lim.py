"""Mel -> sound without a network: magnitudes fitted to the mel, phases by Griffin and Lim."""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from spectro_render.constants import HOP_LENGTH, MEL_FLOOR, N_FFT, N_MELS, SAMPLE_RATE, WIN_LENGTH
from spectro_render.mel import hz_to_mel, mel_matrix
from spectro_render.vocoder.phase import Stft, sound, steady_partials

MAGNITUDE_UPDATES = 30  # of the same, for Griffin-Lim alone


MAX_CORRECTION = 2.0  # natural log, a round of `match_mel`


SEGMENT = 64  # frames over which start phases are tracked


Span = tuple[int, int]  # first and last


class GriffinLim:
    """The vocoder without weights: magnitudes that explain the mel, then phases.

    The mel's own STFT (640 samples, hop 320) says little about phases; so this is the yardstick
    and the fallback.
    """

    period = SEGMENT

    def __init__(self, iterations: int = 60) -> None:
        self.iterations = iterations
        self._stft = Stft(WIN_LENGTH, HOP_LENGTH, N_FFT)

    @property
    def receptive_field(self) -> int:
        """Frames of context, on each side, that can change a frame's 320 samples."""
        return max(_sketch_reach(self._stft, self.iterations))

    def __call__(self, log_mel: Tensor) -> Tensor:
        """Natural log-mel (B, T, 128) -> samples (B, 320 T)."""
        samples = _sketch(log_mel, self._stft, MAGNITUDE_UPDATES, self.iterations)
        return self._stft.crop(samples, log_mel.shape[1] * HOP_LENGTH)


def griffin_lim(log_mel: Tensor, iterations: int = 60) -> Tensor:
    """Natural log-mel (B, T, 128) -> samples (B, 320 T), without any network; deterministic."""
    return GriffinLim(iterations)(log_mel)


def mel_to_magnitude(log_mel: Tensor, iterations: int) -> Tensor:
    """Non-negative magnitudes (B, T, 513) whose mel spectrum is nearly the given one.

    The clipped pseudo-inverse, then multiplicative updates (Lee and Seung 2001).
    """
    mel = log_mel.exp()
    matrix, inverse = mel_matrix().to(mel), _mel_inverse().to(mel)
    target = mel @ matrix.T
    magnitude: Tensor = (mel @ inverse).clamp(min=1e-7)
    for _ in range(iterations):
        explained = (magnitude @ matrix) @ matrix.T
        magnitude = magnitude * target / explained.clamp(min=1e-12)
    return magnitude


@cache
def _mel_inverse() -> Tensor:
    """The pseudo-inverse of the mel matrix, (128, 513).

    In float64, as LAPACK's rounding depends on the number of threads, and phases on rounding.
    """
    inverse: Tensor = torch.linalg.pinv(mel_matrix().double()).float()
    return inverse


def match_mel(samples: Tensor, log_mel: Tensor, stft: Stft, iterations: int) -> Tensor:
    """Level samples (B, 320 T), band by band and frame by frame, to a log-mel (B, T, 128)."""
    matrix = mel_matrix().to(log_mel)
    share = F.normalize(matrix, p=1, dim=1).T  # of each band in a bin's gain; DC belongs to none
    length = samples.shape[1]
    samples = F.pad(samples, (0, stft.window - stft.hop))
    for _ in range(iterations):
        spectrum = stft.analyse(samples)
        level = (spectrum.abs() @ matrix).clamp(min=MEL_FLOOR).log()
        gain = (log_mel - level).clamp(-MAX_CORRECTION, MAX_CORRECTION) @ share
        samples = stft.synthesise(spectrum * gain.exp())
    return samples[:, :length]


def _sketch(log_mel: Tensor, stft: Stft, updates: int, iterations: int) -> Tensor:
    """Log-mel (B, T, 128) -> samples (B, 320 (T + 1)) by Griffin-Lim from steady partials."""
    magnitude = mel_to_magnitude(log_mel, updates)
    return sound(magnitude, steady_partials(magnitude, stft, SEGMENT), stft, iterations)


def _sketch_reach(stft: Stft, iterations: int) -> Span:
    """Frames before and after frame 0 that its samples in `_sketch` hear."""
    before, after = stft.reach(iterations)
    return before + SEGMENT - 1, after + SEGMENT - 1


def _outline(bins: int) -> Tensor:
    """(128, K): interpolates linearly in mel, from the bands' centres to a spectrum's bins."""
    mels = hz_to_mel(torch.linspace(0, SAMPLE_RATE / 2, bins))
    centres = torch.linspace(0, float(mels[-1]), N_MELS + 2)[1:-1]
    mels = mels.clamp(centres[0], centres[-1])
    upper = torch.searchsorted(centres, mels).clamp(1, N_MELS - 1)
    share = (mels - centres[upper - 1]) / (centres[upper] - centres[upper - 1])
    matrix, columns = torch.zeros(N_MELS, bins), torch.arange(bins)
    matrix[upper - 1, columns] = 1 - share
    matrix[upper, columns] = share
    return matrix
