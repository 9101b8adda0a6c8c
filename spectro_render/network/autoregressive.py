"""The autoregressive Transformer, the paper's baseline: it draws a mel frame by frame.

The decoder's input is the previous frame (zeros at a window's start). Its layers have causal
self-attention and attend to the notes and the context. An output function turns their outputs into
the next frame. B windows, T = 256 frames, M = 128 mel bands, D = width, K components of a mixture.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spectro_render.constants import N_MELS, WINDOW_FRAMES
from spectro_render.diffusion import DiscreteSchedule
from spectro_render.network.config import ModelConfig
from spectro_render.network.device import number_format
from spectro_render.network.layers import KeyValueCache, RMSNorm
from spectro_render.network.model import MelDecoder, MelModel, Memory, decoder_layers
from spectro_render.options import Sampling

# --- what a frame is made of ------------------------------------------------------------------


class OutputFunction(Protocol):
    """Interprets the decoder's outputs (B, T, width) as a distribution of frames (B, T, M)."""

    @property
    def width(self) -> int:
        """The number of the decoder's outputs for one frame."""

    def centred(self, outputs: Tensor, draft: Tensor) -> Tensor:
        """Change outputs so that the means of their distributions grow by a draft (B, T, M)."""

    def loss(self, outputs: Tensor, frames: Tensor) -> Tensor:
        """The training loss of outputs whose true frames are (B, T, M): a mean over all values."""

    def sample(self, outputs: Tensor, noise: Tensor, choice: Tensor) -> Tensor:
        """Draw frames (B, T, M) from the standard normal `noise` (B, T, M) and `choice` (B, T)."""


@dataclass(frozen=True)
class Deterministic:
    """The outputs are the frame itself, trained by squared error as in the paper.

    `dither` is the standard deviation of the noise that is added to the frames while sampling.
    """

    dither: float = 0.0
    width: int = N_MELS

    def centred(self, outputs: Tensor, draft: Tensor) -> Tensor:
        return outputs + draft

    def loss(self, outputs: Tensor, frames: Tensor) -> Tensor:
        return F.mse_loss(outputs, frames)

    def sample(self, outputs: Tensor, noise: Tensor, choice: Tensor) -> Tensor:
        return outputs + self.dither * noise


