"""diffusers' names for the parts of its pipeline: thin modules around ours.

They take and return what diffusers' classes do, so that code that calls a part by itself goes on
working. B windows, L tokens, T = 256 frames, M = 128 mel bands, D = width, S encoded positions.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from spectro_render.checkpoints import names as layout
from spectro_render.checkpoints.files import without_numbers
from spectro_render.diffusion import DiscreteSchedule, ancestral, check_sampling, clean_mel
from spectro_render.network.config import ModelConfig
from spectro_render.network.model import ContextEncoder, Decoder, Memory, TokenEncoder
from spectro_render.vocoder.melgan import Vocoder

Samples: TypeAlias = npt.NDArray[np.float32]
Generator: TypeAlias = torch.Generator | list[torch.Generator] | None
Encoded: TypeAlias = tuple[Tensor, Tensor]  # (B, S, D), and a mask (B, S): False is padding
C = TypeVar("C", bound="Component")


class Settings(dict[str, Any]):
    """The content of a config file; its values are attributes too."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


class Component(nn.Module):
    """One folder of a model directory. Without weights from there its numbers are random."""

    part: ClassVar[str]  # its name among `layout.FOLDERS`
    network: nn.Module

    def __init__(self, **settings: Any) -> None:
        """`settings` are those of the folder's config.json. Raises WeightsError."""
        super().__init__()
        self.config = Settings(settings)
        self.model_config = layout.read_config({self.part: settings}, {})

    @classmethod
    def around(cls: type[C], network: nn.Module, config: ModelConfig) -> C:
        """The component that this part of a loaded model is."""
        with without_numbers():  # those of `network` take their place
            component = cls(**layout.write_config(config)[cls.part])
        component.network = network
        return component

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype


class SpectrogramNotesEncoder(Component):
    """Token ids -> what the decoder reads about the notes."""

    part = "notes"
    network: TokenEncoder

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.network = TokenEncoder(self.model_config)

    def forward(self, encoder_input_tokens: Tensor, encoder_inputs_mask: Tensor) -> Encoded:
        """Ids (B, L) and mask (B, L), False where they are padding -> (B, L, D), and the mask."""
        mask = _if_any_is_padding(encoder_inputs_mask)
        return self.network(encoder_input_tokens, mask), encoder_inputs_mask


class SpectrogramContEncoder(Component):
    """The mel before -> what the decoder reads about it.

    Its positions are counted from the mel's end, as the paper's code does it: a context of n frames
    has its last frame where a whole one has it, at T - 1. (diffusers means to, but rolls the wrong
    axis. For n = 0 and n = T, which is all that occurs in its pipeline, it is the same.)
    """

    part = "context"
    network: ContextEncoder

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.network = ContextEncoder(self.model_config)

    def forward(self, encoder_inputs: Tensor, encoder_inputs_mask: Tensor) -> Encoded:
        """Mel on [-1, 1] (B, T, M) and mask (B, T) -> (B, T, D), and the mask.

        Where the whole mask is False, attention gives zeros and diffusers' the mean of all frames;
        no decoder hears either.
        """
        if _if_any_is_padding(encoder_inputs_mask) is None:
            return self.network(encoder_inputs), encoder_inputs_mask
        frames = torch.arange(encoder_inputs.shape[1], device=encoder_inputs.device)
        lengths = encoder_inputs_mask.long().sum(1, keepdim=True)
        rolled = (frames + lengths) % len(frames)  # (B, T): which frame is at which position
        mask = encoder_inputs_mask.gather(1, rolled)
        encoded = self.network.encoder(self.network.input(_take(encoder_inputs, rolled)), mask)
        return _take(encoded, (frames - lengths) % len(frames)), encoder_inputs_mask


def _if_any_is_padding(mask: Tensor) -> Tensor | None:
    """A mask (B, S) as the network wants it: True and False, and none where it hides nothing."""
    return None if bool(mask.all()) else mask.bool()


def _take(x: Tensor, frames: Tensor) -> Tensor:
    """Rows of x (B, T, D), chosen and ordered by `frames` (B, T)."""
    return x.take_along_dim(frames[..., None], 1)


