"""Training the vocoder: from magnitudes to sound to sound that judges believe.

    1  magnitudes    what the spectrum generator predicts, against the recording's STFT: cheap
    2  sound         the whole chain, against the recording at several STFT resolutions
    3  adversarial   the same, and discriminators

The waveform generator starts at the second stage.
"""

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from spectro_render.constants import (
    HOP_LENGTH,
    LOG_MEL_MIN,
    WINDOW_FRAMES,
    WINDOW_SAMPLES,
)
from spectro_render.errors import SpectroRenderError
from spectro_render.mel import log_mel
from spectro_render.training.diffusion import Average
from spectro_render.training.discriminators import (
    DiscriminatorConfig,
    Discriminators,
    adversarial_loss,
    discriminator_loss,
    feature_matching_loss,
)
from spectro_render.vocoder.griffin_lim import GriffinLim
from spectro_render.vocoder.melgan import MelGAN, SpectrumGenerator, VocoderConfig

RESOLUTIONS = (512, 1024, 2048)  # FFT and window sizes of the losses; the hop is a quarter
FLOOR = 1e-5  # of a full-scale sine's magnitude: what is softer does not count
MARGIN_FRAMES = 2  # around a crop, so that its spectra at the ends are those of the whole
CHECK_CLIPS = 16
CONTRAST = 1.3  # of what is trained here: less loses notes, more gains none (EXPERIMENTS.md)
COLUMNS = 4  # clips in a picture


@dataclass(frozen=True)
class VocoderOptions:
    """How to train. The bundled weights were made in parts, much like this: see their card."""

    steps: int = 2000
    magnitude_share: float = 1.0  # of the steps, at the start: on magnitudes, no sound is made
    adversarial_share: float = 0.0  # of the steps, at the end: with discriminators
    batch_size: int = 4
    frames: int = 128  # a crop
    learning_rate: float = 2e-3
    sound_rate: float = 3e-4  # from the second stage on
    discriminator_rate: float = 3e-4
    warmup: int = 100  # steps at the start of each stage
    final_rate: float = 0.02  # share of the learning rate that a stage's cosine ends with
    betas: tuple[float, float] = (0.8, 0.99)
    weight_decay: float = 0.01
    gradient_clip: float = 5.0
    ema_decay: float = 0.998
    adversarial_weight: float = 0.1
    feature_weight: float = 1.0
    gain_deviation: float = 5.0  # dB, of the random gain
    smooth_share: float = 0.15  # of the crops: mel smoothed in time, as a diffusion model might
    noise_share: float = 0.3  # of the crops: mel with noise
    noise_deviation: float = 0.1  # at most, natural log
    seed: int = 0
    log_every: int = 100
    check_every: int = 500
    discriminators: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)


@dataclass(frozen=True, eq=False)
class Crops:
    """B stretches of T frames to learn from, cut out of longer recordings."""

    samples: Tensor  # (B, 320 (T + 2 margins + 1)): with the margins
    frames: int  # T

    @property
    def log_mel(self) -> Tensor:
        """Natural log-mel (B, T, 128), with the true sound beyond both cuts."""
        return log_mel(self.samples)[:, MARGIN_FRAMES : MARGIN_FRAMES + self.frames]

    @property
    def inner(self) -> Tensor:
        """The samples (B, 320 T) proper."""
        start = MARGIN_FRAMES * HOP_LENGTH
        return self.samples[:, start : start + self.frames * HOP_LENGTH]

    def magnitude(self, generator: SpectrumGenerator) -> Tensor:
        """What the generator should predict, (B, T, K)."""
        stft = generator.stft
        start = MARGIN_FRAMES * HOP_LENGTH - stft.lead
        length = (self.frames - 1) * stft.hop + stft.window
        return stft.analyse(self.samples[:, start : start + length]).abs()


