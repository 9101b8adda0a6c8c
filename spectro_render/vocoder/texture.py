"""Gives a mel the fluctuation of noise and beating partials that a trained network leaves out.

A network that is trained on an absolute error predicts the middle of all mels that may be. In it
the powers of noise and of partials add up, and it moves less from frame to frame than any real mel.
What is missing follows from the notes: noise fluctuates as it does in any short spectrum, partials
that share a band beat, and a partial that stands alone in its band is steady.

T mel frames of a window, N notes, M = 128 mel bands.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from spectro_render.constants import (
    HOP_LENGTH,
    LOG_MEL_MIN,
    N_FFT,
    N_MELS,
    WIN_LENGTH,
)
from spectro_render.mel import mel_matrix
from spectro_render.vocoder.harmonic_map import (
    draw_phases,
    draw_power,
    expected_lines,
    line_turns,
    noise_spectrum,
    spread_lines,
)
from spectro_render.vocoder.lines import LineTable

AMOUNT = 0.9  # of the expected fluctuation: with all of it, sound changes more than real sound
LOW_SHARE = 0.25  # of AMOUNT in the lowest bands, where a transcriber takes it for onsets
LOW_BANDS, HIGH_BANDS = 32, 76  # up to the first, it is LOW_SHARE; from the second on, all of it
SLOW = 33  # frames: the mean of so many is kept
MOST, LEAST = 1.5, -2.0  # nats
FAINT = 1e-6


def add_texture(
    log_mel: Tensor, notes: Tensor, table: LineTable, generator: torch.Generator
) -> Tensor:
    """A natural log-mel (T, 128) of a window with the fluctuation of its notes (N, 5).

    Times of notes count from the window's first frame, as `harmonic_map` describes them. Noise is
    drawn from the generator.
    """
    length, bins = len(log_mel), N_FFT // 2 + 1
    pairs, lines, noise, ahead = expected_lines(notes, table, length)
    spread = spread_lines(lines, bins, WIN_LENGTH)
    turns = line_turns(lines, log_mel.new_zeros(len(ahead)), ahead, *pairs, notes[:, 3], 0)
    noise = noise_spectrum(noise, bins)
    matrix = mel_matrix()
    smooth = (draw_power(lines, spread, length, bins) + noise.square()).sqrt() @ matrix
    partials = draw_phases(lines, spread, turns, length, bins, WIN_LENGTH)
    moving = (partials + noise * _white_noise(length, generator)).abs() @ matrix
    texture = (moving.clamp(min=FAINT) / smooth.clamp(min=FAINT)).log().clamp(LEAST, MOST)
    bands = texture.T[:, None]
    slow = F.avg_pool1d(bands, SLOW, 1, SLOW // 2, count_include_pad=False)
    textured = log_mel + _shares() * (bands - slow)[:, 0].T
    return torch.where(log_mel > LOG_MEL_MIN, textured, log_mel).clamp(min=LOG_MEL_MIN)


def _white_noise(length: int, generator: torch.Generator) -> Tensor:
    """The complex spectrum (T, 513) of white noise, with a mean power of 1."""
    samples = torch.randn(length * HOP_LENGTH + N_FFT, generator=generator)
    window = torch.hann_window(WIN_LENGTH)
    spectrum = torch.stft(
        samples, N_FFT, HOP_LENGTH, WIN_LENGTH, window, center=False, return_complex=True
    )
    return spectrum.T[:length] / window.square().sum().sqrt()


@lru_cache(maxsize=1)
@torch.inference_mode(False)
def _shares() -> Tensor:
    """How much of the fluctuation each mel band gets, (128,)."""
    rise = (torch.arange(N_MELS) - LOW_BANDS) / (HIGH_BANDS - LOW_BANDS)
    return AMOUNT * (LOW_SHARE + (1 - LOW_SHARE) * rise.clamp(0, 1))
