"""6 · Log-mel -> samples: a MelGAN-style network, and Griffin-Lim where there are no weights.

    log-mel -> scaled -> convolutions -> upsampling stages -> head -> samples

The classic MelGAN (Kumar et al., 2019) upsamples 8 x 5 x 4 x 2 = 320 times and ends in a waveform.
The spectrum head needs no upsampling: it predicts the magnitudes of a wider STFT than the mel's,
and `phase` turns them into sound. All vocoders here are local: a sample depends on at most
`receptive_field` frames before and after its own, so `StreamingVocoder` joins pieces seamlessly.
Letters: B batch, T mel frames, C channels, K frequency bins.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.parametrize import is_parametrized, remove_parametrizations

from spectro_render.constants import HOP_LENGTH, N_FFT, N_MELS, SAMPLE_RATE, WIN_LENGTH
from spectro_render.mel import hz_to_mel, mel_matrix, to_model
from spectro_render.phase import Stft, sound

LEAKY_SLOPE = 0.2  # MelGAN's
INPUT_KERNEL = 7
MAX_LOG_MAGNITUDE = 9.0  # natural log; a full-scale sine reaches 6.5 under 1280 samples of Hann
SEGMENT = 64  # frames over which Griffin-Lim's start phases are tracked


class Vocoder(Protocol):
    """What `StreamingVocoder` needs of a vocoder."""

    receptive_field: int  # frames of context that a frame's samples need on each side
    period: int  # pieces must start at a multiple of so many frames of the whole

    def __call__(self, log_mel: Tensor, /) -> Tensor:
        """Natural log-mel (B, T, 128) -> samples (B, 320 T)."""


@dataclass(frozen=True)
class VocoderConfig:
    """The shape of the network; goes into a model directory's config.json."""

    channels: int = 384  # halved by every upsampling stage
    dilations: tuple[int, ...] = (1, 3, 9, 1, 3, 9)  # of the residual units at the mel's frame rate
    upsample: tuple[int, ...] = ()  # a product of 320 for the waveform head
    stage_dilations: tuple[int, ...] = (1, 3, 9)  # of the residual units after each upsampling
    head: Literal["spectrum", "waveform"] = "spectrum"
    window: int = 1280  # samples under the spectrum head's Hann window
    segment: int = SEGMENT  # frames between fixed phases
    iterations: int = 10  # of Griffin-Lim, to make the phases consistent

    def __post_init__(self) -> None:
        """Raise ValueError for a network that cannot be built."""
        rate = math.prod(self.upsample)
        if self.head == "waveform" and rate != HOP_LENGTH:
            raise ValueError(f"upsampling stages multiply to {rate}, not {HOP_LENGTH}")
        if HOP_LENGTH % rate:
            raise ValueError(f"{HOP_LENGTH} samples a frame cannot be divided by {rate}")
        if self.channels % 2 ** len(self.upsample):
            raise ValueError(
                f"{self.channels} channels cannot be halved {len(self.upsample)} times"
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "VocoderConfig":
        """The inverse of `to_dict`, also after a trip through JSON (lists for tuples)."""
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


class ResidualUnit(nn.Module):
    """A dilated and a pointwise convolution beside a shortcut, (B, C, T) -> the same."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.dilated = _conv(channels, channels, 3, dilation)
        self.pointwise = _conv(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) -> (B, C, T)."""
        y = self.dilated(F.leaky_relu(x, LEAKY_SLOPE))
        return x + self.pointwise(F.leaky_relu(y, LEAKY_SLOPE))


class UpsampleStage(nn.Module):
    """A transposed convolution, then residual units: (B, C, T) -> (B, C/2, factor T)."""

    def __init__(self, channels: int, factor: int, dilations: Iterable[int]) -> None:
        super().__init__()
        half = channels // 2
        self.upsample = weight_norm(
            nn.ConvTranspose1d(
                channels,
                half,
                kernel_size=2 * factor,
                stride=factor,
                padding=(factor + 1) // 2,
                output_padding=factor % 2,
            )
        )
        self.units = nn.Sequential(*(ResidualUnit(half, dilation) for dilation in dilations))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) -> (B, C/2, factor T)."""
        units: Tensor = self.units(self.upsample(F.leaky_relu(x, LEAKY_SLOPE)))
        return units


class WaveformHead(nn.Module):
    """MelGAN's own ending: features at the sample rate -> samples."""

    period = 1

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.output = _conv(channels, 1, INPUT_KERNEL)

    def forward(self, features: Tensor, log_mel: Tensor) -> Tensor:
        """Features (B, C, 320 T) -> samples (B, 320 T); the log-mel is not needed."""
        return torch.tanh(self.output(F.leaky_relu(features, LEAKY_SLOPE)))[:, 0]

    def reach(self, first: int, last: int) -> tuple[int, int]:
        """The features that samples `first` to `last` hear."""
        return first - INPUT_KERNEL // 2, last + INPUT_KERNEL // 2


