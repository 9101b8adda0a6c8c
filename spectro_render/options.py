"""Records of what a user chose, and of how far it is, that every part passes on. No torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class RenderOptions:
    """How to render; None stands for the model's own default.

    An autoregressive model takes no sampler, steps or guidance.
    """

    quality: str | None = None  # "fast" or "best": the model's presets of sampler and steps
    sampler: str | None = None  # one of diffusion.SAMPLERS
    steps: int | None = None
    guidance: float | None = None  # 1: none
    seed: int = 0
    gain: float | None = None  # dB
    start: float = 0.0  # seconds of the score to skip
    duration: float | None = None  # seconds to render; None: to the end and until it has rung out
    tail: float | None = None  # seconds after the last note; None: until it has rung out
    to_end_of_track: bool = False  # with the rests that the file ends with


@dataclass(frozen=True)
class Progress:
    """How far a song is: a share, 0 to 1, of window 1..windows is done."""

    window: int
    windows: int
    share: float

    @property
    def done(self) -> float:
        """Windows that are done, the share of the one under way included."""
        return self.window - 1 + self.share


OnProgress = Callable[[Progress], None]


@dataclass(frozen=True)
class Encoding:
    """How the sound is written."""

    format: str
    bit_depth: str | None = None  # None: the format's own
    sample_rate: int | None = None  # Hz; None: the model's


@dataclass(frozen=True)
class Sampling:
    """How the mels of a song are drawn, with every choice made.

    An autoregressive model heeds the seed alone.
    """

    sampler: str  # one of diffusion.SAMPLERS
    steps: int
    guidance: float  # 1: none
    seed: int


@dataclass(frozen=True)
class ModelChoice:
    """Which model renders, and on what; names as the user gave them."""

    name: str = "default"  # of a model or a directory, or OWNER/REPO of the Hugging Face Hub
    vocoder: str | None = None  # a kind, another model or an ONNX file; None: the model's best
    device: str = "auto"
    dtype: str = "auto"  # number format of the network's products