class Recordings:
    """The audio of shards (`samples`, float32 (W, 81920)), read as it is needed."""

    def __init__(self, shards: Sequence[Path]) -> None:
        self._windows: list[tuple[Path, int]] = []
        for path in shards:
            with safe_open(path, "pt") as shard:
                count = shard.get_slice("samples").get_shape()[0]
            self._windows += [(path, index) for index in range(count)]

    def __len__(self) -> int:
        return len(self._windows)

    def window(self, number: int) -> Tensor:
        """Samples (81920,) of a window."""
        path, index = self._windows[number]
        with safe_open(path, "pt") as shard:
            samples: Tensor = shard.get_slice("samples")[index]
        return samples

    def random(self, size: int, frames: int, generator: torch.Generator) -> Crops:
        """`size` crops of `frames` frames, anywhere."""
        numbers = torch.randint(len(self), (size,), generator=generator).tolist()
        return self._crops(numbers, frames, generator)

    def spread(self, size: int) -> Crops:
        """The middle of at most `size` windows, evenly spread over all; always the same."""
        size = min(size, len(self))
        numbers = [i * len(self) // size for i in range(size)]
        frames = WINDOW_FRAMES - 2 * MARGIN_FRAMES - 1
        return Crops(torch.stack([self.window(number) for number in numbers]), frames)

    def _crops(self, numbers: list[int], frames: int, generator: torch.Generator) -> Crops:
        length = HOP_LENGTH * (frames + 2 * MARGIN_FRAMES + 1)
        room = WINDOW_SAMPLES - length + 1
        starts = torch.randint(room, (len(numbers),), generator=generator).tolist()
        pairs = zip(numbers, starts, strict=True)
        return Crops(torch.stack([self.window(n)[s : s + length] for n, s in pairs]), frames)


def magnitude_loss(predicted: Tensor, magnitude: Tensor) -> Tensor:
    """Log-magnitude L1 plus spectral convergence of (B, T, K): log predicted, true magnitude."""
    floor = torch.tensor(FLOOR * predicted.shape[-1] / 2).to(predicted)
    logs = (predicted.maximum(floor.log()) - magnitude.maximum(floor).log()).abs().mean()
    return logs + _convergence(predicted.exp(), magnitude).mean()


def stft_distance(made: Tensor, recorded: Tensor) -> Tensor:
    """Spectral convergence plus log-magnitude L1, mean over the resolutions; samples (B, S)."""
    distances = []
    for n_fft in RESOLUTIONS:
        made_magnitude, magnitude = (_magnitude(x, n_fft) for x in (made, recorded))
        logs = made_magnitude.clamp(min=FLOOR).log() - magnitude.clamp(min=FLOOR).log()
        distances.append(_convergence(made_magnitude, magnitude).mean() + logs.abs().mean())
    return torch.stack(distances).mean()


def mel_distance(made: Tensor, recorded: Tensor) -> Tensor:
    """Mean absolute difference of the log-mels, natural log; samples (B, S)."""
    return (log_mel(made) - log_mel(recorded)).abs().mean()


def _magnitude(samples: Tensor, n_fft: int) -> Tensor:
    """(B, S) -> (B, K, frames); a full-scale sine gives 1."""
    window = torch.hann_window(n_fft, device=samples.device)
    spectrum = torch.stft(samples, n_fft, n_fft // 4, window=window, return_complex=True)
    # The magnitude has no slope at 0, and no slope is what its autograd gives there.
    return spectrum.abs() / (n_fft / 4)


def _convergence(made: Tensor, true: Tensor) -> Tensor:
    """Relative error of magnitudes, item by item: (B, ...) -> (B,)."""
    error: Tensor = torch.linalg.vector_norm((made - true).flatten(1), dim=1)
    scale: Tensor = torch.linalg.vector_norm(true.flatten(1), dim=1)
    return error / (scale + FLOOR * math.sqrt(true[0].numel()))


def wear(mel: Tensor, options: VocoderOptions, generator: torch.Generator) -> Tensor:
    """Make some of the mels (B, T, 128) as imperfect as a diffusion model's."""
    size = len(mel)

    def amount(share: float, most: float) -> Tensor:
        chosen = torch.rand(size, 1, 1, generator=generator) < share
        return (chosen * torch.rand(size, 1, 1, generator=generator) * most).to(mel)

    padded = F.pad(mel, (0, 0, 1, 1), mode="replicate")
    smooth = (padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]) / 4
    noise = torch.randn(mel.shape, generator=generator).to(mel)
    worn = mel + amount(options.smooth_share, 0.5) * (smooth - mel)
    worn = worn + amount(options.noise_share, options.noise_deviation) * noise
    return worn.clamp(min=LOG_MEL_MIN)


class VocoderTrainer:
    """One training run in a folder: log, checkpoint, pictures, and the weights for use."""

    def __init__(
        self,
        config: VocoderConfig,
        options: VocoderOptions,
        folder: Path,
        device: torch.device,
        say: Callable[[str], None] = print,
    ) -> None:
        torch.manual_seed(options.seed)
        self.options, self.folder, self.device, self.say = options, folder, device, say
        self.model = MelGAN(config).to(device)
        self.judges = Discriminators(options.discriminators).to(device)
        self.optimizer = self._adam(self.model, options.learning_rate)
        self.judge_optimizer = self._adam(self.judges, options.discriminator_rate)
        self.average = Average(self.model, options.ema_decay)
        self.generator = torch.Generator().manual_seed(options.seed)
        self.step = 0
        folder.mkdir(parents=True, exist_ok=True)

    def _adam(self, network: nn.Module, rate: float) -> torch.optim.Optimizer:
        o = self.options
        return torch.optim.AdamW(
            network.parameters(), lr=rate, betas=o.betas, weight_decay=o.weight_decay
        )

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    def save(self) -> None:
        """Write the whole state of the run; an interrupted write leaves the last one whole."""
        temporary = self.checkpoint.with_suffix(".tmp")
        torch.save(
            {"step": self.step, "weights": self.average.weights, **self._states()}, temporary
        )
        temporary.rename(self.checkpoint)

    def _states(self) -> dict[str, object]:
        parts = {name: part.state_dict() for name, part in self._parts().items()}
        return {**parts, "generator": self.generator.get_state()}

    def _parts(self) -> dict[str, nn.Module | torch.optim.Optimizer]:
        return {
            "model": self.model,
            "judges": self.judges,
            "optimizer": self.optimizer,
            "judge_optimizer": self.judge_optimizer,
        }

    def resume(self) -> None:
        """Go on from the folder's checkpoint."""
        state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.generator.set_state(state["generator"].cpu())
        self.average.weights, self.step = state["weights"], state["step"]

    def averaged(self) -> MelGAN:
        """The averaged weights as a network."""
        model = MelGAN(self.model.config).to(self.device).eval()
        model.load_state_dict(self.average.weights)
        return model

    def train(self, recordings: Recordings, held_out: Recordings) -> None:
        """Run to the last step, logging, checking on held-out sound and saving on the way."""
        rows: list[dict[str, float]] = []
        started = time.monotonic()
        while self.step < self.options.steps:
            rows.append(self._update(recordings))
            if self.step % self.options.log_every == 0:
                self._log(**_means(rows), seconds=time.monotonic() - started)
                rows = []
            if self.step % self.options.check_every == 0 or self.step == self.options.steps:
                self.save()
                self._check(held_out)
                rows = []

    @property
    def _magnitude_steps(self) -> int:
        share = self.options.magnitude_share if self.model.config.head == "spectrum" else 0
        return round(share * self.options.steps)

    @property
    def _stage(self) -> tuple[int, int, float]:
        """First step, last step and learning rate of the stage that the next step belongs to."""
        o, border = self.options, self._magnitude_steps
        if self.step < border:
            return 0, border, o.learning_rate
        return border, o.steps, o.sound_rate if border else o.learning_rate

    def _set_rates(self) -> None:
        """Warm up, then half a cosine; each stage anew."""
        first, end, peak = self._stage
        done = (self.step - first) / max(1, end - first)
        low = self.options.final_rate
        cosine = 0.5 + 0.5 * torch.cos(torch.tensor(torch.pi * done)).item()
        factor = min(1.0, (self.step - first + 1) / self.options.warmup)
        factor *= low + (1 - low) * cosine
        rates = (self.optimizer, peak), (self.judge_optimizer, self.options.discriminator_rate)
        for optimizer, rate in rates:
            for group in optimizer.param_groups:
                group["lr"] = rate * factor

    def _update(self, recordings: Recordings) -> dict[str, float]:
        """One step; returns the losses."""
        self._set_rates()
        self.model.train()
        on_gpu = self.device.type == "cuda"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=on_gpu):
            losses = self._losses(self._draw(recordings))
        self._descend(torch.stack(list(losses.values())).sum(), self.optimizer, self.model)
        self.step += 1
        self.average.update(self.model, self.step)
        return {name: float(loss.detach()) for name, loss in losses.items()}

    def _losses(self, crops: Crops) -> dict[str, Tensor]:
        """What the network pays, weighted."""
        mel, network = wear(crops.log_mel, self.options, self.generator), self.model.generator
        if isinstance(network, SpectrumGenerator) and self.step < self._magnitude_steps:
            predicted = network.log_magnitude(mel, network.sketch(mel))
            return {"magnitude": magnitude_loss(predicted, crops.magnitude(network))}
        return self._sound_losses(self.model(mel), crops.inner)

    def _draw(self, recordings: Recordings) -> Crops:
        o = self.options
        crops = recordings.random(o.batch_size, o.frames, self.generator)
        decibels = torch.randn(o.batch_size, 1, generator=self.generator) * o.gain_deviation
        return Crops((crops.samples * 10 ** (decibels / 20)).to(self.device), crops.frames)

    def _sound_losses(self, made: Tensor, recorded: Tensor) -> dict[str, Tensor]:
        """What the generator pays for samples (B, S), weighted; trains the judges on the way."""
        o = self.options
        losses = {"stft": stft_distance(made, recorded), "mel": mel_distance(made, recorded)}
        if self.step < o.steps * (1 - o.adversarial_share):
            return losses
        self._train_judges(made.detach(), recorded)
        self.judges.requires_grad_(False)
        verdicts, truth = self.judges(made), self.judges(recorded)
        self.judges.requires_grad_(True)
        losses["adversarial"] = o.adversarial_weight * adversarial_loss(verdicts)
        losses["features"] = o.feature_weight * feature_matching_loss(truth, verdicts)
        return losses

    def _train_judges(self, made: Tensor, recorded: Tensor) -> None:
        loss = discriminator_loss(self.judges(recorded), self.judges(made))
        self._descend(loss, self.judge_optimizer, self.judges)

    def _descend(self, loss: Tensor, optimizer: torch.optim.Optimizer, network: nn.Module) -> None:
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), self.options.gradient_clip)
        optimizer.step()

    @torch.no_grad()
    def _check(self, held_out: Recordings) -> None:
        """Vocode held-out sound; log the distances, draw some, write the model."""
        model, crops = self.averaged(), held_out.spread(CHECK_CLIPS)
        mel, recorded = crops.log_mel.to(self.device), crops.inner.to(self.device)
        made = model(mel)
        self._log(
            check_stft=float(stft_distance(made, recorded)),
            check_mel=float(mel_distance(made, recorded)),
        )
        rows = {"recorded": recorded, "vocoder": made, "Griffin-Lim": GriffinLim(10)(mel[:COLUMNS])}
        plot_spectra(self.folder / f"mel-{self.step:07d}.png", rows)
        save_vocoder(model, self.folder)

    def _log(self, **numbers: float) -> None:
        row = {"step": self.step, **{key: round(value, 4) for key, value in numbers.items()}}
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        self.say("  ".join(f"{key} {value}" for key, value in row.items()))