class SpectrumHead(nn.Module):
    """Features -> log magnitudes, as a correction of the mel's own, -> samples."""

    def __init__(self, channels: int, rate: int, config: VocoderConfig) -> None:
        """`rate`: spectra a mel frame."""
        super().__init__()
        self.rate, self.segment, self.iterations = rate, config.segment, config.iterations
        self.period = config.segment // math.gcd(config.segment, rate)
        self.stft = Stft(config.window, HOP_LENGTH // rate, config.window)
        self.output = _conv(channels, self.stft.bins, 1)
        self.register_buffer("spread", _band_to_bin(self.stft.bins), persistent=False)

    def forward(self, features: Tensor, log_mel: Tensor) -> Tensor:
        """Features (B, C, rate T), log-mel (B, T, 128) -> samples (B, 320 T)."""
        magnitude = self.log_magnitude(features, log_mel).exp()
        samples = sound(magnitude, self.stft, self.segment, self.iterations)
        return self.stft.crop(samples, log_mel.shape[1] * HOP_LENGTH)

    def log_magnitude(self, features: Tensor, log_mel: Tensor) -> Tensor:
        """Features (B, C, rate T), log-mel (B, T, 128) -> natural log magnitudes (B, rate T, K)."""
        assert isinstance(self.spread, Tensor)
        outline = (log_mel.float().exp() @ self.spread).log().repeat_interleave(self.rate, 1)
        correction = self.output(F.leaky_relu(features, LEAKY_SLOPE)).transpose(1, 2).float()
        return (outline + correction).clamp(max=MAX_LOG_MAGNITUDE)

    def reach(self, first: int, last: int) -> tuple[int, int]:
        """The features that the samples of spectra `first` to `last` hear."""
        before, after = self.stft.reach(self.iterations)
        return first - before - self.segment + 1, last + after + self.segment - 1


class MelGAN(nn.Module):
    """The network: natural log-mel -> samples."""

    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        self.config = config
        width, rate = config.channels, math.prod(config.upsample)
        layers: list[nn.Module] = [_conv(N_MELS, width, INPUT_KERNEL)]
        layers += [ResidualUnit(width, dilation) for dilation in config.dilations]
        for factor in config.upsample:
            layers.append(UpsampleStage(width, factor, config.stage_dilations))
            width //= 2
        self.body = nn.Sequential(*layers)
        self.head = (
            WaveformHead(width) if config.head == "waveform" else SpectrumHead(width, rate, config)
        )

    def forward(self, log_mel: Tensor) -> Tensor:
        """Natural log-mel (B, T, 128) -> samples (B, 320 T)."""
        samples: Tensor = self.head(self.features(log_mel), log_mel)
        return samples

    def features(self, log_mel: Tensor) -> Tensor:
        """What the head works on: (B, T, 128) -> (B, C, rate T)."""
        features: Tensor = self.body(to_model(log_mel).transpose(1, 2))
        return features

    @property
    def period(self) -> int:
        """Pieces must start at a multiple of so many frames of the whole."""
        return self.head.period

    @property
    def receptive_field(self) -> int:
        """Frames of context, on each side, that can change a frame's 320 samples."""
        first, last = self.head.reach(0, math.prod(self.config.upsample) - 1)
        for factor in reversed(self.config.upsample):
            spread = sum(self.config.stage_dilations)
            padding = (factor + 1) // 2
            first = -((2 * factor - 1 - padding - (first - spread)) // factor)
            last = (last + spread + padding) // factor
        spread = sum(self.config.dilations) + INPUT_KERNEL // 2
        return max(spread - first, spread + last)

    def fold_weight_norm(self) -> "MelGAN":
        """Replace direction and length of every kernel by their product, for use; returns self."""
        for module in self.modules():
            if is_parametrized(module, "weight"):
                remove_parametrizations(module, "weight")
        return self


class GriffinLim:
    """The vocoder without weights: magnitudes that explain the mel, then phases.

    The mel's own STFT (640 samples, hop 320) says little about phases; so this is the yardstick
    and the fallback.
    """

    period = SEGMENT

    def __init__(self, iterations: int = 60) -> None:
        self.iterations = iterations
        self._stft = Stft(WIN_LENGTH, HOP_LENGTH, N_FFT)

    @property
    def receptive_field(self) -> int:
        """Frames of context, on each side, that can change a frame's 320 samples."""
        return max(self._stft.reach(self.iterations)) + SEGMENT - 1

    def __call__(self, log_mel: Tensor) -> Tensor:
        """Natural log-mel (B, T, 128) -> samples (B, 320 T)."""
        samples = sound(mel_to_magnitude(log_mel), self._stft, SEGMENT, self.iterations)
        return self._stft.crop(samples, log_mel.shape[1] * HOP_LENGTH)


def griffin_lim(log_mel: Tensor, iterations: int = 60) -> Tensor:
    """Natural log-mel (B, T, 128) -> samples (B, 320 T), without any network; deterministic."""
    return GriffinLim(iterations)(log_mel)


def mel_to_magnitude(log_mel: Tensor, iterations: int = 30) -> Tensor:
    """Non-negative magnitudes (B, T, 513) whose mel spectrum is nearly the given one.

    The clipped pseudo-inverse, then multiplicative updates (Lee and Seung 2001).
    """
    mel = log_mel.exp()
    matrix = mel_matrix().to(mel)
    target, overlap = mel @ matrix.T, matrix @ matrix.T
    magnitude = (mel @ torch.linalg.pinv(matrix)).clamp(min=1e-7)
    for _ in range(iterations):
        magnitude = magnitude * target / (magnitude @ overlap).clamp(min=1e-12)
    return magnitude


class StreamingVocoder:
    """Vocode a long mel piece by piece; the pieces join to what the whole would give.

    Holds at most `chunk` frames and the context on both sides.
    """

    def __init__(self, vocoder: Vocoder, chunk: int = 256) -> None:
        """`chunk`: frames that are vocoded at once; context comes on top."""
        self._vocoder, self._chunk = vocoder, chunk
        self._context = vocoder.receptive_field
        self._frames: Tensor | None = None  # (T, 128), from frame `_start` of the whole
        self._start = 0
        self._done = 0  # frames whose samples have been returned

    def push(self, log_mel: Tensor) -> Tensor:
        """The next frames (T, 128) -> the samples (S,) that they make final, perhaps none."""
        held = log_mel if self._frames is None else torch.cat([self._frames, log_mel])
        self._frames = held
        pieces = [log_mel.new_zeros(0)]
        while self._start + len(self._frames) >= self._done + self._chunk + self._context:
            pieces.append(self._vocode(self._done + self._chunk))
        return torch.cat(pieces)

    def flush(self) -> Tensor:
        """The samples (S,) of all frames that are left; the next push starts a new signal."""
        if self._frames is None:
            return torch.zeros(0)
        samples = self._vocode(self._start + len(self._frames))
        self._frames, self._start, self._done = None, 0, 0
        return samples

    @torch.no_grad()
    def _vocode(self, end: int) -> Tensor:
        """Samples from the last one returned up to frame `end`; drop what is not needed again."""
        assert self._frames is not None
        heard = self._frames[: end + self._context - self._start]
        samples = self._vocoder(heard[None])[0]
        first, last = self._done - self._start, end - self._start
        self._done = end
        keep_from = max(0, end - self._context) // self._vocoder.period * self._vocoder.period
        self._frames = self._frames[keep_from - self._start :]
        self._start = keep_from
        return samples[first * HOP_LENGTH : last * HOP_LENGTH]


def _conv(inputs: int, outputs: int, kernel: int, dilation: int = 1) -> nn.Module:
    """A weight-normalised convolution that keeps the length; zeros beyond the ends."""
    padding = dilation * (kernel // 2)
    return weight_norm(nn.Conv1d(inputs, outputs, kernel, dilation=dilation, padding=padding))


@lru_cache(maxsize=4)
def _band_to_bin(bins: int) -> Tensor:
    """(128, K): mel magnitudes @ this = the magnitudes of a spectrum as smooth as possible.

    Linear interpolation between the bands' centres, each band divided by its sum of weights;
    bands so narrow that they hold next to no FFT bin are left out.
    """
    matrix = mel_matrix()
    weight = matrix.sum(0)
    used = weight > 0.3
    top = hz_to_mel(torch.tensor(SAMPLE_RATE / 2.0))
    centres = torch.linspace(0, float(top), N_MELS + 2)[1:-1][used]
    mels = hz_to_mel(torch.linspace(0, SAMPLE_RATE / 2, bins)).clamp(centres[0], centres[-1])
    upper = torch.searchsorted(centres, mels).clamp(1, len(centres) - 1)
    share = (mels - centres[upper - 1]) / (centres[upper] - centres[upper - 1])
    rows = torch.zeros(len(centres), bins)
    columns = torch.arange(bins)
    rows[upper - 1, columns] = 1 - share
    rows[upper, columns] = share
    spread = torch.zeros(N_MELS, bins)
    spread[used] = rows / weight[used, None]
    return spread
