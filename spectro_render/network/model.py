"""4 · The Transformer: notes + previous mel + noisy mel -> a prediction about the noise.

The blocks of `layers.py` and `levels.py`, assembled as Hawthorne et al., arXiv 2206.05408, describe
it. B windows, L tokens, N notes, T = 256 frames, M = 128 mel bands, D = width, H heads of width d.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from spectro_render.constants import MAX_TOKENS, N_MELS, WINDOW_FRAMES
from spectro_render.diffusion import DiscreteSchedule, Predict, guide, sample
from spectro_render.network.config import ModelConfig
from spectro_render.network.device import number_format
from spectro_render.network.film import FiLM, Film, LayerFilms, LevelCache, NoiseLevel, modulate
from spectro_render.network.frames import NoteFrames, Tail
from spectro_render.network.layers import MLP, Attention, Encoder, RMSNorm
from spectro_render.options import Sampling


@dataclass(frozen=True, eq=False)
class Memory:
    """What the decoder knows about a window, computed once and used at every noise level."""

    keys_values: tuple[tuple[Tensor, Tensor], ...]  # a decoder layer each, 2 x (B, H, S, d)
    mask: Tensor | None = None  # (B, S), False where a key is padding; None: all are real
    frames: Tensor | None = None  # (B, T, D), frame-aligned notes
    draft: Tensor | None = None  # (B, T, M), additive estimate of the mel


@dataclass(frozen=True, eq=False)
class EncodedNotes:
    """What the notes of B windows tell, whatever came before them."""

    tokens: Tensor | None = None  # (B, L, D)
    lengths: tuple[int, ...] = ()  # how many of the L tokens are real
    frames: Tensor | None = None  # (B, T, D), frame-aligned notes
    draft: Tensor | None = None  # (B, 1 + T, M), from a frame early


def _mask(lengths: Sequence[int], rows: Tensor) -> Tensor | None:
    """(B, L), False in `rows` (B, L, ...) where they are padding; None where all are real."""
    if min(lengths) == rows.shape[1]:
        return None
    mask = rows.new_zeros(rows.shape[:2], dtype=torch.bool)
    for row, length in zip(mask, lengths, strict=True):
        row[:length] = True  # without waiting for the device, as a list of numbers would
    return mask


class DecoderLayer(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.self_norm = RMSNorm(config.width)
        self.self_film = FiLM(config)
        self.self_attention = Attention(config)
        self.cross_norm = RMSNorm(config.width)
        self.cross_attention = Attention(config)
        self.mlp_norm = RMSNorm(config.width)
        self.mlp_film = FiLM(config)
        self.mlp = MLP(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,
        films: tuple[Film, Film],
        memory: tuple[Tensor, Tensor] | None,
        mask: Tensor | None,
    ) -> Tensor:
        h = modulate(self.self_norm(x), films[0])
        x = x + self.dropout(self.self_attention(h, *self.self_attention.keys_values(h), None))
        if memory is not None:
            x = x + self.dropout(self.cross_attention(self.cross_norm(x), *memory, mask))
        return x + self.dropout(self.mlp(modulate(self.mlp_norm(x), films[1])))

    def films(self, level: Tensor) -> tuple[Film, Film]:
        """What an embedded noise level does before the self-attention, and before the MLP."""
        return self.self_film(level), self.mlp_film(level)


class MelDecoder(nn.Module):
    """What all decoders are: layers that read a memory through cross-attention."""

    layers: nn.ModuleList

    def remember(self, encoded: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Keys and values of the encodings (B, S, D), layer by layer."""
        for layer in self.layers:
            attention = layer.cross_attention
            assert isinstance(attention, Attention)
            yield attention.keys_values(encoded)