def _means(rows: list[dict[str, float]]) -> dict[str, float]:
    """The mean of each loss; over the rows that have it, as some begin later than others."""
    columns = {key: [row[key] for row in rows if key in row] for row in rows for key in row}
    return {key: sum(column) / len(column) for key, column in columns.items()}


def plot_spectra(path: Path, sounds: dict[str, Tensor]) -> None:
    """Draw the spectrograms of the first samples (B, S) of each set under one another, as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * COLUMNS, 3 * len(sounds)), layout="constrained")
    axes = figure.subplots(len(sounds), COLUMNS, squeeze=False)
    for row, (name, samples) in zip(axes, sounds.items(), strict=True):
        logs = _magnitude(samples[:COLUMNS].float(), 1024).clamp(min=FLOOR).log().cpu().numpy()
        for axis, picture in zip(row, logs, strict=False):
            axis.imshow(picture, origin="lower", aspect="auto", vmin=-11, vmax=-2)
            axis.set_title(name)
    figure.savefig(path, dpi=70)


def save_vocoder(model: MelGAN, folder: Path) -> None:
    """Write `vocoder.safetensors` and `vocoder.json` (the configuration)."""
    save_file(model.state_dict(), folder / "vocoder.safetensors")
    (folder / "vocoder.json").write_text(json.dumps(model.config.to_dict(), indent=2) + "\n")


def load_trained_vocoder(folder: Path) -> MelGAN:
    """The averaged weights of the run in a folder; raises SpectroRenderError if there are none."""
    try:
        config = VocoderConfig.from_dict(json.loads((folder / "vocoder.json").read_text()))
        model = MelGAN(config)
        model.load_state_dict(load_file(folder / "vocoder.safetensors"))
    except FileNotFoundError as error:
        raise SpectroRenderError(f"no {error.filename}", "train the vocoder first") from error
    return model.eval()


def train_vocoder(
    cache: Path,
    folder: Path,
    options: VocoderOptions,
    device: torch.device,
    config: VocoderConfig | None = None,
) -> None:
    """Train on a cache's shards, or go on; the first shard is kept for checking.

    Raises SpectroRenderError where there are fewer than two shards.
    """
    shards = sorted(cache.glob("shard-*.safetensors"))
    if len(shards) < 2:
        raise SpectroRenderError(f"fewer than two shards in {cache}", "run the data stage first")
    trainer = VocoderTrainer(config or VocoderConfig(contrast=CONTRAST), options, folder, device)
    if trainer.checkpoint.exists():
        trainer.resume()
    trainer.train(Recordings(shards[1:]), Recordings(shards[:1]))
