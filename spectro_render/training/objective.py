"""What each kind of model learns by: its distance from a batch of true windows."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from spectro_render.constants import WINDOW_FRAMES
from spectro_render.diffusion import Target, alpha, corrupt, learning_target, sigma
from spectro_render.network.autoregressive import AutoregressiveModel
from spectro_render.network.model import MelModel, Memory, SpectrogramModel
from spectro_render.training.data import Batch

UNCONDITIONAL_SHARE = 0.1  # of the windows: notes and context dropped together, for guidance
DEAF_SHARE = 0.1  # of the windows: context dropped alone, as at a song's start
OWN_SHARE = 0.5  # of the contexts: what the model itself lately said of the window before
OWN_TIME = 0.5  # from which time on that is like what a sampler ends with: less noise tells more
CONTEXT_NOISE = 0.06  # largest deviation added to the context, on the model's scale: 0.5 nat
DRAFT_WEIGHT = 0.25  # of the draft's own error: without it the draft drifts away from any mel

LOSSES: dict[str, Callable[[Tensor], Tensor]] = {"l1": torch.abs, "mse": torch.square}


def drop_conditions(memory: Memory, keep: Tensor) -> Memory:
    """Make the windows where `keep` (B,) is False unconditional: no notes, no context."""
    here = keep[:, None, None]
    length = memory.keys_values[0][0].shape[2] if memory.keys_values else 0
    everywhere = keep.new_ones(len(keep), length) if memory.mask is None else memory.mask
    return replace(
        memory,
        mask=everywhere & keep[:, None] if memory.keys_values else None,
        frames=None if memory.frames is None else memory.frames * here,
        draft=None if memory.draft is None else memory.draft * here,
    )


def stratified_times(count: int, generator: torch.Generator) -> Tensor:
    """`count` times, one in each of as many equal parts of [0, 1], in random order."""
    jitter = torch.rand(count, generator=generator)
    order = torch.randperm(count, generator=generator)
    return (order + jitter) / count


def frame_weights(device: torch.device) -> Tensor:
    """How much each of a window's frames counts, (T, 1), 1 in the mean: most where windows join."""
    time = torch.arange(WINDOW_FRAMES, device=device)[:, None]
    weights = 1 + 4 * torch.exp(-time / 6) + 12 * torch.exp(-time / 1.5)
    return weights / weights.mean()


def mel_of(predicted: Tensor, noisy: Tensor, times: Tensor, target: Target) -> Tensor:
    """The mels that predictions mean at times (B,), in [-1, 1]; all else (B, T, M)."""
    level = times[:, None, None]
    if target == "v":
        predicted = alpha(level) * noisy - sigma(level) * predicted
    elif target == "epsilon":
        predicted = (noisy - sigma(level) * predicted) / alpha(level)
    return predicted.clamp(-1, 1)


class Objective(ABC):
    """A loss over batches, with the conditions worn as they are in use."""

    said: tuple[Tensor, Tensor] | None = None  # of the last batch: numbers (B',), mels (B', T, M)

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    @abstractmethod
    def __call__(self, batch: Batch) -> Tensor:
        """A scalar, a mean over all values."""

    def encode(self, model: MelModel, batch: Batch) -> Memory:
        """The batch's memory: some contexts are not heard, some are the model's own.

        True ones are a little noisy.
        """
        size, device = len(batch.target), batch.target.device
        hears, own = torch.rand(2, size, generator=self.generator).to(device)
        worn = batch.context + self._wear(size).to(device) * self._noise(batch.context)
        is_own = batch.has_said & (own < OWN_SHARE)
        worn = torch.where(is_own[:, None, None], batch.said, worn)
        return model.encode(batch.notes, worn.clamp(-1, 1), batch.heard & (hears >= DEAF_SHARE))

    def _wear(self, size: int) -> Tensor:
        """How much noise each context gets, (B, 1, 1): what it hears in use is never clean."""
        return CONTEXT_NOISE * torch.rand(size, 1, 1, generator=self.generator)

    def _noise(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self.generator).to(like)


class Denoising(Objective):
    """The distance between what the model says of a corrupted mel and what it should have said."""

    def __init__(
        self, model: SpectrogramModel, generator: torch.Generator, loss: str = "l1"
    ) -> None:
        super().__init__(generator)
        self.model = model
        self.penalty = LOSSES[loss]

    def __call__(self, batch: Batch) -> Tensor:
        size, device = len(batch.target), batch.target.device
        keep = torch.rand(size, generator=self.generator).to(device) >= UNCONDITIONAL_SHARE
        times = stratified_times(size, self.generator).to(device)
        noise = self._noise(batch.target)
        memory = self.encode(self.model, batch)
        noisy = corrupt(batch.target, noise, times)
        predicted = self.model.denoise(noisy, times, drop_conditions(memory, keep))
        said = keep & (times >= OWN_TIME)
        mel = mel_of(predicted.detach(), noisy, times, self.model.config.target)
        self.said = batch.numbers[said], mel[said]
        wanted = learning_target(batch.target, noise, times, self.model.config.target)
        error = self.penalty(predicted - wanted) * frame_weights(predicted.device)
        if memory.draft is None:
            return error.mean()
        return error.mean() + DRAFT_WEIGHT * (memory.draft - batch.target).abs().mean()


class TeacherForcing(Objective):
    """The output function's loss on every frame, after the true ones before it."""

    def __init__(self, model: AutoregressiveModel, generator: torch.Generator) -> None:
        super().__init__(generator)
        self.model = model

    def __call__(self, batch: Batch) -> Tensor:
        outputs = self.model(batch.target, self.encode(self.model, batch))
        return self.model.output_function.loss(outputs, batch.target)


def make_objective(model: MelModel, generator: torch.Generator, loss: str = "l1") -> Objective:
    """The objective of a model's kind; `loss` is for denoising only, one of LOSSES."""
    if isinstance(model, AutoregressiveModel):
        return TeacherForcing(model, generator)
    assert isinstance(model, SpectrogramModel)
    return Denoising(model, generator, loss)
