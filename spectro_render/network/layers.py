"""The Transformer's blocks, in the form that T5 has in version 1.1.

Raffel et al., arXiv 1910.10683, with the gated MLP of Shazeer, arXiv 2002.05202.
B windows, S keys, T queries, D = width, H heads of width d.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spectro_render.constants import WINDOW_FRAMES

if TYPE_CHECKING:
    from spectro_render.network.config import ModelConfig


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
        """Attend from (B, T, D) to S keys; mask (B, S) is False where a key must not be seen."""
        attended = attend(self._split(self.query(x)), keys, values, mask, causal=causal)
        return self.out(attended.transpose(1, 2).flatten(2))  # (B, H, T, d) -> (B, T, H d) -> D

    def _split(self, x: Tensor) -> Tensor:
        split = x.view(*x.shape[:-1], self.heads, -1)  # (B, S, H d) -> (B, S, H, d)
        return split.transpose(1, 2)  # (B, H, S, d)


class KeyValueCache:
    """Keys and values of one layer for a window's frames so far, so that none is computed twice."""

    def __init__(self) -> None:
        self.length = 0  # frames
        self._stored: tuple[Tensor, Tensor] | None = None

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add the keys and values (B, H, t, d) of the next frames; returns all frames' so far."""
        if self._stored is None:
            shape = (*keys.shape[:2], WINDOW_FRAMES, keys.shape[3])
            self._stored = keys.new_empty(shape), values.new_empty(shape)
        start, self.length = self.length, self.length + keys.shape[2]
        all_keys, all_values = self._stored
        all_keys[:, :, start : self.length] = keys
        all_values[:, :, start : self.length] = values
        return all_keys[:, :, : self.length], all_values[:, :, : self.length]


def attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *, causal: bool = False
) -> Tensor:
    """Softmax attention of queries (B, H, T, d) to keys and values (B, H, S, d): (B, H, T, d).

    `mask` (B, S) is False where a key must not be seen; where none may be, the result is zero, as
    in the paper's code. `causal` is for use without a mask: the queries are the sequence's last
    ones, and none of them sees a later key.
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


def gelu(x: Tensor) -> Tensor:
    """GELU in its tanh form (Hendrycks and Gimpel, arXiv 1606.08415), any shape.

    It equals x sigmoid(2 u) with u = sqrt(2 / pi) (x + 0.044715 x^3). Written like this it takes
    half the time of torch's own on a CPU; torch's is better for gradients, on other devices, and
    in formats coarser than float32.
    """
    if torch.is_grad_enabled() or x.device.type != "cpu" or x.dtype is not torch.float32:
        return F.gelu(x, approximate="tanh")
    twice = 2 * math.sqrt(2 / math.pi)
    return x.square().mul_(twice * 0.044715).add_(twice).mul_(x).sigmoid_().mul_(x)


class MLP(nn.Module):
    """An MLP with a gate: down(gelu(gate(x)) * up(x)), (..., D) -> (..., D)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate = nn.Linear(config.width, config.mlp_width, bias=False)
        self.up = nn.Linear(config.width, config.mlp_width, bias=False)
        self.down = nn.Linear(config.mlp_width, config.width, bias=False)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.dropout(gelu(self.gate(x)) * self.up(x)))


class EncoderLayer(nn.Module):
    """Self-attention and an MLP, each after a norm and with a residual connection."""

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


class Encoder(nn.Module):
    """A Transformer encoder: learned positions, layers and a final norm."""

    def __init__(self, config: ModelConfig, layers: int, length: int) -> None:
        super().__init__()
        self.position = nn.Embedding(length, config.width)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(layers))
        self.norm = RMSNorm(config.width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Encode (B, S, D) as (B, S, D); mask (B, S) is False at padding."""
        x = self.dropout(x + self.position.weight[: x.shape[1]])
        for layer in self.layers:
            x = layer(x, mask)
        return self.dropout(self.norm(x))
