"""The parts of diffusers' pipeline, under diffusers' names: thin modules around ours.

They take and return what diffusers' classes do, so that code that calls a part directly keeps
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

from spectro_render.checkpoints.files import without_numbers
from spectro_render.checkpoints.names import read_config, write_config, write_schedule
from spectro_render.diffusion import DiscreteSchedule, ancestral, check_sampling, clean_mel
from spectro_render.network.config import ModelConfig
from spectro_render.network.model import ContextEncoder, Decoder, Memory, TokenEncoder
from spectro_render.vocoder.melgan import Vocoder

Samples: TypeAlias = npt.NDArray[np.float32]
Generator: TypeAlias = torch.Generator | list[torch.Generator] | None
Encoded: TypeAlias = tuple[Tensor, Tensor]  # (B, S, D), and a mask (B, S): False is padding
C = TypeVar("C", bound="Component")


class ComponentConfig(dict[str, Any]):
    """The content of a config file, whose values are attributes as well."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


class Component(nn.Module):
    """A network stored in one folder of a model directory; a new one has random weights."""

    part: ClassVar[str]  # a key of `names.FOLDERS`
    network: nn.Module

    def __init__(self, **settings: Any) -> None:
        """Build the network with the settings of config.json. Raises WeightsError for bad ones."""
        super().__init__()
        self.config = ComponentConfig(settings)
        self.model_config = read_config({self.part: settings}, {})

    @classmethod
    def around(cls: type[C], network: nn.Module, config: ModelConfig) -> C:
        """Make a component from a part of a loaded model; both share the weights."""
        with without_numbers():  # `network` takes its place
            component = cls(**write_config(config)[cls.part])
        component.network = network
        return component

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype


class SpectrogramNotesEncoder(Component):
    """Encodes token ids for the decoder's cross-attention."""

    part = "notes"
    network: TokenEncoder

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.network = TokenEncoder(self.model_config)

    def forward(self, encoder_input_tokens: Tensor, encoder_inputs_mask: Tensor) -> Encoded:
        """Encode ids (B, L) with a mask (B, L), False at padding, as (B, L, D) and the mask."""
        mask = _if_any_is_padding(encoder_inputs_mask)
        return self.network(encoder_input_tokens, mask), encoder_inputs_mask


class SpectrogramContEncoder(Component):
    """Encodes the previous window's mel for the decoder's cross-attention.

    Positions are counted from the mel's end, as in the paper's code: the last frame of a context of
    n frames is at T - 1, like that of a whole one. (diffusers intends the same, but rolls the wrong
    axis. In its pipeline n is 0 or T, for which the results agree.)
    """

    part = "context"
    network: ContextEncoder

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.network = ContextEncoder(self.model_config)

    def forward(self, encoder_inputs: Tensor, encoder_inputs_mask: Tensor) -> Encoded:
        """Encode a mel on [-1, 1] (B, T, M) with a mask (B, T) as (B, T, D) and the mask.

        Where the whole mask is False, the attention here gives zeros, in diffusers the mean of all
        frames. No decoder attends to either.
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
    """Convert a mask (B, S) to the network's form: boolean, or None where it hides nothing."""
    return None if bool(mask.all()) else mask.bool()


def _take(x: Tensor, frames: Tensor) -> Tensor:
    """Choose and order the rows of x (B, T, D) by their numbers, `frames` (B, T)."""
    return x.take_along_dim(frames[..., None], 1)


