"""The vocoders with weights: networks that turn a log-mel into samples, trained as a GAN.

    waveform   log-mel -> convolutions -> upsampling stages, 320 times -> samples
    spectrum   log-mel -> sketch -> convolutions -> magnitudes -> phases -> samples

The waveform generator is MelGAN's (Kumar et al., arXiv 1910.06711). It has to learn what a partial
is and how its phase advances. The spectrum generator takes phases from `phase` and learns only the
detail of magnitudes that a mel lacks, which needs a hundredth of the training. All vocoders are
local: a sample depends on at most `receptive_field` frames before and after its own, so `streaming`
can join pieces without a seam.

B batch, T mel frames, C channels, K frequency bins, P patches of bins.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.parametrize import is_parametrized, remove_parametrizations

from spectro_render.constants import (
    HOP_LENGTH,
    MEL_FLOOR,
    N_FFT,
    N_MELS,
    WIN_LENGTH,
)
from spectro_render.mel import mel_matrix, to_model
from spectro_render.vocoder.attacks import ATTACK_REACH, sharpen_attacks
from spectro_render.vocoder.griffin_lim import (
    SEGMENT,
    band_interpolation,
    match_mel,
    sketch,
    sketch_reach,
)
from spectro_render.vocoder.harmonic_map import HarmonicMap, harmonic_map
from spectro_render.vocoder.lines import LineTable, numbers_of_table
from spectro_render.vocoder.phase import Stft, sound

Span = tuple[int, int]  # the first and the last of some frames, counted from frame 0

LEAKY_SLOPE = 0.2  # of leaky ReLUs, as in MelGAN
END_KERNEL = 7  # of the waveform generator's first and last convolution
MAX_LOG_MAGNITUDE = 9.0  # natural log; a full-scale sine reaches 6 under 1280 samples of Hann
LOG_CENTRE, LOG_DEVIATION = -4.0, 4.0  # rough mean and deviation of log magnitudes
SKETCH_UPDATES = 10  # rounds of `mel_to_magnitude` before the network
MAX_FEATURES = 1 << 17  # of a frame: 0.5 MB, some 30 times those of the bundled vocoder
CONTRAST_BINS = 17  # bins around a bin that its magnitude is compared with: 200 Hz


class Vocoder(Protocol):
    """The interface of vocoders: log-mel to samples, also piece by piece for a long mel."""

    @property
    def receptive_field(self) -> int | None:
        """Frames of context that a frame's samples need on each side; None: the whole mel."""

    @property
    def period(self) -> int:
        """Every piece of a long mel must start at a multiple of this many frames."""

    @property
    def reads_notes(self) -> bool:
        """Whether notes beside a mel change anything."""

    def __call__(self, log_mel: Tensor, notes: Sequence[Tensor] | None = None, /) -> Tensor:
        """Natural log-mel (B, T, 128) -> samples (B, 320 T).

        `notes` are the notes (N, 5) of each item, as `harmonic_map` describes them. Without them,
        or where the vocoder does not use them, the mel says everything.
        """


