"""4 · The Transformer: notes + previous mel + noisy mel -> a prediction about the noise.

T5.1.1 blocks (Raffel et al., arXiv 1910.10683; Shazeer, arXiv 2002.05202), FiLM by the noise level
(Perez et al., arXiv 1709.07871), assembled as Hawthorne et al., arXiv 2206.05408, describe it.
B windows, L tokens, N notes, T = 256 frames, M = 128 mel bands, D = width, H heads of width d.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spectro_render.conditioning import NoteFrames, Tail
from spectro_render.constants import MAX_TOKENS, N_MELS, WINDOW_FRAMES

MAX_NOISE_TIME = 20_000.0  # both the scale of the diffusion time and the longest period


@dataclass(frozen=True)
class ModelConfig:
    """Everything that fixes the network's shape and meaning. Defaults: the published base model."""

    width: int = 768
    heads: int = 12
    head_width: int = 64
    mlp_width: int = 2048
    note_layers: int = 12
    context_layers: int = 12  # 0: no context encoder
    decoder_layers: int = 12
    level_width: int = 4 * 768  # of the embedded noise level that drives FiLM
    dropout: float = 0.1
    conditioning: Literal["cross_attention", "frame_aligned"] = "cross_attention"
    target: Literal["epsilon", "v", "x0"] = "epsilon"  # what the decoder predicts
    num_embeddings: int = 1536  # rows of the token table (cross_attention)
    note_width: int = 0  # of a note's embedding (frame_aligned)
    tail_frames: int = 0  # of the context, laid over the first frames (frame_aligned)
    memory_steps: int = 0  # of 10 ms: how long ended notes are known; 0: tied ones not even
    velocity_bins: int = 1
    programs: Literal["slakh34", "full"] = "slakh34"
    decoder: Literal["diffusion", "autoregressive"] = "diffusion"

    # Of autoregressive models only, under the names that the paper's code has for them.
    output_function: Literal["deterministic", "gaussian_mixture"] = "deterministic"
    components: int = 8  # of the mixture; the paper's code names no number
    min_sigma: float = 0.1  # of a component, on the model's scale
    max_sigma: float = 1.0
    dither: float = 0.0  # deviation of the noise on deterministic frames

    def __post_init__(self) -> None:
        if self.memory_steps and self.conditioning != "frame_aligned":
            raise ValueError(f"memory_steps is {self.memory_steps}, but notes are not on frames")
        joins = self.conditioning == "frame_aligned" and self.context_layers > 0
        if self.tail_frames and not (joins and self.tail_frames <= WINDOW_FRAMES):
            raise ValueError(f"tail_frames is {self.tail_frames}, but none can be laid over notes")


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

    def __len__(self) -> int:
        encoded = self.frames if self.tokens is None else self.tokens
        return 0 if encoded is None else len(encoded)

    def rows(self, indices: Sequence[int]) -> "EncodedNotes":
        """Those of some of the windows, cut to the longest of them."""
        return EncodedNotes.join([self._row(index) for index in indices])

    @staticmethod
    def join(parts: Sequence["EncodedNotes"]) -> "EncodedNotes":
        """The windows of several batches as one, padded to the longest."""
        if len(parts) == 1:
            return parts[0]
        lengths = tuple(length for part in parts for length in part.lengths)
        return EncodedNotes(
            _padded([part.tokens for part in parts], max(lengths, default=0)),
            lengths,
            _joined([part.frames for part in parts]),
            _joined([part.draft for part in parts]),
        )

    def mask(self) -> Tensor | None:
        """(B, L), False where a token is padding; None where all are real."""
        if self.tokens is None or min(self.lengths) == self.tokens.shape[1]:
            return None
        return _first(self.lengths, self.tokens)

    def _row(self, index: int) -> "EncodedNotes":
        here, lengths = slice(index, index + 1), self.lengths[index : index + 1]
        return EncodedNotes(
            None if self.tokens is None else self.tokens[here, : max(1, *lengths)],
            lengths,
            None if self.frames is None else self.frames[here],
            None if self.draft is None else self.draft[here],
        )