class T5FilmDecoder(Component):
    """Predicts the noise in a noisy mel, or another target that the model was trained for."""

    part = "decoder"
    network: Decoder

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.network = Decoder(self.model_config)

    def remember(self, encodings_and_masks: Sequence[Encoded]) -> Memory:
        """Compute the memory that `forward` reads, once for all steps of a window."""
        encoded, masks = zip(*encodings_and_masks, strict=True)
        keys_values = tuple(self.network.remember(torch.cat(encoded, 1)))
        return Memory(keys_values, _if_any_is_padding(torch.cat(masks, 1)))

    def forward(
        self,
        encodings_and_masks: Sequence[Encoded] | Memory | None,
        decoder_input_tokens: Tensor,
        decoder_noise_time: Tensor,
    ) -> Tensor:
        """Predict (B, T, M) from a noisy mel (B, T, M) at times (B,) or (1,), in [0, 1].

        `encodings_and_masks` come from the encoders or from `remember`. None is for the
        unconditional pass of guidance.
        """
        memory = encodings_and_masks
        if memory is not None and not isinstance(memory, Memory):
            memory = self.remember(memory)
        is_cuda = self.device.type == "cuda"
        films = self.network.films(decoder_noise_time.to(self.device, non_blocking=is_cuda))
        return self.network(decoder_input_tokens, films, memory)


class SchedulerOutput(NamedTuple):
    """The result of a step of the scheduler; mels are (B, T, M)."""

    prev_sample: Tensor  # the mel one step less noisy
    pred_original_sample: Tensor  # the clean mel, as estimated at this step


class SpectrogramScheduler:
    """The published pipeline's DDPM sampler, with the interface of diffusers' schedulers."""

    init_noise_sigma = 1.0

    def __init__(self, config: ModelConfig, schedule: DiscreteSchedule) -> None:
        self.config = ComponentConfig(write_schedule(config, schedule))
        self.timesteps = torch.empty(0, dtype=torch.int64)
        self._schedule = schedule
        self._target = config.target

    def set_timesteps(self, num_inference_steps: int) -> None:
        """Choose the training steps to visit. Raises OptionError for too few or too many."""
        check_sampling("diffusers", num_inference_steps, self._schedule)
        self._levels = self._schedule.levels(num_inference_steps)
        times = [round(level.time * self._schedule.train_steps) for level in self._levels[:-1]]
        self._indices = {time: index for index, time in enumerate(times)}
        self.timesteps = torch.tensor(times)

    def scale_model_input(self, sample: Tensor, timestep: int | Tensor) -> Tensor:
        """Scale the network's input: not at all, in this schedule."""
        return sample

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        generator: Generator = None,
    ) -> SchedulerOutput:
        """Advance from `timestep`, one of `timesteps`, to the next one, which is less noisy."""
        index = self._indices[int(timestep)]
        now, then = self._levels[index], self._levels[index + 1]
        x = sample.float()
        previous = x0 = clean_mel(model_output.float(), x, now.alpha, now.sigma, self._target)
        if index + 1 < len(self.timesteps):
            advance = ancestral(lambda: draw_like(model_output, generator), large=True)
            previous = advance(x, x0, now, then)
        return SchedulerOutput(previous.to(sample), x0.to(sample))


def draw_like(tensor: Tensor, generator: Generator) -> Tensor:
    """Draw noise with a tensor's shape, number format and device.

    As in diffusers it is drawn on the device of `generator`, which may be a list of one. None means
    torch's own generator.
    """
    if isinstance(generator, list):
        (generator,) = generator
    place = tensor.device if generator is None else generator.device
    noise = torch.randn(tensor.shape, generator=generator, device=place, dtype=tensor.dtype)
    return noise.to(tensor.device)


class MelVocoder:
    """The vocoder in a model's folder `melgan`, on the CPU, with the interface of diffusers."""

    def __init__(self, vocoder: Vocoder, folder: Path) -> None:
        self.vocoder = vocoder
        self.folder = folder

    @torch.no_grad()
    def __call__(
        self, *, input_features: npt.ArrayLike | Tensor, notes: Tensor | None = None
    ) -> list[Samples]:
        """Turn a natural log-mel (1, T, 128) into a list of one array of samples (1, 320 T).

        `notes` are those of the mel, (N, 5), as `vocoder.harmonic_map` describes them.
        """
        log_mel = torch.as_tensor(input_features, dtype=torch.float32, device="cpu")
        if notes is None:
            return [self.vocoder(log_mel).numpy()]
        return [self.vocoder(log_mel, [notes]).numpy()]

    def save_pretrained(self, folder: Path) -> None:
        """Copy the files that the vocoder was loaded from."""
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