@dataclass(frozen=True)
class GaussianMixture:
    """A mixture of K normal distributions of frames (Bishop, Mixture density networks, 1994).

    A frame as a whole belongs to one component; the bands of a component are independent. Outputs
    are K weights, K means and K standard deviations, the latter mapped into the range from
    `min_sigma` to `max_sigma`.
    """

    components: int
    min_sigma: float
    max_sigma: float

    @property
    def width(self) -> int:
        return self.components * (1 + 2 * N_MELS)

    def centred(self, outputs: Tensor, draft: Tensor) -> Tensor:
        weights, means, sigmas = self._split(outputs)
        means = means + draft.unsqueeze(-2)
        return torch.cat([weights, means.flatten(-2), sigmas.flatten(-2)], -1)

    def loss(self, outputs: Tensor, frames: Tensor) -> Tensor:
        """The negative log-likelihood of the frames, in nats for each value."""
        weights, means, sigmas = self._split(outputs.float())
        sigmas = self._deviations(sigmas)
        distance = (frames.unsqueeze(-2) - means) / sigmas  # (B, T, K, M)
        log_density = -(distance**2) / 2 - sigmas.log() - math.log(2 * math.pi) / 2
        by_component = weights.log_softmax(-1) + log_density.sum(-1)
        return -by_component.logsumexp(-1).mean() / N_MELS

    def sample(self, outputs: Tensor, noise: Tensor, choice: Tensor) -> Tensor:
        weights, means, sigmas = self._split(outputs.float())
        below = weights.softmax(-1).cumsum(-1) < torch.special.ndtr(choice).unsqueeze(-1)
        chosen = below.sum(-1).clamp(max=self.components - 1)  # (B, T)
        index = chosen[..., None, None].expand(*chosen.shape, 1, N_MELS)
        mean, sigma = (x.gather(-2, index).squeeze(-2) for x in (means, self._deviations(sigmas)))
        return mean + sigma * noise

    def _split(self, outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Weights (B, T, K) before softmax, means and unmapped deviations (B, T, K, M)."""
        sizes = [self.components, self.components * N_MELS, self.components * N_MELS]
        weights, means, sigmas = torch.split(outputs, sizes, -1)
        shape = (*weights.shape, N_MELS)
        return weights, means.reshape(shape), sigmas.reshape(shape)

    def _deviations(self, sigmas: Tensor) -> Tensor:
        return self.min_sigma + (self.max_sigma - self.min_sigma) * sigmas.sigmoid()


def output_function_of(config: ModelConfig) -> OutputFunction:
    """Make the output function that an autoregressive configuration names."""
    if config.output_function == "deterministic":
        return Deterministic(config.dither)
    return GaussianMixture(config.components, config.min_sigma, config.max_sigma)


# --- network ----------------------------------------------------------------------------------


class CausalDecoder(MelDecoder):
    """The autoregressive decoder, which predicts each frame from the frames before it."""

    def __init__(self, config: ModelConfig, width: int) -> None:
        super().__init__()
        self.input = nn.Linear(N_MELS, config.width, bias=False)
        self.position = nn.Embedding(WINDOW_FRAMES, config.width)
        self.layers = decoder_layers(config)
        self.norm = RMSNorm(config.width)
        self.output = nn.Linear(config.width, width, bias=False)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, before: Tensor, memory: Memory, caches: Sequence[KeyValueCache] = ()
    ) -> Tensor:
        """Compute the outputs (B, t, width) of t frames, given the frame before each (B, t, M).

        With `caches`, one for each layer, these frames follow those that the caches hold.
        """
        start = caches[0].length if caches else 0
        here = slice(start, start + before.shape[1])
        x = self.input(before) + self.position.weight[here]
        if memory.frames is not None:
            x = x + memory.frames[:, here]
        x = self.dropout(x)
        for index, layer in enumerate(self.layers):
            pair = memory.keys_values[index] if memory.keys_values else None
            x = layer(x, pair, memory.mask, cache=caches[index] if caches else None)
        return self.output(self.dropout(self.norm(x)))

    def caches(self) -> list[KeyValueCache]:
        """Make an empty cache for each layer."""
        return [KeyValueCache() for _ in self.layers]


class AutoregressiveModel(MelModel):
    """The paper's baseline, which draws a mel frame by frame. `forward` is for training only."""

    decoder: CausalDecoder
    has_sampler = False

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.output_function = output_function_of(config)
        self.decoder = CausalDecoder(config, self.output_function.width)

    def forward(self, mel: Tensor, memory: Memory) -> Tensor:
        """Mel (B, T, M) -> outputs (B, T, width) for each frame, from the true frames before it."""
        before = F.pad(mel[:, :-1], (0, 0, 1, 0))
        return self._centred(self.decoder(before, memory), memory, 0)

    def draw(
        self,
        memory: Memory,
        noise: Callable[[], Tensor],
        sampling: Sampling,
        *,
        schedule: DiscreteSchedule | None = None,
        dtype: torch.dtype = torch.float32,
        on_step: Callable[[int], None] | None = None,
    ) -> Tensor:
        with number_format(self.decoder.position.weight.device, dtype):
            return self.generate(memory, noise, on_step)

    def progress_steps(self, sampling: Sampling) -> int:
        return WINDOW_FRAMES

    def generate(
        self,
        memory: Memory,
        noise: Callable[[], Tensor],
        on_frame: Callable[[int], None] | None = None,
    ) -> Tensor:
        """Draw a mel in [-1, 1], (B, T, M) float32, frame by frame.

        `noise` is called twice for (B, T, M); `on_frame` is called with 1..T. A frame is clipped
        before the next one is drawn, because the network was trained on clipped frames.
        """
        deviations, choice = noise(), noise()[..., 0]
        caches, frame = self.decoder.caches(), torch.zeros_like(deviations[:, :1])
        frames = []
        for index in range(deviations.shape[1]):
            here = slice(index, index + 1)
            outputs = self._centred(self.decoder(frame, memory, caches), memory, index).float()
            frame = self.output_function.sample(outputs, deviations[:, here], choice[:, here])
            frame = frame.clamp(-1, 1)
            frames.append(frame)
            if on_frame is not None:
                on_frame(index + 1)
        return torch.cat(frames, 1)

    def _centred(self, outputs: Tensor, memory: Memory, start: int) -> Tensor:
        if memory.draft is None:
            return outputs
        draft = memory.draft[:, start : start + outputs.shape[1]]
        return self.output_function.centred(outputs, draft)