class Decoder(MelDecoder):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.level = NoiseLevel(config)
        self.input = nn.Linear(N_MELS, config.width, bias=False)
        self.position = nn.Embedding(WINDOW_FRAMES, config.width)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.decoder_layers))
        self.norm = RMSNorm(config.width)
        self.output = nn.Linear(config.width, N_MELS, bias=False)
        self.dropout = nn.Dropout(config.dropout)
        self._levels = LevelCache()

    def forward(self, noisy: Tensor, time: Tensor | float, memory: Memory | None) -> Tensor:
        """Noisy mel (B, T, M) at times (B,), or all at one time -> prediction (B, T, M)."""
        x = self.input(noisy) + self.position.weight[: noisy.shape[1]]
        if memory is not None and memory.frames is not None:
            x = x + memory.frames
        x = self.dropout(x)
        keys_values = memory.keys_values if memory is not None and memory.keys_values else None
        for index, (layer, films) in enumerate(zip(self.layers, self._films_at(time), strict=True)):
            pair = None if keys_values is None else keys_values[index]
            x = layer(x, films, pair, memory.mask if memory is not None else None)
        return self.output(self.dropout(self.norm(x)))

    def films(self, time: Tensor) -> LayerFilms:
        """What the noise levels at times (B,) do to each layer."""
        level = self.level(time)
        return [layer.films(level) for layer in self._each_layer()]

    def _films_at(self, time: Tensor | float) -> LayerFilms:
        if isinstance(time, Tensor):
            return self.films(time)
        films = [film for layer in self._each_layer() for film in (layer.self_film, layer.mlp_film)]
        linears = [self.level.hidden, self.level.out, *(film.scale_shift for film in films)]
        return self._levels.get(time, [linear.weight for linear in linears], self.films)

    def _each_layer(self) -> Iterator[DecoderLayer]:
        for layer in self.layers:
            assert isinstance(layer, DecoderLayer)
            yield layer

    def _apply(self, *args: Any, **kwargs: Any) -> "Decoder":
        self._levels.clear()  # the weights go to another device or into another number format
        return super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]


class TokenEncoder(nn.Module):
    """The paper's conditioning: note tokens as a sequence, read through cross-attention."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.num_embeddings, config.width)
        self.encoder = Encoder(config, config.note_layers, MAX_TOKENS)

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Ids (B, L), and a mask (B, L) where some are padding -> (B, L, D)."""
        return self.encoder(self.embedding(ids), mask)


class FrameEncoder(nn.Module):
    """Our conditioning: notes on the frames where they sound, added to the decoder's input."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.notes = NoteFrames(config.width, config.velocity_bins, config.note_width)
        self.encoder = Encoder(config, config.note_layers, WINDOW_FRAMES)

    def forward(self, table: Tensor) -> tuple[Tensor, Tensor]:
        """Notes (B, N, 6) -> frames (B, T, D) and draft mel (B, 1 + T, M), from a frame early."""
        features, draft = self.notes(table)
        return self.encoder(features), draft


class ContextEncoder(nn.Module):
    """The previous window's mel, read through cross-attention."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.input = nn.Linear(N_MELS, config.width, bias=False)
        self.encoder = Encoder(config, config.context_layers, WINDOW_FRAMES)
        self.tail = Tail(config.width, config.tail_frames) if config.tail_frames else None

    def forward(self, context: Tensor) -> Tensor:
        """Scaled mel (B, T, M) -> (B, T, D)."""
        return self.encoder(self.input(context))