def _joined(parts: Sequence[Tensor | None]) -> Tensor | None:
    present = [part for part in parts if part is not None]
    return torch.cat(present) if present else None


def _padded(parts: Sequence[Tensor | None], length: int) -> Tensor | None:
    """(B', L', D) each -> (B, L, D), zeros where they are shorter."""
    return _joined(
        [None if x is None else F.pad(x, (0, 0, 0, length - x.shape[1])) for x in parts]
    )


def _first(lengths: Sequence[int], like: Tensor) -> Tensor:
    """A mask (B, L) that is True in the first `lengths` columns of each row."""
    columns = torch.arange(like.shape[1], device=like.device)
    return columns < torch.tensor(lengths, device=like.device)[:, None]


class RMSNorm(nn.Module):
    """Root-mean-square norm without mean or bias (Zhang and Sennrich, arXiv 1910.07467)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, eps=1e-6)


class Attention(nn.Module):
    """Multi-head attention without bias and, as in T5, without division by sqrt(d)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        inner = config.heads * config.head_width
        self.heads = config.heads
        self.query = nn.Linear(config.width, inner, bias=False)
        self.key = nn.Linear(config.width, inner, bias=False)
        self.value = nn.Linear(config.width, inner, bias=False)
        self.out = nn.Linear(inner, config.width, bias=False)

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, S, D) -> keys and values, (B, H, S, d) each."""
        return self._split(self.key(x)), self._split(self.value(x))

    def forward(
        self, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, *, causal: bool = False
    ) -> Tensor:
        """Queries (B, T, D) over S keys; mask (B, S) is False where a key must not be seen."""
        attended = attend(self._split(self.query(x)), keys, values, mask, causal=causal)
        return self.out(attended.transpose(1, 2).flatten(2))  # (B, H, T, d) -> (B, T, H d) -> D

    def _split(self, x: Tensor) -> Tensor:
        split = x.view(*x.shape[:-1], self.heads, -1)  # (B, S, H d) -> (B, S, H, d)
        return split.transpose(1, 2)  # (B, H, S, d)


def attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *, causal: bool = False
) -> Tensor:
    """Softmax attention; where every key is masked the result is zero, as in the paper's code.

    `causal`, without a mask: the queries are the last of the sequence and look at no later key.
    """
    allowed = None if mask is None else mask[:, None, None, :]
    if causal and query.shape[2] > 1:
        every = query.new_ones(query.shape[2], key.shape[2], dtype=torch.bool)
        allowed = every.tril(key.shape[2] - query.shape[2])
    if not (torch.is_grad_enabled() and query.device.type == "cpu"):
        return F.scaled_dot_product_attention(query, key, value, allowed, scale=1.0)
    scores = query @ key.transpose(-1, -2)  # on a CPU the fused backward is the slower one
    if allowed is None:
        return scores.softmax(-1) @ value
    weights = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min).softmax(-1)
    return (weights * allowed.any(-1, keepdim=True)) @ value


class MLP(nn.Module):
    """Gated GELU (tanh form)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate = nn.Linear(config.width, config.mlp_width, bias=False)
        self.up = nn.Linear(config.width, config.mlp_width, bias=False)
        self.down = nn.Linear(config.mlp_width, config.width, bias=False)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.dropout(F.gelu(self.gate(x), approximate="tanh") * self.up(x)))


