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
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.parametrize import is_parametrized, remove_parametrizations

from spectro_render.constants import HOP_LENGTH, MEL_FLOOR, N_FFT, N_MELS, WIN_LENGTH
from spectro_render.mel import mel_matrix, to_model
from spectro_render.phase import Stft, sound

LEAKY_SLOPE = 0.2  # MelGAN's
INPUT_KERNEL = 3
OUTPUT_KERNEL = 7
MAX_LOG_MAGNITUDE = 9.0  # natural log; a full-scale sine reaches 6.5 under 1280 samples of Hann
SKETCH_CENTRE, SKETCH_DEVIATION = -4.0, 4.0  # of its log magnitudes, roughly
SKETCH_UPDATES = 10  # of `mel_to_magnitude`
MAX_CORRECTION = 2.0  # natural log, a round of `match_mel`
SEGMENT = 64  # frames over which start phases are tracked

Span = tuple[int, int]  # first and last


class Vocoder(Protocol):
    """What `StreamingVocoder` needs of a vocoder."""

    @property
    def receptive_field(self) -> int:
        """Frames of context that a frame's samples need on each side."""

    @property
    def period(self) -> int:
        """Pieces must start at a multiple of so many frames of the whole."""

    def __call__(self, log_mel: Tensor, /) -> Tensor:
        """Natural log-mel (B, T, 128) -> samples (B, 320 T)."""