@dataclass(frozen=True)
class VocoderConfig:
    """The shape of a vocoder network, as stored in a model directory's config.json."""

    head: Literal["spectrum", "waveform"] = "spectrum"
    channels: int = 48  # in the waveform generator they are halved by every upsampling stage
    dilations: tuple[int, ...] = (1, 2, 4, 8, 1)  # in time, of the units at the mel's frame rate
    upsample: tuple[int, ...] = ()  # factors of the waveform generator's stages: 320 in all
    stage_dilations: tuple[int, ...] = (1, 3, 9)  # of the units after each upsampling
    window: int = 1280  # samples under the spectrum generator's Hann window
    patch: int = 16  # frequency bins that share a position
    sketch_iterations: int = 0  # of Griffin-Lim before the network; they make partials unsteady
    iterations: int = 10  # of Griffin-Lim after the network
    corrections: int = 1  # rounds of `match_mel`, at the end
    contrast: float = 1.0  # of neighbouring magnitudes, see `sharpen`; 1 changes nothing
    lines: int = 0  # of each note in the line table; 0: notes are not used
    attacks: bool = False  # whether onsets of notes are made sudden, see `sharpen_attacks`
    delays: bool = False  # whether the line table says how late the sound of each source begins
    courses: bool = False  # whether it says how the partials of each source move: its vibrato

    def __post_init__(self) -> None:
        """Check the shape. Raises ValueError for a network that cannot be built."""
        rate = math.prod(self.upsample)
        wanted = HOP_LENGTH if self.head == "waveform" else 1
        if rate != wanted:
            raise ValueError(f"upsample is {rate} in all, but the {self.head} head needs {wanted}")
        if self.channels % 2 ** len(self.upsample):
            raise ValueError(
                f"{self.channels} channels cannot be halved {len(self.upsample)} times"
            )
        if self.attacks and not self.lines:
            raise ValueError("attacks are made sudden only in a vocoder that reads notes")
        if (self.delays or self.courses) and not self.lines:
            raise ValueError("delays and courses are parts of a line table")
        if self.lines and self.head == "waveform":
            raise ValueError("notes are of no use to a waveform head")
        if self.window // 2 % self.patch:
            raise ValueError(f"{self.window // 2} bins do not divide into patches of {self.patch}")
        if self.features > MAX_FEATURES:
            raise ValueError(f"{self.features} features of a frame are more than {MAX_FEATURES}")

    @property
    def features(self) -> int:
        """The largest number of features of a mel frame in any layer, to which memory grows."""
        if self.head == "spectrum":
            return self.channels * (self.window // 2 // self.patch)
        rate, width, most = 1, self.channels, self.channels
        for factor in self.upsample:
            rate, width = rate * factor, width // 2
            most = max(most, rate * width)
        return most

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "VocoderConfig":
        """Make a config from the values of `to_dict`; lists, as in JSON, become tuples."""
        plain: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        return cls(**plain)

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values, for JSON."""
        return asdict(self)


def count_weights(config: VocoderConfig) -> int:
    """The number of numbers in the `state_dict` of a MelGAN, known before it is built.

    Each kernel is stored as a direction and, for each slice of its first axis, a length.
    """
    width = config.channels

    def kernel(first: int, second: int, size: int, biases: int) -> int:
        return first * second * size + first + biases

    def units(width: int, dilations: Sequence[int], size: int) -> int:
        unit = kernel(width, width, size, width) + kernel(width, width, 1, width)
        return len(dilations) * unit

    if config.head == "waveform":
        count = kernel(width, N_MELS, END_KERNEL, width) + units(width, config.dilations, 3)
        for factor in config.upsample:
            half = width // 2
            count += kernel(width, half, 2 * factor, half)
            count += units(half, config.stage_dilations, 3)
            width = half
        return count + kernel(1, width, END_KERNEL, 1)

    def magnitude_network(inputs: int, outputs: int) -> int:
        count = kernel(width, inputs, 3 * 2 * config.patch, width)
        count += width * (config.window // 2 // config.patch)  # positions
        count += units(width, config.dilations, 9)
        return count + kernel(width, outputs, 2 * config.patch, outputs)

    count = magnitude_network(inputs=2, outputs=1)
    if config.lines:
        count += magnitude_network(inputs=4, outputs=2) + numbers_of_table(
            config.lines, delays=config.delays, courses=config.courses
        )
    return count


class ResidualUnit(nn.Module):
    """A wide and a pointwise convolution with a residual connection; any shape -> the same."""

    def __init__(self, wide: nn.Module, pointwise: nn.Module) -> None:
        super().__init__()
        self.wide, self.pointwise = weight_norm(wide), weight_norm(pointwise)

    def forward(self, x: Tensor) -> Tensor:
        y = self.wide(F.leaky_relu(x, LEAKY_SLOPE))
        change: Tensor = self.pointwise(F.leaky_relu(y, LEAKY_SLOPE))
        return x + change


def time_unit(channels: int, dilation: int) -> ResidualUnit:
    """Make a residual unit for features (B, C, T), dilated in time."""
    wide = nn.Conv1d(channels, channels, 3, dilation=dilation, padding=dilation)
    return ResidualUnit(wide, nn.Conv1d(channels, channels, 1))


def time_frequency_unit(channels: int, dilation: int) -> ResidualUnit:
    """Make a residual unit for features (B, C, T, P), dilated in time."""
    wide = nn.Conv2d(channels, channels, 3, dilation=(dilation, 1), padding=(dilation, 1))
    return ResidualUnit(wide, nn.Conv2d(channels, channels, 1))


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
        self.units = nn.Sequential(*(time_unit(half, dilation) for dilation in dilations))

    def forward(self, x: Tensor) -> Tensor:
        units: Tensor = self.units(self.upsample(F.leaky_relu(x, LEAKY_SLOPE)))
        return units


class WaveformGenerator(nn.Module):
    """MelGAN's generator: upsampling until there is a feature vector for each sample."""

    period = 1

    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        self.config = config
        width, padding = config.channels, END_KERNEL // 2
        self.input = weight_norm(nn.Conv1d(N_MELS, width, END_KERNEL, padding=padding))
        layers: list[nn.Module] = [time_unit(width, dilation) for dilation in config.dilations]
        for factor in config.upsample:
            layers.append(UpsampleStage(width, factor, config.stage_dilations))
            width //= 2
        self.body = nn.Sequential(*layers)
        self.output = weight_norm(nn.Conv1d(width, 1, END_KERNEL, padding=padding))

    def forward(self, log_mel: Tensor, notes: Sequence[Tensor] | None = None) -> Tensor:
        """Natural log-mel (B, T, 128) -> samples (B, 320 T); notes are ignored."""
        features = self.body(self.input(to_model(log_mel).transpose(1, 2)))
        return torch.tanh(self.output(F.leaky_relu(features, LEAKY_SLOPE)))[:, 0]

    def reach(self) -> Span:
        """The mel frames that the samples of frame 0 depend on."""
        first, last = -(END_KERNEL // 2), HOP_LENGTH - 1 + END_KERNEL // 2
        for factor in reversed(self.config.upsample):
            spread, padding = sum(self.config.stage_dilations), (factor + 1) // 2
            first = -((2 * factor - 1 - padding - (first - spread)) // factor)
            last = (last + spread + padding) // factor
        spread = sum(self.config.dilations) + END_KERNEL // 2
        return first - spread, last + spread


class MagnitudeNetwork(nn.Module):
    """Convolutions over time and frequency, from I maps of a spectrum to O maps of it."""

    position: Tensor

    def __init__(self, config: VocoderConfig, inputs: int, outputs: int) -> None:
        super().__init__()
        self.config = config
        width, patch = config.channels, config.patch
        stride, half = (1, patch), patch // 2
        self.input = weight_norm(nn.Conv2d(inputs, width, (3, 2 * patch), stride, (1, half)))
        self.position = nn.Parameter(torch.zeros(width, 1, config.window // 2 // patch))
        units = (time_frequency_unit(width, dilation) for dilation in config.dilations)
        self.body = nn.Sequential(*units)
        output = nn.ConvTranspose2d(width, outputs, (1, 2 * patch), stride, (0, half))
        nn.init.normal_(output.weight, std=1e-3)  # without training the sketch hardly changes
        self.output = weight_norm(output)

    def correct(self, maps: list[Tensor]) -> list[Tensor]:
        """I maps of log magnitudes (B, T, K) -> O maps of the same shape, whose last bin is 0."""
        seen = (torch.stack(maps, -1)[..., :-1, :] - LOG_CENTRE) / LOG_DEVIATION
        # In memory they lie as (B, T, K, C), for which convolutions on a CPU take half the time.
        features = self.body(self.input(seen.permute(0, 3, 1, 2)) + self.position)  # (B, C, T, P)
        joined = self._join(F.leaky_relu(features, LEAKY_SLOPE))
        return [F.pad(one.float(), (0, 1)) for one in joined]

    def _join(self, features: Tensor) -> list[Tensor]:
        """Apply `output`, a transposed convolution, to features (B, C, T, P): O of (B, T, K - 1).

        Written as one product and the sum of neighbouring halves, it takes a sixth of the time.
        """
        patch, half = self.config.patch, self.config.patch // 2
        columns, outputs = features.permute(0, 2, 3, 1), []
        for kernel, bias in zip(self.output.weight.unbind(1), self.output.bias, strict=True):
            halves = F.pad(columns @ kernel[:, 0], (0, 0, 1, 1))  # (B, T, P + 2, 2 patch)
            joined = halves[:, :, 1:, :patch] + halves[:, :, :-1, patch:]
            outputs.append(joined.flatten(2)[..., half:-half] + bias)
        return outputs


class SpectrumGenerator(MagnitudeNetwork):
    """Corrects the magnitudes of a `sketch`, a sound made without weights, and adds phases.

    The sketch has magnitudes that fit the mel, and the phases of steady partials. Its spectrum
    under a window twice as long as the mel's already shows where partials lie between the mel's
    bands, and how neighbouring partials beat. The errors that are left look much the same at every
    pitch, so the convolutions run along time and frequency.

    If the notes are known, a second network takes the place of the first one. Its input also shows
    where the partials of these notes should be (`harmonic_map`), and it decides for each bin how
    much of that to use.
    """

    period = SEGMENT
    outline: Tensor

    def __init__(self, config: VocoderConfig) -> None:
        super().__init__(config, inputs=2, outputs=1)
        self.stft = Stft(config.window, HOP_LENGTH, config.window)
        self.mel_stft = Stft(WIN_LENGTH, HOP_LENGTH, N_FFT)
        self.register_buffer("outline", band_interpolation(self.stft.bins), persistent=False)
        self.noted: MagnitudeNetwork | None = None
        if config.lines:
            self.noted = MagnitudeNetwork(config, inputs=4, outputs=2)
            self.table = LineTable(config.lines, delays=config.delays, courses=config.courses)

    @torch.no_grad()
    def begin_with_notes(self) -> None:
        """Let the network for notes begin as the mean of the other one and the harmonic map."""
        assert self.noted is not None
        for own, other in zip(self.noted.body.parameters(), self.body.parameters(), strict=True):
            own.copy_(other)
        self.noted.position.copy_(self.position)
        self.noted.input.bias.copy_(self.input.bias)
        kernel = torch.zeros_like(self.noted.input.weight)
        kernel[:, :2] = self.input.weight
        self.noted.input.weight = kernel
        kernel = torch.zeros_like(self.noted.output.weight)
        kernel[:, :1] = self.output.weight / 2
        self.noted.output.weight = kernel
        self.noted.output.bias.copy_(torch.cat([self.output.bias / 2, torch.zeros(1)]))

    def forward(self, log_mel: Tensor, notes: Sequence[Tensor] | None = None) -> Tensor:
        """Natural log-mel (B, T, 128), and the notes (N, 5) of each -> samples (B, 320 T)."""
        sketch = self.sketch(log_mel)
        phasor, known = sketch.sgn(), self.map_notes(log_mel, notes)
        magnitude = self.sharpen(self.log_magnitude(log_mel, sketch, known)).exp()
        if known is not None:  # partials have the phases of their notes, noise has the sketch's
            phasor = (known.tonal * known.partials + known.noisy * phasor).sgn()
        samples = sound(magnitude, phasor, self.stft, self.config.iterations)
        samples = self.stft.crop(samples, log_mel.shape[1] * HOP_LENGTH)
        samples = match_mel(samples, log_mel.float(), self.mel_stft, self.config.corrections)
        if notes is None or not self.config.attacks:
            return samples
        begins = [self.table.begins(rows) for rows in notes]
        return torch.stack(list(map(sharpen_attacks, samples, log_mel, begins)))

    @torch.no_grad()
    def sketch(self, log_mel: Tensor) -> Tensor:
        """The complex spectrum (B, T, K) of the `sketch` of a natural log-mel (B, T, 128)."""
        config = self.config
        samples = sketch(log_mel.float(), self.mel_stft, SKETCH_UPDATES, config.sketch_iterations)
        length = (log_mel.shape[1] - 1) * HOP_LENGTH + self.stft.window
        samples = F.pad(samples, (self.stft.lead, self.stft.window))[:, :length]
        return self.stft.analyse(samples)

    def log_magnitude(
        self, log_mel: Tensor, sketch: Tensor, known: HarmonicMap | None = None
    ) -> Tensor:
        """Natural log magnitudes (B, T, K) from a log-mel (B, T, 128) and its sketch (B, T, K).

        `known` is the answer of `map_notes`.
        """
        drawn = sketch.abs().clamp(min=MEL_FLOOR).log()
        level = (log_mel - mel_matrix().to(log_mel).sum(0).log()) @ self.outline
        if known is None or self.noted is None:
            (correction,) = self.correct([drawn, level])
            return (drawn + correction).clamp(max=MAX_LOG_MAGNITUDE)
        tonal, noisy = (part.clamp(min=MEL_FLOOR).log() for part in (known.tonal, known.noisy))
        correction, trust = self.noted.correct([drawn, level, tonal, noisy])
        mapped = torch.hypot(known.tonal, known.noisy).clamp(min=MEL_FLOOR).log()
        mixed = drawn + torch.sigmoid(trust) * (mapped - drawn)
        return (mixed + correction).clamp(max=MAX_LOG_MAGNITUDE)

    @torch.no_grad()
    def map_notes(self, log_mel: Tensor, notes: Sequence[Tensor] | None) -> HarmonicMap | None:
        """The harmonic maps (B, T, K) of log-mels (B, T, 128), given the notes (N, 5) of each.

        None without notes, and in a vocoder that does not read them. They are made on the CPU,
        which adds up in a fixed order and has the 64-bit numbers that phases need.
        """
        if notes is None or self.noted is None:
            return None
        is_here = log_mel.device.type == "cpu"
        table = self.table if is_here else deepcopy(self.table).cpu()
        maps = [
            harmonic_map(one, rows.cpu(), table, self.stft.bins)
            for one, rows in zip(log_mel.float().cpu(), notes, strict=True)
        ]
        parts = (torch.stack(parts) for parts in zip(*maps, strict=True))
        return HarmonicMap(*(part.to(log_mel.device) for part in parts))

    def sharpen(self, log_magnitude: Tensor) -> Tensor:
        """Multiply the difference of log magnitudes (B, T, K) from their neighbours by `contrast`.

        A network trained on distances predicts the mean of all possible spectra. That is flatter
        than a real spectrum: its peaks are too low and its valleys too high.
        """
        rows = log_magnitude.flatten(0, 1)[:, None]
        around = F.avg_pool1d(
            rows, CONTRAST_BINS, 1, CONTRAST_BINS // 2, count_include_pad=False
        ).view_as(log_magnitude)
        sharper = around + self.config.contrast * (log_magnitude - around)
        return sharper.clamp(max=MAX_LOG_MAGNITUDE)

    def reach(self) -> Span:
        """The mel frames that the samples of frame 0 depend on."""
        config, lead = self.config, self.stft.lead // HOP_LENGTH
        before, after = self.stft.reach(config.iterations)
        spread = config.corrections + 1 + sum(config.dilations)
        first, last = -spread - before - lead, spread + after + self.stft.overlap - 1 - lead
        before, after = sketch_reach(self.mel_stft, config.sketch_iterations)
        first, last = first - before, last + after
        if config.attacks:
            return first + ATTACK_REACH[0], last + ATTACK_REACH[1]
        return first, last


class MelGAN(nn.Module):
    """A vocoder network of either kind: natural log-mel -> samples."""

    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        self.config = config
        is_spectrum = config.head == "spectrum"
        self.generator = SpectrumGenerator(config) if is_spectrum else WaveformGenerator(config)

    def forward(self, log_mel: Tensor, notes: Sequence[Tensor] | None = None) -> Tensor:
        """Natural log-mel (B, T, 128), and the notes (N, 5) of each -> samples (B, 320 T)."""
        samples: Tensor = self.generator(log_mel, notes)
        return samples

    @property
    def period(self) -> int:
        """Every piece of a long mel must start at a multiple of this many frames."""
        return self.generator.period

    @property
    def reads_notes(self) -> bool:
        """Whether notes beside a mel change anything."""
        return self.config.lines > 0

    @property
    def receptive_field(self) -> int:
        """Frames of context, on each side, that can change a frame's 320 samples."""
        first, last = self.generator.reach()
        return max(-first, last)

    def fold_weight_norm(self) -> "MelGAN":
        """Remove the weight norm, for use after training; returns self.

        The direction and length of every kernel are replaced by their product. Results are the
        same and take less time.
        """
        for module in self.modules():
            if is_parametrized(module, "weight"):
                remove_parametrizations(module, "weight")
        for kernel in self.parameters():
            if kernel.dim() == 4:
                kernel.data = kernel.data.contiguous(memory_format=torch.channels_last)
        return self
