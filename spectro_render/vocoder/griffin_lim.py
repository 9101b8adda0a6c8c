"""Turns a mel into sound without a network: fits magnitudes, then finds phases (Griffin-Lim).

Griffin and Lim, Signal estimation from modified short-time Fourier transform, 1984. The spectrum
generator of `melgan` uses functions of this file before and after its network.
B batch, T mel frames, K frequency bins.
"""

from collections.abc import Sequence
from functools import cache, lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from spectro_render.constants import (
    HOP_LENGTH,
    MEL_FLOOR,
    N_FFT,
    N_MELS,
    SAMPLE_RATE,
    WIN_LENGTH,
)
from spectro_render.mel import hz_to_mel, mel_matrix
from spectro_render.vocoder.phase import Stft, sound, steady_partials

MAGNITUDE_UPDATES = 30  # rounds of `mel_to_magnitude`, where no network follows
MAX_CORRECTION = 2.0  # natural log: largest change of a band's level in a round of `match_mel`
SEGMENT = 64  # frames over which start phases are tracked


class GriffinLim:
    """The vocoder without weights, for models that have none and for comparisons; deterministic.

    Its spectrogram has the window and hop of the mel (640 and 320 samples). With so little overlap
    the magnitudes determine the phases only poorly.
    """

    period = SEGMENT
    reads_notes = False

    def __init__(self, iterations: int = 60) -> None:
        """`iterations`: how many rounds of Griffin-Lim make the phases consistent."""
        self.iterations = iterations
        self._stft = Stft(WIN_LENGTH, HOP_LENGTH, N_FFT)

    @property
    def receptive_field(self) -> int:
        """Frames of context, on each side, that can change a frame's 320 samples."""
        return max(sketch_reach(self._stft, self.iterations))

    def __call__(self, log_mel: Tensor, notes: Sequence[Tensor] | None = None) -> Tensor:
        """Natural log-mel (B, T, 128) -> samples (B, 320 T); notes are ignored."""
        samples = sketch(log_mel, self._stft, MAGNITUDE_UPDATES, self.iterations)
        return self._stft.crop(samples, log_mel.shape[1] * HOP_LENGTH)


def sketch(log_mel: Tensor, stft: Stft, updates: int, iterations: int) -> Tensor:
    """Natural log-mel (B, T, 128) -> samples (B, 320 (T + 1)), made without a network.

    Magnitudes come from `updates` rounds of `mel_to_magnitude`, phases from `steady_partials` and
    `iterations` rounds of Griffin-Lim.
    """
    magnitude = mel_to_magnitude(log_mel, updates)
    return sound(magnitude, steady_partials(magnitude, stft, SEGMENT), stft, iterations)


def sketch_reach(stft: Stft, iterations: int) -> tuple[int, int]:
    """The numbers of frames before and after frame 0 on which its samples in a `sketch` depend."""
    before, after = stft.reach(iterations)
    return before + SEGMENT - 1, after + SEGMENT - 1


def mel_to_magnitude(log_mel: Tensor, iterations: int) -> Tensor:
    """Non-negative magnitudes (B, T, 513) whose mel is close to a natural log-mel (B, T, 128).

    They start from the clipped pseudo-inverse, which is refined by `iterations`
    multiplicative updates (Lee and Seung, Algorithms for non-negative matrix factorization, 2001).
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
    """The pseudo-inverse of the mel matrix, (128, 513) float32.

    It is computed in float64, because LAPACK's rounding depends on the number of threads, and
    phases depend on rounding.
    """
    inverse: Tensor = torch.linalg.pinv(mel_matrix().double()).float()
    return inverse


@lru_cache(maxsize=8)
@torch.inference_mode(False)
def band_interpolation(bins: int) -> Tensor:
    """A matrix (128, K): values at the centres of the mel bands @ matrix = values at K bins.

    It interpolates linearly in mel, and is constant beyond the outermost centres.
    """
    mels = hz_to_mel(torch.linspace(0, SAMPLE_RATE / 2, bins))
    centres = torch.linspace(0, float(mels[-1]), N_MELS + 2)[1:-1]
    mels = mels.clamp(centres[0], centres[-1])
    upper = torch.searchsorted(centres, mels).clamp(1, N_MELS - 1)
    share = (mels - centres[upper - 1]) / (centres[upper] - centres[upper - 1])
    matrix, columns = torch.zeros(N_MELS, bins), torch.arange(bins)
    matrix[upper - 1, columns] = 1 - share
    matrix[upper, columns] = share
    return matrix


def match_mel(samples: Tensor, log_mel: Tensor, stft: Stft, iterations: int) -> Tensor:
    """Correct the level of samples (B, 320 T), so that their mel approaches a log-mel (B, T, 128).

    Each of `iterations` rounds changes the level band by band and frame by frame. The log-mel is
    natural. Returns samples (B, 320 T).
    """
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