@dataclass(frozen=True)
class VocoderConfig:
    """The shape of the network; goes into a model directory's config.json."""

    channels: int = 256  # halved by every upsampling stage
    dilations: tuple[int, ...] = (1, 3, 9, 1, 3, 9)  # of the residual units at the mel's frame rate
    upsample: tuple[int, ...] = ()  # of the waveform head: a product of 320
    stage_dilations: tuple[int, ...] = (1, 3, 9)  # of the residual units after each upsampling
    head: Literal["spectrum", "waveform"] = "spectrum"
    window: int = 1280  # samples under the spectrum head's Hann window
    segment: int = SEGMENT  # frames over which its start phases are tracked
    sketch_iterations: int = 3  # of Griffin-Lim, before the network
    iterations: int = 10  # of Griffin-Lim, after it
    corrections: int = 4  # rounds of levelling the sound to the mel, at the end

    def __post_init__(self) -> None:
        """Raise ValueError for a network that cannot be built."""
        rate = math.prod(self.upsample)
        wanted = HOP_LENGTH if self.head == "waveform" else 1
        if rate != wanted:
            raise ValueError(f"upsampling by {rate}, but the {self.head} head needs {wanted}")
        if self.channels % 2 ** len(self.upsample):
            raise ValueError(
                f"{self.channels} channels cannot be halved {len(self.upsample)} times"
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "VocoderConfig":
        """The inverse of `to_dict`, also after a trip through JSON (lists for tuples)."""
        plain: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        return cls(**plain)

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
        change: Tensor = self.pointwise(F.leaky_relu(y, LEAKY_SLOPE))
        return x + change


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
    sketch_bins = 0

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.output = _conv(channels, 1, OUTPUT_KERNEL)

    def sketch(self, log_mel: Tensor) -> Tensor:
        """This head needs none: (B, T, 128) -> (B, T, 0)."""
        return log_mel[..., :0]

    def forward(self, features: Tensor, sketch: Tensor, log_mel: Tensor) -> Tensor:
        """Features (B, C, 320 T) -> samples (B, 320 T); the rest is for other heads."""
        return torch.tanh(self.output(F.leaky_relu(features, LEAKY_SLOPE)))[:, 0]

    def reach(self, first: int, last: int) -> Span:
        """The features that samples `first` to `last` hear."""
        return first - OUTPUT_KERNEL // 2, last + OUTPUT_KERNEL // 2

    def sketch_reach(self, first: int, last: int) -> Span:
        """The mel frames that the network's input at frames `first` to `last` hears."""
        return first, last


class SpectrumHead(nn.Module):
    """Features -> log magnitudes of a wide STFT, as a correction of a sketch, -> samples.

    The sketch is made without weights: magnitudes that explain the mel, start phases, little
    Griffin-Lim. Its spectrum under the wide window already shows how neighbouring partials beat
    and where they lie between the mel's bands; convolutions find that hard to work out.
    """

    def __init__(self, channels: int, config: VocoderConfig) -> None:
        super().__init__()
        self.config = config
        self.period = config.segment
        self.stft = Stft(config.window, HOP_LENGTH, config.window)
        self.sketch_bins = self.stft.bins
        self.mel_stft = Stft(WIN_LENGTH, HOP_LENGTH, N_FFT)
        self.output = _conv(channels, self.stft.bins, 1)

    @torch.no_grad()
    def sketch(self, log_mel: Tensor) -> Tensor:
        """Log-mel (B, T, 128) -> natural log magnitudes (B, T, K)."""
        config = self.config
        magnitude = mel_to_magnitude(log_mel.float(), SKETCH_UPDATES)
        samples = sound(magnitude, self.mel_stft, config.segment, config.sketch_iterations)
        length = (log_mel.shape[1] - 1) * HOP_LENGTH + self.stft.window
        samples = F.pad(samples, (self.stft.lead, self.stft.window))[:, :length]
        return self.stft.analyse(samples).abs().clamp(min=MEL_FLOOR).log()

    def log_magnitude(self, features: Tensor, sketch: Tensor) -> Tensor:
        """Features (B, C, T), sketch (B, T, K) -> natural log magnitudes (B, T, K)."""
        correction: Tensor = self.output(F.leaky_relu(features, LEAKY_SLOPE)).transpose(1, 2)
        return (sketch + correction.float()).clamp(max=MAX_LOG_MAGNITUDE)

    def forward(self, features: Tensor, sketch: Tensor, log_mel: Tensor) -> Tensor:
        """Features (B, C, T), sketch (B, T, K), log-mel (B, T, 128) -> samples (B, 320 T)."""
        config = self.config
        magnitude = self.log_magnitude(features, sketch).exp()
        samples = sound(magnitude, self.stft, config.segment, config.iterations)
        samples = self.stft.crop(samples, log_mel.shape[1] * HOP_LENGTH)
        return match_mel(samples, log_mel.float(), self.mel_stft, config.corrections)

    def reach(self, first: int, last: int) -> Span:
        """The features that the samples of frames `first` to `last` hear."""
        first, last = first - self.config.corrections, last + self.config.corrections
        return _sound_reach(first, last, self.stft, self.config.iterations, self.config.segment)

    def sketch_reach(self, first: int, last: int) -> Span:
        """The mel frames that the sketch of frames `first` to `last` hears."""
        before = self.stft.lead // HOP_LENGTH
        first, last = first - before, last + self.stft.overlap - 1 - before
        iterations = self.config.sketch_iterations
        return _sound_reach(first, last, self.mel_stft, iterations, self.config.segment)


class MelGAN(nn.Module):
    """The network: natural log-mel -> samples."""

    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        self.config = config
        width = config.channels
        layers: list[nn.Module] = [ResidualUnit(width, dilation) for dilation in config.dilations]
        for factor in config.upsample:
            layers.append(UpsampleStage(width, factor, config.stage_dilations))
            width //= 2
        is_spectrum = config.head == "spectrum"
        self.head = SpectrumHead(width, config) if is_spectrum else WaveformHead(width)
        self.input = _conv(N_MELS + self.head.sketch_bins, config.channels, INPUT_KERNEL)
        self.body = nn.Sequential(*layers)

    def forward(self, log_mel: Tensor) -> Tensor:
        """Natural log-mel (B, T, 128) -> samples (B, 320 T)."""
        sketch = self.head.sketch(log_mel)
        samples: Tensor = self.head(self.features(log_mel, sketch), sketch, log_mel)
        return samples

    def features(self, log_mel: Tensor, sketch: Tensor) -> Tensor:
        """What the head works on: (B, T, 128) and the head's sketch (B, T, K) -> (B, C, rate T)."""
        scaled = (sketch - SKETCH_CENTRE) / SKETCH_DEVIATION
        inputs = torch.cat([to_model(log_mel), scaled], -1).transpose(1, 2)
        features: Tensor = self.body(self.input(inputs))
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
            spread, padding = sum(self.config.stage_dilations), (factor + 1) // 2
            first = -((2 * factor - 1 - padding - (first - spread)) // factor)
            last = (last + spread + padding) // factor
        spread = sum(self.config.dilations) + INPUT_KERNEL // 2
        first, last = self.head.sketch_reach(first - spread, last + spread)
        return max(-first, last)

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
        first, last = _sound_reach(0, 0, self._stft, self.iterations, SEGMENT)
        return max(-first, last)

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
    magnitude: Tensor = (mel @ torch.linalg.pinv(matrix)).clamp(min=1e-7)
    for _ in range(iterations):
        magnitude = magnitude * target / (magnitude @ overlap).clamp(min=1e-12)
    return magnitude


def match_mel(samples: Tensor, log_mel: Tensor, stft: Stft, iterations: int) -> Tensor:
    """Level samples (B, 320 T), band by band and frame by frame, to a log-mel (B, T, 128)."""
    matrix = mel_matrix().to(log_mel)
    share = F.normalize(matrix, p=1, dim=1).T  # of each band in a bin's gain; DC belongs to none
    length = samples.shape[1]
    samples = F.pad(samples, (0, stft.window - stft.hop))
    for _ in range(iterations):
        spectrum = stft.analyse(samples)
        level = (spectrum.abs() @ matrix).clamp(min=MEL_FLOOR).log()
        gain = (log_mel - level).clamp(-MAX_CORRECTION, MAX_CORRECTION) @ share
        samples = stft.synthesise(spectrum * gain.exp())
    return samples[:, :length]


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
    conv = nn.Conv1d(inputs, outputs, kernel, dilation=dilation, padding=padding)
    normed: nn.Module = weight_norm(conv)
    return normed


def _sound_reach(first: int, last: int, stft: Stft, iterations: int, segment: int) -> Span:
    """The magnitudes that the samples of frames `first` to `last` hear through `phase.sound`."""
    before, after = stft.reach(iterations)
    return first - before - segment + 1, last + after + segment - 1
