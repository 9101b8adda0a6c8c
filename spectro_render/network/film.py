"""Conditions each layer of the diffusion decoder on the noise level.

Features are scaled and shifted by numbers that depend on the level: feature-wise linear modulation,
FiLM (Perez et al., arXiv 1709.07871). B windows, D = width.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from spectro_render.network.config import ModelConfig

MAX_NOISE_TIME = 20_000.0  # both the scale of the diffusion time and the longest period


class Film(NamedTuple):
    """Factors and shifts of features at the noise levels of B windows."""

    factor: Tensor  # (B, 1, D)
    shift: Tensor  # (B, 1, D)


class LayerFilms(NamedTuple):
    """Factors and shifts for the two inputs of a decoder layer that the noise level changes."""

    attention: Film  # for the input of self-attention
    mlp: Film  # for the input of the MLP

    def at(self, row: int) -> LayerFilms:
        """Factors and shifts (1, 1, D) at one of the B noise levels, for windows that share it."""
        here = slice(row, row + 1)
        return LayerFilms(*(Film(film.factor[here], film.shift[here]) for film in self))


class NoiseLevel(nn.Module):
    """Embeds diffusion times in [0, 1]: (B,) -> (B, level_width).

    Sinusoids of time x 20000 in float32, sines first, then cosines (Vaswani et al., arXiv
    1706.03762, in the layout of the paper's code). float64 would differ by up to 1.3e-3.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.waves = config.width // 2
        self.hidden = nn.Linear(config.width, config.level_width, bias=False)
        self.out = nn.Linear(config.level_width, config.level_width, bias=False)

    def forward(self, time: Tensor) -> Tensor:
        steps = torch.arange(self.waves, dtype=torch.float32, device=time.device)
        frequency = torch.exp(steps * -math.log(MAX_NOISE_TIME) / (self.waves - 1))
        angle = (time.float() * MAX_NOISE_TIME)[:, None] * frequency
        waves = torch.cat([angle.sin(), angle.cos()], -1).to(self.hidden.weight.dtype)
        return F.silu(self.out(F.silu(self.hidden(waves))))


class FiLM(nn.Module):
    """Turns embedded noise levels (B, level_width) into factors and shifts of features."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.scale_shift = nn.Linear(config.level_width, 2 * config.width, bias=False)

    def forward(self, level: Tensor) -> Film:
        scale, shift = self.scale_shift(level).unsqueeze(-2).chunk(2, -1)
        return Film(1 + scale, shift)


def modulate(x: Tensor, film: Film) -> Tensor:
    """Scale and shift features (B, T, D)."""
    return torch.addcmul(film.shift, x, film.factor)
