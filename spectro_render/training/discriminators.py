"""Discriminators: networks that tell a vocoder's samples from recorded ones, for its training.

    SpectrogramDiscriminator   spectrograms at several resolutions (UnivNet, Jang et al. 2021,
                               arXiv 2106.07889): smearing, noise, spectral lines
    PeriodDiscriminator        samples folded into columns (HiFi-GAN, Kong et al. 2020,
                               arXiv 2010.05646): the shape of the waveform
    ScaleDiscriminator         samples averaged over ever longer stretches (MelGAN, Kumar et al.
                               2019, arXiv 1910.06711): the waveform over longer times

Each returns its feature maps (B, C, ...), the last of which is its output. It learns to be above 0
for recorded samples and below 0 for generated ones.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from spectro_render.vocoder.melgan import LEAKY_SLOPE

MAGNITUDE_FLOOR = 1e-5  # of a full-scale sine's magnitude
Features = list[Tensor]


@dataclass(frozen=True)
class DiscriminatorConfig:
    """The discriminators of each kind, and their size; an empty tuple leaves a kind out."""

    channels: int = 16
    resolutions: tuple[int, ...] = (512, 1024, 2048)  # FFT and window sizes; the hop is a quarter
    periods: tuple[int, ...] = (2, 3, 5, 7, 11)  # samples per row
    scales: tuple[int, ...] = (1, 2, 4)  # samples that are averaged


class Discriminator(nn.Module):
    """Convolutional layers, and an output layer with one channel."""

    layers: nn.ModuleList
    output: nn.Module

    def features(self, x: Tensor) -> Features:
        """Feature maps of every layer for an input (B, 1, ...); the last is the output."""
        features = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), LEAKY_SLOPE)
            features.append(x)
        return [*features, self.output(x)]


class SpectrogramDiscriminator(Discriminator):
    """Two-dimensional convolutions over one log-magnitude spectrogram."""

    window: Tensor

    def __init__(self, n_fft: int, channels: int) -> None:
        super().__init__()
        self.n_fft = n_fft
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        widths = [1, channels, channels, channels, channels]
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(i, o, (7, 3), stride=(2, 1), padding=(3, 1)))
            for i, o in pairwise(widths)
        )
        self.output = weight_norm(nn.Conv2d(channels, 1, 3, padding=1))

    def forward(self, samples: Tensor) -> Features:
        """Samples (B, S) -> feature maps (B, C, K, frames)."""
        hop = self.n_fft // 4
        spectrum = torch.stft(samples, self.n_fft, hop, window=self.window, return_complex=True)
        magnitude = spectrum.abs() / hop
        return self.features(magnitude.clamp(min=MAGNITUDE_FLOOR).log()[:, None])


class PeriodDiscriminator(Discriminator):
    """Convolutions along columns of samples that lie a fixed period apart."""

    def __init__(self, period: int, channels: int) -> None:
        super().__init__()
        self.period = period
        widths = [1, channels, 2 * channels, 4 * channels]
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(i, o, (5, 1), stride=(3, 1), padding=(2, 0)))
            for i, o in pairwise(widths)
        )
        self.output = weight_norm(nn.Conv2d(widths[-1], 1, (3, 1), padding=(1, 0)))

    def forward(self, samples: Tensor) -> Features:
        """Samples (B, S) -> feature maps (B, C, rows, period)."""
        rows = samples.shape[-1] // self.period
        folded = samples[:, : rows * self.period].reshape(-1, 1, rows, self.period)
        return self.features(folded)


class ScaleDiscriminator(Discriminator):
    """Grouped convolutions along samples that were averaged in groups of `scale`."""

    def __init__(self, scale: int, channels: int) -> None:
        super().__init__()
        self.scale = scale
        widths = [channels, 2 * channels, 4 * channels]
        first = weight_norm(nn.Conv1d(1, channels, 15, padding=7))
        later = (
            weight_norm(nn.Conv1d(i, o, 41, stride=4, padding=20, groups=4))
            for i, o in pairwise(widths)
        )
        self.layers = nn.ModuleList([first, *later])
        self.output = weight_norm(nn.Conv1d(widths[-1], 1, 3, padding=1))

    def forward(self, samples: Tensor) -> Features:
        """Samples (B, S) -> feature maps (B, C, S / stride)."""
        return self.features(F.avg_pool1d(samples[:, None], self.scale))


class Discriminators(nn.Module):
    """The discriminators of all kinds that a configuration asks for."""

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        parts += [SpectrogramDiscriminator(n_fft, config.channels) for n_fft in config.resolutions]
        parts += [PeriodDiscriminator(period, config.channels) for period in config.periods]
        parts += [ScaleDiscriminator(scale, config.channels) for scale in config.scales]
        self.parts = nn.ModuleList(parts)

    def forward(self, samples: Tensor) -> list[Features]:
        """Samples (B, S) -> the feature maps of each discriminator."""
        return [part(samples) for part in self.parts]


def discriminator_loss(recorded: list[Features], generated: list[Features]) -> Tensor:
    """Hinge loss of the discriminators, a scalar.

    It is 0 where outputs are above +1 for recorded and below -1 for generated samples.
    """
    losses = [
        F.relu(1 - real[-1]).mean() + F.relu(1 + fake[-1]).mean()
        for real, fake in zip(recorded, generated, strict=True)
    ]
    return torch.stack(losses).mean()


def adversarial_loss(generated: list[Features]) -> Tensor:
    """The vocoder's hinge loss, a scalar: minus the mean output for its samples."""
    return torch.stack([-fake[-1].mean() for fake in generated]).mean()


def feature_matching_loss(recorded: list[Features], generated: list[Features]) -> Tensor:
    """Mean absolute difference of the feature maps, relative to the size of the recorded ones.

    A scalar, after Kumar et al. 2019 (MelGAN, arXiv 1910.06711), who do not divide by the size.
    """
    distances = [
        (r.detach() - m).abs().mean() / r.detach().abs().mean().clamp(min=1e-6)
        for real, fake in zip(recorded, generated, strict=True)
        for r, m in zip(real[:-1], fake[:-1], strict=True)
    ]
    return torch.stack(distances).mean()
