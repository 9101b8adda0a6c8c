"""What the vocoder must fool: networks that tell its samples from recorded ones.

    spectrograms at several resolutions   (UnivNet, Jang et al. 2021)     smearing, noise, lines
    periods: samples folded in columns    (HiFi-GAN, Kong et al. 2020)    waveform shape
    scales: samples, ever more averaged   (MelGAN, Kumar et al. 2019)     the same, over longer time

Each judge returns its feature maps, (B, C, ...), the last of which is the verdict: above 0 for
recorded, below 0 for made.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

LEAKY_SLOPE = 0.2
MAGNITUDE_FLOOR = 1e-5  # of a full-scale sine
Features = list[Tensor]


@dataclass(frozen=True)
class DiscriminatorConfig:
    """How many judges of each kind, and how large; an empty tuple leaves a kind out."""

    channels: int = 16
    resolutions: tuple[int, ...] = (512, 1024, 2048)  # FFT and window sizes; the hop is a quarter
    periods: tuple[int, ...] = (2, 3, 5, 7, 11)  # samples a row
    scales: tuple[int, ...] = (1, 2, 4)  # samples averaged


class SpectrogramJudge(nn.Module):
    """Two-dimensional convolutions over one log-magnitude spectrogram."""

    def __init__(self, n_fft: int, channels: int) -> None:
        super().__init__()
        self.n_fft = n_fft
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        widths = [1, channels, channels, channels, channels]
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(i, o, (7, 3), stride=(2, 1), padding=(3, 1)))
            for i, o in pairwise(widths)
        )
        self.verdict = weight_norm(nn.Conv2d(channels, 1, 3, padding=1))

    def forward(self, samples: Tensor) -> Features:
        """Samples (B, S) -> feature maps (B, C, K, frames)."""
        assert isinstance(self.window, Tensor)
        hop = self.n_fft // 4
        spectrum = torch.stft(samples, self.n_fft, hop, window=self.window, return_complex=True)
        magnitude = spectrum.abs() / hop
        return _climb(magnitude.clamp(min=MAGNITUDE_FLOOR).log()[:, None], self)


class PeriodJudge(nn.Module):
    """Convolutions along columns: samples that lie a fixed period apart."""

    def __init__(self, period: int, channels: int) -> None:
        super().__init__()
        self.period = period
        widths = [1, channels, 2 * channels, 4 * channels]
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(i, o, (5, 1), stride=(3, 1), padding=(2, 0)))
            for i, o in pairwise(widths)
        )
        self.verdict = weight_norm(nn.Conv2d(widths[-1], 1, (3, 1), padding=(1, 0)))

    def forward(self, samples: Tensor) -> Features:
        """Samples (B, S) -> feature maps (B, C, rows, period)."""
        rows = samples.shape[-1] // self.period
        return _climb(samples[:, : rows * self.period].reshape(-1, 1, rows, self.period), self)


class ScaleJudge(nn.Module):
    """Grouped convolutions along samples, after averaging."""

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
        self.verdict = weight_norm(nn.Conv1d(widths[-1], 1, 3, padding=1))

    def forward(self, samples: Tensor) -> Features:
        """Samples (B, S) -> feature maps (B, C, S / stride)."""
        return _climb(F.avg_pool1d(samples[:, None], self.scale), self)


class Discriminators(nn.Module):
    """All judges together."""

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        judges: list[nn.Module] = []
        judges += [SpectrogramJudge(n_fft, config.channels) for n_fft in config.resolutions]
        judges += [PeriodJudge(period, config.channels) for period in config.periods]
        judges += [ScaleJudge(scale, config.channels) for scale in config.scales]
        self.judges = nn.ModuleList(judges)

    def forward(self, samples: Tensor) -> list[Features]:
        """Samples (B, S) -> feature maps, judge by judge."""
        return [judge(samples) for judge in self.judges]


def discriminator_loss(recorded: list[Features], made: list[Features]) -> Tensor:
    """Hinge loss: recorded sound beyond +1, made sound beyond -1; a scalar."""
    losses = [
        F.relu(1 - real[-1]).mean() + F.relu(1 + fake[-1]).mean()
        for real, fake in zip(recorded, made, strict=True)
    ]
    return torch.stack(losses).mean()


def adversarial_loss(made: list[Features]) -> Tensor:
    """What the vocoder pays for being found out; a scalar."""
    return torch.stack([-fake[-1].mean() for fake in made]).mean()


def feature_matching_loss(recorded: list[Features], made: list[Features]) -> Tensor:
    """Mean absolute difference of the feature maps, relative to the recorded ones' size."""
    distances = [
        (r.detach() - m).abs().mean() / r.detach().abs().mean().clamp(min=1e-6)
        for real, fake in zip(recorded, made, strict=True)
        for r, m in zip(real[:-1], fake[:-1], strict=True)
    ]
    return torch.stack(distances).mean()


def _climb(x: Tensor, judge: SpectrogramJudge | PeriodJudge | ScaleJudge) -> Features:
    """Run a judge's layers; keep every map."""
    features = []
    for layer in judge.layers:
        x = F.leaky_relu(layer(x), LEAKY_SLOPE)
        features.append(x)
    return [*features, judge.verdict(x)]