class FiLM(nn.Module):
    """Scale and shift by the noise level: x (1 + scale) + shift."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.scale_shift = nn.Linear(config.level_width, 2 * config.width, bias=False)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        scale, shift = self.scale_shift(level).unsqueeze(-2).chunk(2, -1)  # (B, 1, D) each
        return x * (1 + scale) + shift


class EncoderLayer(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.width)
        self.attention = Attention(config)
        self.mlp_norm = RMSNorm(config.width)
        self.mlp = MLP(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        h = self.attention_norm(x)
        x = x + self.dropout(self.attention(h, *self.attention.keys_values(h), mask))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))


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
        self, x: Tensor, level: Tensor, memory: tuple[Tensor, Tensor] | None, mask: Tensor | None
    ) -> Tensor:
        h = self.self_film(self.self_norm(x), level)
        x = x + self.dropout(self.self_attention(h, *self.self_attention.keys_values(h), None))
        if memory is not None:
            x = x + self.dropout(self.cross_attention(self.cross_norm(x), *memory, mask))
        return x + self.dropout(self.mlp(self.mlp_film(self.mlp_norm(x), level)))


class Encoder(nn.Module):
    """Position table, blocks and final norm: the form of all three encoders."""

    def __init__(self, config: ModelConfig, layers: int, length: int) -> None:
        super().__init__()
        self.position = nn.Embedding(length, config.width)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(layers))
        self.norm = RMSNorm(config.width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, S, D), mask (B, S) -> (B, S, D)."""
        x = self.dropout(x + self.position.weight[: x.shape[1]])
        for layer in self.layers:
            x = layer(x, mask)
        return self.dropout(self.norm(x))


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

    def forward(self, noisy: Tensor, time: Tensor, memory: Memory | None) -> Tensor:
        level = self.level(time)
        x = self.input(noisy) + self.position.weight[: noisy.shape[1]]
        if memory is not None and memory.frames is not None:
            x = x + memory.frames
        x = self.dropout(x)
        keys_values = memory.keys_values if memory is not None and memory.keys_values else None
        for index, layer in enumerate(self.layers):
            pair = None if keys_values is None else keys_values[index]
            x = layer(x, level, pair, memory.mask if memory is not None else None)
        return self.output(self.dropout(self.norm(x)))


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


class MelModel(nn.Module):
    """The encoders, and the memory that they leave for a decoder of either kind."""

    decoder: MelDecoder

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        framed = config.conditioning == "frame_aligned"
        self.notes = FrameEncoder(config) if framed else TokenEncoder(config)
        self.context = ContextEncoder(config) if config.context_layers else None

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
        mask = None if min(lengths) == ids.shape[1] else _first(lengths, ids)
        return EncodedNotes(self.notes(ids, mask), tuple(lengths))

    def remember(
        self, notes: EncodedNotes, context: Tensor | None, heard: Tensor | None = None
    ) -> Memory:
        """What the decoder needs to know of B windows.

        `context` is the previous window's mel in [-1, 1], (B, T, M), or None where nothing came
        before; `heard` (B,) is False for the windows of a batch whose context is to be ignored.
        """
        frames, draft = notes.frames, None if notes.draft is None else notes.draft[:, 1:]
        parts, mask = [], notes.mask()
        if notes.tokens is not None:
            parts.append(notes.tokens)
        if context is not None and self.context is not None:
            parts.append(self.context(context))
            if self.context.tail is not None and frames is not None and notes.draft is not None:
                here = 1 if heard is None else heard[:, None, None]
                features, correction = self.context.tail(context, notes.draft)
                frames, draft = frames + features * here, draft + correction * here
            mask = _joined_mask(mask, heard, parts)
        keys_values = tuple(self.decoder.remember(torch.cat(parts, 1))) if parts else ()
        return Memory(keys_values, mask, frames, draft)


def _joined_mask(
    notes: Tensor | None, heard: Tensor | None, parts: Sequence[Tensor]
) -> Tensor | None:
    """The mask over all parts, (B, S); the last is a context of which all or nothing is heard."""
    if notes is None and heard is None:
        return None
    everywhere = [part.new_ones(part.shape[:2], dtype=torch.bool) for part in parts]
    if notes is not None:
        everywhere[0] = notes
    if heard is not None:
        everywhere[-1] = everywhere[-1] & heard[:, None]
    return torch.cat(everywhere, 1)


class SpectrogramModel(MelModel):
    """The paper's model. Two verbs: `encode` once a window, `denoise` once a step."""

    decoder: Decoder

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.decoder = Decoder(config)

    def denoise(self, noisy: Tensor, time: Tensor, memory: Memory | None) -> Tensor:
        """Predict `config.target` from the noisy mel (B, T, M) at time (B,); (B, T, M).

        Without memory nothing is known of notes and context: the unconditional pass of guidance.
        """
        predicted: Tensor = self.decoder(noisy, time, memory)
        if self.config.target == "x0" and memory is not None and memory.draft is not None:
            return predicted + memory.draft
        return predicted
