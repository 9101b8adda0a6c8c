"""4 · The noise level: its embedding, and what it does to each layer of the decoder.

FiLM (Perez et al., arXiv 1709.07871): features are scaled and shifted. B windows, D = width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from spectro_render.network.config import ModelConfig

Film: TypeAlias = tuple[Tensor, Tensor]  # factor and shift, (B, 1, D) each
LayerFilms: TypeAlias = list[tuple[Film, Film]]  # a layer each: before attention, before the MLP

MAX_NOISE_TIME = 20_000.0  # both the scale of the diffusion time and the longest period
MOST_LEVELS = 256  # kept at once: 38 MB at base size


class NoiseLevel(nn.Module):
    """Diffusion time in [0, 1] -> embedding (B, level_width).

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
    """A noise level (B, level_width) -> how features are scaled and shifted at it."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.scale_shift = nn.Linear(config.level_width, 2 * config.width, bias=False)

    def forward(self, level: Tensor) -> Film:
        scale, shift = self.scale_shift(level).unsqueeze(-2).chunk(2, -1)
        return 1 + scale, shift


def modulate(x: Tensor, film: Film) -> Tensor:
    """Features (B, T, D), scaled and shifted."""
    factor, shift = film
    return torch.addcmul(shift, x, factor)


class LevelCache:
    """What the last few noise levels do to the layers, since every window meets the same ones.

    It forgets when a weight that they hang on has changed.
    """

    def __init__(self) -> None:
        self.clear()

    def __len__(self) -> int:
        return len(self._films)

    def clear(self) -> None:
        """Forget all levels."""
        self._films: dict[object, LayerFilms] = {}
        self._stamp: list[tuple[int, int]] = []

    def get(
        self, time: float, weights: Sequence[Tensor], make: Callable[[Tensor], LayerFilms]
    ) -> LayerFilms:
        """What `make`, with these weights, says of times (1,) that are this one, in [0, 1]."""
        device = weights[0].device
        if torch.is_grad_enabled():
            return make(_times(time, device))
        stamp = [(id(weight), _version(weight)) for weight in weights]
        if stamp != self._stamp:
            self.clear()
            self._stamp = stamp
        key = time, _number_format(device)
        films = self._films.get(key)  # held here, as another thread may forget all of them
        if films is None:
            while len(self._films) >= MOST_LEVELS:
                self._films.pop(next(iter(self._films)), None)
            films = self._films[key] = make(_times(time, device))
        return films


def _times(time: float, device: torch.device) -> Tensor:
    return torch.full((1,), time, dtype=torch.float32, device=device)


def _version(weight: Tensor) -> int:
    """Counts the changes made in place; of tensors born in inference mode nobody does."""
    return 0 if weight.is_inference() else weight._version


def _number_format(device: torch.device) -> torch.dtype | None:
    """That of products, where it may be another than the weights'."""
    on = torch.is_autocast_enabled(device.type)
    return torch.get_autocast_dtype(device.type) if on else None
