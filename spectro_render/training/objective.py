"""Training objectives: the losses of a model's predictions on a batch of windows."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from spectro_render.constants import WINDOW_FRAMES
from spectro_render.diffusion import alpha, clean_mel, corrupt, learning_target, sigma
from spectro_render.network.autoregressive import AutoregressiveModel
from spectro_render.network.model import MelModel, Memory, SpectrogramModel
from spectro_render.training.data import TrainingBatch

UNCONDITIONAL_SHARE = 0.1  # share of the windows without notes and context, for guidance
CONTEXT_DROPOUT = 0.1  # share of the windows whose context alone is dropped, as at a piece's start
OWN_PREDICTION_SHARE = 0.5  # share of the contexts that are replaced by own predictions
# Lowest diffusion time at which the one-step prediction resembles a sampler's result; with less
# noise the input gives the answer away.
OWN_PREDICTION_TIME = 0.5
CONTEXT_NOISE = 0.06  # largest deviation of the noise in contexts, on [-1, 1]; it is 0.5 nats
DRAFT_WEIGHT = 0.25  # weight of the draft's own error; without it drafts do not resemble mels

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
    """Draw `count` times, one in each of `count` equal parts of [0, 1], in random order."""
    jitter = torch.rand(count, generator=generator)
    order = torch.randperm(count, generator=generator)
    return (order + jitter) / count


def frame_weights(device: torch.device) -> Tensor:
    """Weight of each frame of a window, (T, 1): highest where two windows join, 1 on average."""
    time = torch.arange(WINDOW_FRAMES, device=device)[:, None]
    weights = 1 + 4 * torch.exp(-time / 6) + 12 * torch.exp(-time / 1.5)
    return weights / weights.mean()


class Objective(ABC):
    """A training loss; contexts are made as imperfect as they are in rendering."""

    # Own predictions for the last batch, for use as contexts: indices of windows (B',) and their
    # mels (B', T, M).
    own_predictions: tuple[Tensor, Tensor] | None = None

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    @abstractmethod
    def __call__(self, batch: TrainingBatch) -> Tensor:
        """The loss, a scalar: a mean over all windows, frames and bands."""

    def encode(self, model: MelModel, batch: TrainingBatch) -> Memory:
        """Encode a batch, with some contexts dropped and some replaced by own predictions.

        In rendering, a context is never the true mel. So noise is added to the true contexts, and
        OWN_PREDICTION_SHARE of them are replaced by the model's own predictions, where these exist.
        """
        size, device = len(batch.target), batch.target.device
        dropout, own = torch.rand(2, size, generator=self.generator).to(device)
        deviation = CONTEXT_NOISE * torch.rand(size, 1, 1, generator=self.generator).to(device)
        context = batch.context + deviation * self._noise(batch.context)
        is_own = batch.has_own_prediction & (own < OWN_PREDICTION_SHARE)
        context = torch.where(is_own[:, None, None], batch.own_prediction, context)
        has_context = batch.has_context & (dropout >= CONTEXT_DROPOUT)
        return model.encode(batch.notes, context.clamp(-1, 1), has_context, batch.drafted)

    def _noise(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self.generator).to(like)


class Denoising(Objective):
    """The error of a diffusion model's predictions at random noise levels."""

    def __init__(
        self, model: SpectrogramModel, generator: torch.Generator, loss: str = "l1"
    ) -> None:
        """`loss` is one of LOSSES."""
        super().__init__(generator)
        self.model = model
        self.penalty = LOSSES[loss]

    def __call__(self, batch: TrainingBatch) -> Tensor:
        size, device = len(batch.target), batch.target.device
        keep = torch.rand(size, generator=self.generator).to(device) >= UNCONDITIONAL_SHARE
        times = stratified_times(size, self.generator).to(device)
        noise = self._noise(batch.target)
        memory = self.encode(self.model, batch)
        noisy = corrupt(batch.target, noise, times)
        predicted = self.model.denoise(noisy, times, drop_conditions(memory, keep))

        target, level = self.model.config.target, times[:, None, None]
        mel = clean_mel(predicted.detach(), noisy, alpha(level), sigma(level), target)
        is_like_sampled = keep & (times >= OWN_PREDICTION_TIME)
        self.own_predictions = batch.numbers[is_like_sampled], mel[is_like_sampled]

        wanted = learning_target(batch.target, noise, times, target)
        error = self.penalty(predicted - wanted) * frame_weights(predicted.device)
        if memory.draft is None:
            return error.mean()
        return error.mean() + DRAFT_WEIGHT * (memory.draft - batch.target).abs().mean()


class TeacherForcing(Objective):
    """The loss of an autoregressive model, which predicts each frame after the true ones."""

    def __init__(self, model: AutoregressiveModel, generator: torch.Generator) -> None:
        super().__init__(generator)
        self.model = model

    def __call__(self, batch: TrainingBatch) -> Tensor:
        outputs = self.model(batch.target, self.encode(self.model, batch))
        return self.model.output_function.loss(outputs, batch.target)


def make_objective(model: MelModel, generator: torch.Generator, loss: str = "l1") -> Objective:
    """The training objective for the model's kind of decoder.

    `loss` is one of LOSSES and applies to diffusion models; an autoregressive model uses the loss
    of its output function.
    """
    objectives: dict[str, Callable[[Any, torch.Generator], Objective]] = {
        "diffusion": partial(Denoising, loss=loss),
        "autoregressive": TeacherForcing,
    }
    return objectives[model.config.decoder](model, generator)
