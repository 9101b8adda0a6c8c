"""The diffusion Transformer: notes, the previous mel and a noisy mel -> a less noisy mel.

It is assembled from `layers` and `film` as Hawthorne et al., arXiv 2206.05408, describe it; notes
aligned with frames (`frames`) are this project's. B windows, L tokens, N notes, T = 256 frames,
M = 128 mel bands, D = width, S encoded positions, H heads of width d.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from spectro_render.constants import MAX_TOKENS, N_MELS, WINDOW_FRAMES
from spectro_render.diffusion import DiscreteSchedule, Predict, guide, sample, sampling_levels
from spectro_render.network.config import ModelConfig
from spectro_render.network.device import number_format
from spectro_render.network.film import FiLM, LayerFilms, NoiseLevel, modulate
from spectro_render.network.frames import NoteFrames, Tail
from spectro_render.network.layers import MLP, Attention, Encoder, KeyValueCache, RMSNorm
from spectro_render.options import Sampling

LEVELS_AT_ONCE = 64  # noise levels whose films are computed in one product: 9 MB at base size


@dataclass(frozen=True, eq=False)
class Memory:
    """The encoded notes and context of B windows, which the decoder reads in every step."""

    keys_values: tuple[tuple[Tensor, Tensor], ...]  # for each decoder layer, (B, H, S, d) each
    mask: Tensor | None = None  # (B, S), False where a key is padding; None: there is none
    frames: Tensor | None = None  # (B, T, D), frame-aligned notes
    draft: Tensor | None = None  # (B, T, M), additive estimate of the mel


@dataclass(frozen=True, eq=False)
class EncodedNotes:
    """The encoded notes of B windows, which do not depend on earlier windows."""

    tokens: Tensor | None = None  # (B, L, D)
    lengths: tuple[int, ...] = ()  # how many of the L tokens are real
    frames: Tensor | None = None  # (B, T, D), frame-aligned notes
    draft: Tensor | None = None  # (B, 1 + T, M), beginning one frame early
    settled: Tensor | None = None  # (B, 1, M), the share of that frame that `Tail` may compare

    def windows(self) -> Iterator["EncodedNotes"]:
        """Each of the B windows alone, of frame-aligned notes."""
        assert self.frames is not None and self.draft is not None and self.settled is not None
        parts = (torch.split(part, 1) for part in (self.frames, self.draft, self.settled))
        for frames, draft, settled in zip(*parts, strict=True):
            yield EncodedNotes(None, (), frames, draft, settled)

    @staticmethod
    def joined(parts: Sequence["EncodedNotes"]) -> "EncodedNotes":
        """What `windows` yields as one; at least one part."""
        if len(parts) == 1:
            return parts[0]
        rows = ((p.frames, p.draft, p.settled) for p in parts)
        return EncodedNotes(None, (), *(torch.cat(column) for column in zip(*rows, strict=True)))


def _mask(lengths: Sequence[int], rows: Tensor) -> Tensor | None:
    """A mask (B, L), False where `rows` (B, L, ...) are padding; None where there is no padding."""
    if min(lengths) == rows.shape[1]:
        return None
    mask = rows.new_zeros(rows.shape[:2], dtype=torch.bool)
    for row, length in zip(mask, lengths, strict=True):
        row[:length] = True  # without waiting for the device, as a list of numbers would
    return mask


class DecoderLayer(nn.Module):
    """Self-attention, attention to the memory, and an MLP, each with a norm and a residual.

    In a diffusion decoder every frame attends to all frames, and FiLM conditions the layer on the
    noise level. In an autoregressive decoder no frame attends to a later one, and there is no FiLM.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.is_causal = config.decoder == "autoregressive"
        self.self_norm = RMSNorm(config.width)
        self.self_film = None if self.is_causal else FiLM(config)
        self.self_attention = Attention(config)
        self.cross_norm = RMSNorm(config.width)
        self.cross_attention = Attention(config)
        self.mlp_norm = RMSNorm(config.width)
        self.mlp_film = None if self.is_causal else FiLM(config)
        self.mlp = MLP(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,
        memory: tuple[Tensor, Tensor] | None,
        mask: Tensor | None,
        *,
        films: LayerFilms | None = None,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """Features (B, T, D) -> (B, T, D).

        `memory` holds keys and values (B, H, S, d) each, `mask` (B, S) is False where they are
        padding. With a cache, the T frames follow those that it holds.
        """
        h = self.self_norm(x)
        if films is not None:
            h = modulate(h, films.attention)
        keys, values = self.self_attention.keys_values(h)
        if cache is not None:
            keys, values = cache.extend(keys, values)
        attended = self.self_attention(h, keys, values, None, causal=self.is_causal)
        x = x + self.dropout(attended)
        if memory is not None:
            x = x + self.dropout(self.cross_attention(self.cross_norm(x), *memory, mask))
        h = self.mlp_norm(x)
        if films is not None:
            h = modulate(h, films.mlp)
        return x + self.dropout(self.mlp(h))

    def films(self, level: Tensor) -> LayerFilms:
        """Factors and shifts of a diffusion layer at embedded noise levels (B, level_width)."""
        assert self.self_film is not None and self.mlp_film is not None
        return LayerFilms(self.self_film(level), self.mlp_film(level))


class MelDecoder(nn.Module):
    """The base of both decoders: layers that read a memory through cross-attention."""

    layers: Sequence[DecoderLayer]

    def remember(self, encoded: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Keys and values (B, H, S, d) of encodings (B, S, D), layer by layer."""
        for layer in self.layers:
            yield layer.cross_attention.keys_values(encoded)


def decoder_layers(config: ModelConfig) -> Sequence[DecoderLayer]:
    """Make the layers of a decoder, in a module list."""
    layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.decoder_layers))
    return cast(Sequence[DecoderLayer], layers)


class Decoder(MelDecoder):
    """The diffusion decoder: a noisy mel at a noise level -> a prediction of `config.target`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.level = NoiseLevel(config)
        self.input = nn.Linear(N_MELS, config.width, bias=False)
        self.position = nn.Embedding(WINDOW_FRAMES, config.width)
        self.layers = decoder_layers(config)
        self.norm = RMSNorm(config.width)
        self.output = nn.Linear(config.width, N_MELS, bias=False)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, noisy: Tensor, films: Sequence[LayerFilms], memory: Memory | None) -> Tensor:
        """Predict (B, T, M) from a noisy mel (B, T, M), given each layer's factors and shifts."""
        x = self.input(noisy) + self.position.weight[: noisy.shape[1]]
        if memory is not None and memory.frames is not None:
            x = x + memory.frames
        x = self.dropout(x)
        keys_values = memory.keys_values if memory is not None and memory.keys_values else None
        mask = memory.mask if memory is not None else None
        for index, layer in enumerate(self.layers):
            pair = None if keys_values is None else keys_values[index]
            x = layer(x, pair, mask, films=films[index])
        return self.output(self.dropout(self.norm(x)))

    def films(self, times: Tensor) -> list[LayerFilms]:
        """Factors and shifts of each layer at the noise levels of diffusion times (B,)."""
        level = self.level(times)
        return [layer.films(level) for layer in self.layers]

    def films_by_time(self, times: Sequence[float]) -> dict[float, list[LayerFilms]]:
        """Factors and shifts of each layer at each of N <= LEVELS_AT_ONCE diffusion times.

        All noise levels go through one product, so the weights, many times larger than a level, are
        read once instead of N times.
        """
        device = self.position.weight.device
        # A tensor of all of them would have to be copied, which waits for the device.
        films = self.films(torch.cat([torch.full((1,), time, device=device) for time in times]))
        return {time: [layer.at(row) for layer in films] for row, time in enumerate(times)}


class TokenEncoder(nn.Module):
    """The paper's conditioning: encodes note tokens as a sequence, for cross-attention."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.num_embeddings, config.width)
        self.encoder = Encoder(config, config.note_layers, MAX_TOKENS)

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Encode ids (B, L) as (B, L, D); mask (B, L) is False at padding."""
        return self.encoder(self.embedding(ids), mask)


class FrameEncoder(nn.Module):
    """This project's conditioning: notes on the frames where they sound.

    The encoded frames are added to the decoder's input.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.notes = NoteFrames(config)
        self.encoder = Encoder(config, config.note_layers, WINDOW_FRAMES)

    def forward(
        self, table: Tensor, drafted: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Notes (B, N, 6) -> encoded frames (B, T, D), draft (B, 1 + T, M), share (B, 1, M).

        Draft and share are what `NoteFrames` returns, for which `drafted` is meant.
        """
        features, draft, share = self.notes(table, drafted)
        return self.encoder(features), draft, share


class ContextEncoder(nn.Module):
    """Encodes the previous window's mel, for cross-attention."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.input = nn.Linear(N_MELS, config.width, bias=False)
        self.encoder = Encoder(config, config.context_layers, WINDOW_FRAMES)
        self.tail = Tail(config.width, config.tail_frames) if config.tail_frames else None

    def forward(self, context: Tensor) -> Tensor:
        """Encode a mel in [-1, 1], (B, T, M), as (B, T, D)."""
        return self.encoder(self.input(context))


class MelModel(nn.Module, ABC):
    """A network that draws a window's mel from its notes and the previous window's mel.

    Call `encode` for the window's notes and context, then `draw` for its mel.
    """

    decoder: MelDecoder
    has_sampler: ClassVar[bool]  # whether `draw` uses the sampler, its steps and the guidance

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

        `noise` gives standard normal numbers (B, T, M), fresh ones at every call. `schedule` is
        for the sampler 'diffusers' only. `dtype` is the number format of the network's products.
        `on_step` is called with 1, 2, ... `progress_steps`. Raises OptionError for an unknown
        sampler or an impossible number of steps.
        """

    @abstractmethod
    def progress_steps(self, sampling: Sampling) -> int:
        """The number of steps that `draw` takes, as `on_step` counts them."""

    def narrow(self, dtype: torch.dtype) -> None:
        """Convert the weights of linear layers to the number format that `draw` computes in.

        Results are the same as if every product converted them. The layers of `NoteFrames` stay as
        they are, because some of them always compute in float32.
        """
        if dtype is torch.float32:
            return
        note_frames = [module for module in self.modules() if isinstance(module, NoteFrames)]
        kept = {id(layer) for part in note_frames for layer in part.modules()}
        for layer in self.modules():
            if isinstance(layer, nn.Linear) and id(layer) not in kept:
                layer.to(dtype)

    def encode(
        self,
        notes: Tensor,
        context: Tensor | None,
        has_context: Tensor | None = None,
        drafted: tuple[Tensor, Tensor] | None = None,
    ) -> Memory:
        """Make the memory of B windows; for the arguments see `encode_notes` and `remember`."""
        return self.remember(self.encode_notes(notes, drafted=drafted), context, has_context)

    def encode_notes(
        self,
        notes: Tensor,
        lengths: Sequence[int] | None = None,
        drafted: tuple[Tensor, Tensor] | None = None,
    ) -> EncodedNotes:
        """Encode the notes of B windows, which is possible before earlier windows are drawn.

        `notes` are token ids (B, L) padded with 0, or note rows (B, N, 6) for frame-aligned models.
        `lengths` are the numbers of ids of each window without padding. If None, they are counted,
        which waits for the device where the ids lie. `drafted` is the draft of a frame-aligned
        model, where `NoteFrames.draw_draft` has made it before.
        """
        if not isinstance(self.notes, TokenEncoder):
            return EncodedNotes(None, (), *self.notes(notes, drafted))
        if lengths is None:
            lengths = (notes > 0).sum(1).tolist()
        ids = notes[:, : max(1, *lengths)]
        return EncodedNotes(self.notes(ids, _mask(lengths, ids)), tuple(lengths))

    def remember(
        self, notes: EncodedNotes, context: Tensor | None, has_context: Tensor | None = None
    ) -> Memory:
        """Make the memory of B windows from their notes and the previous windows' mels.

        `context` is the previous window's mel in [-1, 1], (B, T, M), or None at a song's start.
        `has_context` (B,) is False for windows whose context is to be ignored.
        """
        frames, draft = notes.frames, None if notes.draft is None else notes.draft[:, 1:]
        parts, masks = [], []
        if notes.tokens is not None:
            parts.append(notes.tokens)
            masks.append(_mask(notes.lengths, notes.tokens))
        if context is not None and self.context is not None:
            parts.append(self.context(context))
            masks.append(
                None if has_context is None else has_context[:, None].expand(context.shape[:2])
            )
            if self.context.tail is not None and frames is not None:
                assert notes.draft is not None and notes.settled is not None
                here = 1 if has_context is None else has_context[:, None, None]
                features, correction = self.context.tail(context, notes.draft, notes.settled)
                frames, draft = frames + features * here, draft + correction * here
        keys_values = tuple(self.decoder.remember(torch.cat(parts, 1))) if parts else ()
        return Memory(keys_values, _joined_mask(masks, parts), frames, draft)


def _joined_mask(masks: Sequence[Tensor | None], parts: Sequence[Tensor]) -> Tensor | None:
    """Join the masks (B, S') of parts (B, S', D) in a row to one, (B, S); None: no padding."""
    if all(mask is None for mask in masks):
        return None
    pairs = zip(masks, parts, strict=True)
    every = [x.new_ones(x.shape[:2], dtype=torch.bool) if m is None else m for m, x in pairs]
    return torch.cat(every, 1)


class SpectrogramModel(MelModel):
    """The paper's model, which draws mels by diffusion."""

    decoder: Decoder
    has_sampler = True

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.decoder = Decoder(config)

    def denoise(self, noisy: Tensor, time: Tensor, memory: Memory | None) -> Tensor:
        """Predict `config.target`, (B, T, M), from noisy mels (B, T, M) at diffusion times (B,).

        A single time (1,) applies to all windows. The unconditional pass of guidance has no memory:
        it uses neither notes nor context.
        """
        return self._denoise(noisy, self.decoder.films(time), memory)

    def _denoise(self, noisy: Tensor, films: Sequence[LayerFilms], memory: Memory | None) -> Tensor:
        predicted: Tensor = self.decoder(noisy, films, memory)
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
        levels = sampling_levels(sampling.sampler, sampling.steps, schedule or DiscreteSchedule())
        times = [level.time for level in levels[:-1]]
        films: dict[float, list[LayerFilms]] = {}  # of the next few steps, by diffusion time

        def predict(noisy: Tensor, time: float, memory: Memory | None) -> Tensor:
            nonlocal films
            with number_format(noisy.device, dtype):
                if time not in films:
                    first = times.index(time)
                    films = self.decoder.films_by_time(times[first : first + LEVELS_AT_ONCE])
                return self._denoise(noisy, films[time], memory).float()

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