class T5FilmDecoder(Component):
    """A noisy mel -> the noise in it, or whatever else the model predicts."""

    part = "decoder"
    network: Decoder

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.network = Decoder(self.model_config)

    def remember(self, encodings_and_masks: Sequence[Encoded]) -> Memory:
        """What `forward` needs to know of them, computed once for all steps of a window."""
        encoded, masks = zip(*encodings_and_masks, strict=True)
        keys_values = tuple(self.network.remember(torch.cat(encoded, 1)))
        return Memory(keys_values, _if_any_is_padding(torch.cat(masks, 1)))

    def forward(
        self,
        encodings_and_masks: Sequence[Encoded] | Memory | None,
        decoder_input_tokens: Tensor,
        decoder_noise_time: Tensor,
    ) -> Tensor:
        """Noisy mel (B, T, M) at times (B,), or all at one (1,), in [0, 1] -> prediction (B, T, M).

        `encodings_and_masks` come from the encoders or from `remember`; None: nothing is known, the
        unconditional pass of guidance.
        """
        memory = encodings_and_masks
        if memory is not None and not isinstance(memory, Memory):
            memory = self.remember(memory)
        films = self.network.films(decoder_noise_time.to(self.device, non_blocking=True))
        return self.network(decoder_input_tokens, films, memory)


class SchedulerOutput(NamedTuple):
    """A step's result, (B, T, M) each."""

    prev_sample: Tensor  # the mel one step less noisy
    pred_original_sample: Tensor  # the clean mel as it seems from here


class SpectrogramScheduler:
    """The published pipeline's sampler, in the form of diffusers' schedulers: DDPM."""

    init_noise_sigma = 1.0

    def __init__(self, config: ModelConfig, schedule: DiscreteSchedule) -> None:
        self.config = Settings(layout.write_schedule(config, schedule))
        self.timesteps = torch.empty(0, dtype=torch.int64)
        self._schedule = schedule
        self._target = config.target

    def set_timesteps(self, num_inference_steps: int) -> None:
        """Choose the training steps to visit. Raises OptionError for more than there are."""
        check_sampling("diffusers", num_inference_steps, self._schedule)
        self._levels = self._schedule.levels(num_inference_steps)
        times = [round(level.time * self._schedule.train_steps) for level in self._levels[:-1]]
        self._indices = {time: index for index, time in enumerate(times)}
        self.timesteps = torch.tensor(times)

    def scale_model_input(self, sample: Tensor, timestep: int | Tensor) -> Tensor:
        """What the network gets to see: the sample as it is."""
        return sample

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        generator: Generator = None,
    ) -> SchedulerOutput:
        """From `timestep`, one of `timesteps`, to the next, which is less noisy."""
        index = self._indices[int(timestep)]
        now, then = self._levels[index], self._levels[index + 1]
        x = sample.float()
        previous = x0 = clean_mel(model_output.float(), x, now.alpha, now.sigma, self._target)
        if index + 1 < len(self.timesteps):
            advance = ancestral(lambda: draw_like(model_output, generator), large=True)
            previous = advance(x, x0, now, then)
        return SchedulerOutput(previous.to(sample), x0.to(sample))


def draw_like(tensor: Tensor, generator: Generator) -> Tensor:
    """Noise in a tensor's shape, format and place; drawn where the generator is, as in diffusers.

    `generator` may be a list of one, since there is one window at a time; None: torch's own.
    """
    if isinstance(generator, list):
        (generator,) = generator
    place = tensor.device if generator is None else generator.device
    noise = torch.randn(tensor.shape, generator=generator, device=place, dtype=tensor.dtype)
    return noise.to(tensor.device)


class MelVocoder:
    """Mel -> samples, on the CPU: what the folder `melgan` holds, called as diffusers calls it."""

    def __init__(self, vocoder: Vocoder, folder: Path) -> None:
        self.vocoder = vocoder
        self.folder = folder

    @torch.no_grad()
    def __call__(self, *, input_features: npt.ArrayLike | Tensor) -> list[Samples]:
        """Natural log-mel (1, T, 128) -> a list of one: samples (1, 320 T)."""
        log_mel = torch.as_tensor(input_features, dtype=torch.float32, device="cpu")
        return [self.vocoder(log_mel).numpy()]

    def save_pretrained(self, folder: Path) -> None:
        """Copy the files that it was loaded from."""
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