class MelModel(nn.Module, ABC):
    """A network that turns notes, and the mel before them, into a mel.

    `encode` a window's notes and context, then `draw` its mel.
    """

    decoder: MelDecoder
    has_sampler: ClassVar[bool]  # whether `draw` heeds the sampler, its steps and the guidance

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        framed = config.conditioning == "frame_aligned"
        self.notes = FrameEncoder(config) if framed else TokenEncoder(config)
        self.context = ContextEncoder(config) if config.context_layers else None

    @abstractmethod
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
        """Draw the mels of B windows in [-1, 1], (B, T, M) float32.

        `noise` gives standard normal numbers (B, T, M), fresh ones at every call; `schedule` is
        that of the sampler 'diffusers'; `dtype` is the number format of the network's products;
        `on_step` is called with 1, 2, ... `progress_steps`. Raises OptionError for an unknown
        sampler or number of steps.
        """

    @abstractmethod
    def progress_steps(self, sampling: Sampling) -> int:
        """How many steps `draw` takes."""

    def narrow(self, dtype: torch.dtype) -> None:
        """Store the weights of products in a number format, for `draw` to compute in.

        Results are the same as if every product converted them. The notes' own layers stay as they
        are: some of them compute in float32 always.
        """
        if dtype is torch.float32:
            return
        note_frames = [module for module in self.modules() if isinstance(module, NoteFrames)]
        kept = {id(layer) for part in note_frames for layer in part.modules()}
        for layer in self.modules():
            if isinstance(layer, nn.Linear) and id(layer) not in kept:
                layer.to(dtype)

    def encode(self, notes: Tensor, context: Tensor | None, heard: Tensor | None = None) -> Memory:
        """`encode_notes` and `remember` in one."""
        return self.remember(self.encode_notes(notes), context, heard)

    def encode_notes(self, notes: Tensor, lengths: Sequence[int] | None = None) -> EncodedNotes:
        """What can be said of B windows before their contexts are there.

        `notes` are token ids (B, L) padded with 0, or note rows (B, N, 6) for frame-aligned models.
        `lengths` are those of the windows without padding; counting them waits for the device
        where the ids lie.
        """
        if not isinstance(self.notes, TokenEncoder):
            return EncodedNotes(None, (), *self.notes(notes))
        if lengths is None:
            lengths = (notes > 0).sum(1).tolist()
        ids = notes[:, : max(1, *lengths)]
        return EncodedNotes(self.notes(ids, _mask(lengths, ids)), tuple(lengths))

    def remember(
        self, notes: EncodedNotes, context: Tensor | None, heard: Tensor | None = None
    ) -> Memory:
        """What the decoder needs to know of B windows.

        `context` is the previous window's mel in [-1, 1], (B, T, M), or None where nothing came
        before; `heard` (B,) is False for the windows of a batch whose context is to be ignored.
        """
        frames, draft = notes.frames, None if notes.draft is None else notes.draft[:, 1:]
        parts, masks = [], []
        if notes.tokens is not None:
            parts.append(notes.tokens)
            masks.append(_mask(notes.lengths, notes.tokens))
        if context is not None and self.context is not None:
            parts.append(self.context(context))
            masks.append(None if heard is None else heard[:, None].expand(context.shape[:2]))
            if self.context.tail is not None and frames is not None and notes.draft is not None:
                here = 1 if heard is None else heard[:, None, None]
                features, correction = self.context.tail(context, notes.draft)
                frames, draft = frames + features * here, draft + correction * here
        keys_values = tuple(self.decoder.remember(torch.cat(parts, 1))) if parts else ()
        return Memory(keys_values, _joined_mask(masks, parts), frames, draft)


def _joined_mask(masks: Sequence[Tensor | None], parts: Sequence[Tensor]) -> Tensor | None:
    """The mask (B, S) over all parts (B, S', D), of which some are real as a whole: None."""
    if all(mask is None for mask in masks):
        return None
    pairs = zip(masks, parts, strict=True)
    every = [x.new_ones(x.shape[:2], dtype=torch.bool) if m is None else m for m, x in pairs]
    return torch.cat(every, 1)


class SpectrogramModel(MelModel):
    """The paper's model: a mel by diffusion, `denoise` once a step."""

    decoder: Decoder
    has_sampler = True

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.decoder = Decoder(config)

    def denoise(self, noisy: Tensor, time: Tensor | float, memory: Memory | None) -> Tensor:
        """Predict `config.target` from the noisy mel (B, T, M) at times (B,); (B, T, M).

        A number is the time of all of them: what it does to the layers is computed only once.
        Without memory nothing is known of notes and context: the unconditional pass of guidance.
        """
        predicted: Tensor = self.decoder(noisy, time, memory)
        if self.config.target == "x0" and memory is not None and memory.draft is not None:
            return predicted + memory.draft
        return predicted

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
        def predict(noisy: Tensor, time: float, memory: Memory | None) -> Tensor:
            with number_format(noisy.device, dtype):
                return self.denoise(noisy, time, memory).float()

        conditional: Predict = partial(predict, memory=memory)
        unconditional: Predict = partial(predict, memory=None)
        return sample(
            guide(conditional, unconditional, sampling.guidance),
            noise(),
            sampler=sampling.sampler,
            steps=sampling.steps,
            draw=noise,
            target=self.config.target,
            schedule=schedule,
            on_step=on_step,
        )

    def progress_steps(self, sampling: Sampling) -> int:
        return sampling.steps
