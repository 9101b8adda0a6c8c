"""Trains the vocoder, in three stages.

    1  magnitudes    compares predicted magnitudes with the recording's STFT, which is cheap
    2  sound         compares samples with the recording, at several STFT resolutions
    3  adversarial   adds the losses of discriminators to the losses of the second stage

A waveform generator predicts no magnitudes and starts with the second stage. A spectrum generator
has two networks, one that reads mels alone and one that also reads notes, which learn side by side;
a run that starts from another vocoder leaves the first one as it is. In shapes there are B crops, T
frames, S samples and K frequencies.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from spectro_render.atomic import new_file
from spectro_render.constants import (
    FRAME_RATE,
    HOP_LENGTH,
    LOG_MEL_MIN,
    STEPS_PER_SECOND,
    WINDOW_FRAMES,
    WINDOW_SAMPLES,
)
from spectro_render.errors import OptionError, SpectroRenderError
from spectro_render.mel import log_mel
from spectro_render.network.frames import PAD_NOTE
from spectro_render.training.data import recalled
from spectro_render.training.discriminators import (
    DiscriminatorConfig,
    Discriminators,
    adversarial_loss,
    discriminator_loss,
    feature_matching_loss,
)
from spectro_render.training.lines import measure_lines
from spectro_render.training.run import Average, RunOptions, TrainingRun
from spectro_render.vocoder.griffin_lim import GriffinLim
from spectro_render.vocoder.harmonic_map import NOTE_NUMBERS, moved
from spectro_render.vocoder.lines import LineTable
from spectro_render.vocoder.melgan import MelGAN, SpectrumGenerator, VocoderConfig

RESOLUTIONS = (512, 1024, 2048)  # FFT and window sizes of the losses; the hop is a quarter
FLOOR = 1e-5  # of a full-scale sine's magnitude: softer parts do not count
MARGIN_FRAMES = 2  # on either side of a crop, so that the spectra at its ends are the recording's
CHECK_CLIPS = 16
REMEMBERED_STEPS = 300  # for which notes that have ended are known, in 10 ms steps
LINES = 40  # of each note in the line table
SETTINGS_OF_NOTES = ("lines", "attacks", "delays", "courses")
CONTRAST = 1.3  # of vocoders trained here: less loses notes, more does not help (EXPERIMENTS.md)
COLUMNS = 4  # clips in a picture


@dataclass(frozen=True)
class VocoderOptions(RunOptions):
    """How to train the vocoder.

    The bundled weights were trained in several runs with similar settings; see their model card.
    """

    steps: int = 2000
    magnitude_share: float = 1.0  # share of the steps, at the start, that train magnitudes only
    adversarial_share: float = 0.0  # share of the steps, at the end, that have discriminators
    batch_size: int = 4
    frames: int = 128  # length of a crop
    learning_rate: float = 2e-3
    sound_rate: float = 3e-4  # learning rate from the second stage on
    discriminator_rate: float = 3e-4
    warmup: int = 100  # steps at the start of each stage in which the learning rate rises
    final_rate: float = 0.02  # share of the learning rate that is left at the end of a stage
    betas: tuple[float, float] = (0.8, 0.99)
    weight_decay: float = 0.01
    gradient_clip: float = 5.0
    adversarial_weight: float = 0.1
    feature_weight: float = 1.0
    gain_deviation: float = 5.0  # dB, standard deviation of the random gain of a crop
    smooth_share: float = 0.15  # share of the crops whose mel is smoothed in time
    noise_share: float = 0.3  # share of the crops whose mel gets noise
    noise_deviation: float = 0.1  # largest standard deviation of that noise, natural log
    forget_share: float = 0.2  # share of the crops that lack some of their notes
    forgotten_share: float = 0.3  # share of the notes that such a crop lacks
    drawn_share: float = 0.6  # share of the crops with a Transformer's mel, in the last steps
    drawn_from: float = 0.9  # share of the steps after which these begin
    log_every: int = 100
    discriminators: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)


@dataclass(frozen=True, eq=False)
class Crops:
    """B crops of T frames from longer recordings."""

    samples: Tensor  # (B, 320 (T + 2 margins + 1)), margins included
    frames: int  # T
    notes: Sequence[Tensor]  # (N, 5) of each crop, as `harmonic_map` takes them
    drawn: Sequence[Tensor | None]  # (T, 128), natural: a Transformer's mel of the crop, if any

    @property
    def log_mel(self) -> Tensor:
        """Natural log-mel (B, T, 128) of the crop as it is within the recording."""
        return log_mel(self.samples)[:, MARGIN_FRAMES : MARGIN_FRAMES + self.frames]

    @property
    def inner(self) -> Tensor:
        """Samples (B, 320 T) of the crop without its margins."""
        start = MARGIN_FRAMES * HOP_LENGTH
        return self.samples[:, start : start + self.frames * HOP_LENGTH]

    def magnitude(self, generator: SpectrumGenerator) -> Tensor:
        """Magnitudes (B, T, K) of the recording, which the generator should predict."""
        stft = generator.stft
        start = MARGIN_FRAMES * HOP_LENGTH - stft.lead
        length = (self.frames - 1) * stft.hop + stft.window
        return stft.analyse(self.samples[:, start : start + length]).abs()


class Recordings:
    """The audio and the notes of shards (see `data.py`); audio is read from disk when needed.

    Shards without notes count as windows in which none are known.
    """

    def __init__(
        self, shards: Sequence[Path], velocity_bins: int = 32, drawn: Tensor | None = None
    ) -> None:
        """`velocity_bins` is the number of those of the shards' vocabulary.

        `drawn` are natural log-mels (W, 256, 128) that a Transformer drew of the first W windows.
        """
        self._drawn = torch.zeros(0) if drawn is None else drawn
        self._windows: list[tuple[Path, int]] = []
        self._notes: list[Tensor] = []  # (N, 5) each, in frames from the window's first one
        for path in shards:
            with safe_open(path, "pt") as shard:
                count = shard.get_slice("samples").get_shape()[0]
                if "notes" in shard.keys():
                    tables = shard.get_tensor("notes").split(shard.get_tensor("counts").tolist())
                    piece = shard.get_tensor("piece")
                    first = [True, *(piece[1:] != piece[:-1]).tolist()]
                    tables = recalled(tables, first, REMEMBERED_STEPS)
                    self._notes += [map_rows(table, velocity_bins) for table in tables]
                else:
                    self._notes += [torch.zeros(0, NOTE_NUMBERS)] * count
            self._windows += [(path, index) for index in range(count)]

    def __len__(self) -> int:
        return len(self._windows)

    def window(self, number: int) -> Tensor:
        """Samples (81920,) of window `number`, counted from 0 over all shards."""
        path, index = self._windows[number]
        with safe_open(path, "pt") as shard:
            samples: Tensor = shard.get_slice("samples")[index]
        return samples

    def random(
        self, size: int, frames: int, generator: torch.Generator, drawn_share: float = 0.0
    ) -> Crops:
        """Cut `size` crops of `frames` frames at random places.

        Of these, `drawn_share` have mels that a Transformer drew, if there are any.
        """
        numbers = torch.randint(len(self), (size,), generator=generator)
        length = HOP_LENGTH * (frames + 2 * MARGIN_FRAMES + 1)
        room = WINDOW_SAMPLES - length + 1
        starts = torch.randint(room, (size,), generator=generator)
        if not drawn_share or not len(self._drawn):
            return self._crops(numbers.tolist(), starts.tolist(), frames)
        are_drawn = torch.rand(size, generator=generator) < drawn_share
        numbers = torch.where(are_drawn, numbers % len(self._drawn), numbers)
        first = starts // HOP_LENGTH
        starts = torch.where(are_drawn, first * HOP_LENGTH, starts)
        mels = [
            self._drawn[number, begin : begin + frames].float() if is_drawn else None
            for number, begin, is_drawn in zip(
                numbers.tolist(), (first + MARGIN_FRAMES).tolist(), are_drawn.tolist(), strict=True
            )
        ]
        return replace(self._crops(numbers.tolist(), starts.tolist(), frames), drawn=mels)

    def spread(self, size: int) -> Crops:
        """The middles of at most `size` windows, evenly spaced; always the same crops."""
        size = min(size, len(self))
        numbers = [i * len(self) // size for i in range(size)]
        return self._crops(numbers, [0] * size, WINDOW_FRAMES - 2 * MARGIN_FRAMES - 1)

    def _crops(self, numbers: Sequence[int], starts: Sequence[int], frames: int) -> Crops:
        """Crops of `frames` frames of windows, from a sample of each on."""
        length = HOP_LENGTH * (frames + 2 * MARGIN_FRAMES + 1)
        samples, notes = [], []
        for number, start in zip(numbers, starts, strict=True):
            samples.append(self.window(number)[start : start + length])
            notes.append(moved(self._notes[number], start / HOP_LENGTH + MARGIN_FRAMES))
        return Crops(torch.stack(samples), frames, notes, [None] * len(notes))


def map_rows(table: Tensor, velocity_bins: int) -> Tensor:
    """The notes (N, 5) of a harmonic map, from the rows (N, 6) of one window's `note_table`."""
    pitch, program, velocity, _, onset, offset = table[table[:, 0] != PAD_NOTE].double().unbind(1)
    frames = FRAME_RATE / STEPS_PER_SECOND
    return torch.stack(
        [program, pitch, velocity / velocity_bins, onset * frames, offset * frames], 1
    )


def magnitude_loss(log_predicted: Tensor, magnitude: Tensor) -> Tensor:
    """Log-magnitude L1 plus spectral convergence of predicted magnitudes, a scalar.

    Both are (B, T, K); the predicted magnitudes are given as natural logarithms.
    """
    floor = torch.tensor(FLOOR * log_predicted.shape[-1] / 2).to(log_predicted)
    logs = (log_predicted.maximum(floor.log()) - magnitude.maximum(floor).log()).abs().mean()
    return logs + _convergence(log_predicted.exp(), magnitude).mean()


def stft_loss(generated: Tensor, recorded: Tensor) -> Tensor:
    """Spectral convergence plus log-magnitude L1 of samples (B, S), mean over the resolutions.

    Yamamoto et al. 2020 (Parallel WaveGAN, arXiv 1910.11480), equations 3-5.
    """
    losses = []
    for n_fft in RESOLUTIONS:
        predicted, magnitude = (_magnitude(x, n_fft) for x in (generated, recorded))
        logs = predicted.clamp(min=FLOOR).log() - magnitude.clamp(min=FLOOR).log()
        losses.append(_convergence(predicted, magnitude).mean() + logs.abs().mean())
    return torch.stack(losses).mean()


def mel_loss(generated: Tensor, recorded: Tensor) -> Tensor:
    """Mean absolute difference of the natural log-mels of samples (B, S)."""
    return (log_mel(generated) - log_mel(recorded)).abs().mean()


def _magnitude(samples: Tensor, n_fft: int) -> Tensor:
    """Magnitude spectrogram (B, K, frames) of samples (B, S); a full-scale sine gives 1."""
    window = torch.hann_window(n_fft, device=samples.device)
    spectrum = torch.stft(samples, n_fft, n_fft // 4, window=window, return_complex=True)
    # The derivative of the magnitude is undefined at 0; torch's autograd takes 0 there.
    return spectrum.abs() / (n_fft / 4)


def _convergence(predicted: Tensor, true: Tensor) -> Tensor:
    """Spectral convergence of magnitudes (B, ...): the relative error of each item, (B,)."""
    error: Tensor = torch.linalg.vector_norm((predicted - true).flatten(1), dim=1)
    scale: Tensor = torch.linalg.vector_norm(true.flatten(1), dim=1)
    return error / (scale + FLOOR * math.sqrt(true[0].numel()))


def degrade(mel: Tensor, options: VocoderOptions, generator: torch.Generator) -> Tensor:
    """Smooth some of the log-mels (B, T, 128) and add noise, like errors of a diffusion model."""
    size = len(mel)

    def amount(share: float, most: float) -> Tensor:
        chosen = torch.rand(size, 1, 1, generator=generator) < share
        return (chosen * torch.rand(size, 1, 1, generator=generator) * most).to(mel)

    padded = F.pad(mel, (0, 0, 1, 1), mode="replicate")
    smooth = (padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]) / 4
    noise = torch.randn(mel.shape, generator=generator).to(mel)
    degraded = mel + amount(options.smooth_share, 0.5) * (smooth - mel)
    degraded = degraded + amount(options.noise_share, options.noise_deviation) * noise
    return degraded.clamp(min=LOG_MEL_MIN)


def forget(notes: Tensor, options: VocoderOptions, generator: torch.Generator) -> Tensor:
    """Leave out some of the notes (N, 5) of some crops: a performance may differ from its notes."""
    if torch.rand((), generator=generator) >= options.forget_share:
        return notes
    return notes[torch.rand(len(notes), generator=generator) >= options.forgotten_share]


class VocoderTrainer(TrainingRun[MelGAN]):
    """A training run of the vocoder, with pictures and the vocoder's files in its folder."""

    options: VocoderOptions

    def __init__(
        self,
        config: VocoderConfig,
        options: VocoderOptions,
        folder: Path,
        device: torch.device,
        say: Callable[[str], None] = print,
    ) -> None:
        super().__init__(lambda: MelGAN(config), options, folder, device, say)
        self.keeps_mel_network = False
        self.discriminators = Discriminators(options.discriminators).to(device)
        self.optimizers = [
            torch.optim.AdamW(
                network.parameters(),
                lr=rate,
                betas=options.betas,
                weight_decay=options.weight_decay,
            )
            for network, rate in (
                (self.model, options.learning_rate),
                (self.discriminators, options.discriminator_rate),
            )
        ]

    def start_from(self, vocoder: MelGAN) -> None:
        """Begin with the weights of a vocoder, whose network for mels alone is then left as it is.

        Where it has no network for notes, that one begins as a copy which ignores them at first.
        `vocoder` still has its weight norm. Raises OptionError for one of another shape.
        """
        own, other = self.model, vocoder
        known = replace(
            other.config,
            **{name: getattr(own.config, name) for name in SETTINGS_OF_NOTES},
        )
        if known != own.config or not own.config.lines:
            raise OptionError("the vocoder to start from has another shape", "train from scratch")
        own.load_state_dict({**own.state_dict(), **other.state_dict()})
        if not other.config.lines:
            assert isinstance(own.generator, SpectrumGenerator)
            own.generator.begin_with_notes()
        self._keep_mel_network()
        self.average = Average(own, self.options.ema_decay)

    def take_lines(self, table: LineTable) -> None:
        """Use another line table."""
        assert isinstance(self.model.generator, SpectrumGenerator)
        # A vocoder need not store delays and courses.
        self.model.generator.table.load_state_dict(table.state_dict(), strict=False)
        self.average = Average(self.model, self.options.ema_decay)

    def _keep_mel_network(self) -> None:
        self.keeps_mel_network = True
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(".noted." in name)

    def state(self) -> dict[str, Any]:
        """The contents of a checkpoint, with the discriminators."""
        return {
            **super().state(),
            "discriminators": self.discriminators.state_dict(),
            "keeps_mel_network": self.keeps_mel_network,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from the contents of a checkpoint."""
        super().restore(state)
        self.discriminators.load_state_dict(state["discriminators"])
        if state["keeps_mel_network"]:
            self._keep_mel_network()

    def train(self, recordings: Recordings, held_out: Recordings) -> None:
        """Train on `recordings` to the last step, with regular checks on held-out recordings."""
        self.run(lambda: self._update(recordings), lambda: self._check(held_out))

    @property
    def _magnitude_steps(self) -> int:
        """Number of steps in the first stage; 0 for a waveform generator."""
        share = self.options.magnitude_share if self.model.config.head == "spectrum" else 0
        return round(share * self.options.steps)

    def _set_rates(self) -> None:
        """Set the learning rates: in each stage they warm up, then fall as half a cosine."""
        o, border = self.options, self._magnitude_steps
        if self.step < border:
            first, end, peak = 0, border, o.learning_rate
        else:
            first, end, peak = border, o.steps, o.sound_rate if border else o.learning_rate
        done = (self.step - first) / max(1, end - first)
        cosine = 0.5 + 0.5 * torch.cos(torch.tensor(torch.pi * done)).item()
        factor = min(1.0, (self.step - first + 1) / o.warmup)
        factor *= o.final_rate + (1 - o.final_rate) * cosine
        for optimizer, rate in zip(self.optimizers, (peak, o.discriminator_rate), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * factor

    def _update(self, recordings: Recordings) -> dict[str, float]:
        """Take one training step, and return the weighted losses by name."""
        o = self.options
        self._set_rates()
        self.model.train()
        share = o.drawn_share if self.step >= o.drawn_from * o.steps else 0.0
        crops = recordings.random(o.batch_size, o.frames, self.generator, share)
        decibels = torch.randn(o.batch_size, 1, generator=self.generator) * o.gain_deviation
        decibels *= torch.tensor([[mel is None] for mel in crops.drawn])
        samples = (crops.samples * 10 ** (decibels / 20)).to(self.device)
        notes = [forget(rows, o, self.generator) for rows in crops.notes]
        crops = replace(crops, samples=samples, notes=notes)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            losses = self._losses(crops)
        total = torch.stack(list(losses.values())).sum()
        self.descend(total, self.model, self.optimizers[0])
        self.end_step()
        return {name: float(loss.detach()) for name, loss in losses.items()}

    def _losses(self, crops: Crops) -> dict[str, Tensor]:
        """The weighted losses of the current stage, by name."""
        mel, network = degrade(crops.log_mel, self.options, self.generator), self.model.generator
        for number, drawn in enumerate(crops.drawn):
            if drawn is not None:
                mel[number] = drawn.to(self.device)
        if isinstance(network, SpectrumGenerator) and self.step < self._magnitude_steps:
            sketch, true = network.sketch(mel), crops.magnitude(network)
            return {
                name: magnitude_loss(
                    network.log_magnitude(mel, sketch, network.map_notes(mel, notes)), true
                )
                for name, notes in self._known(crops).items()
            }
        losses: dict[str, Tensor] = {}
        for notes in self._known(crops).values():
            for name, loss in self._sound_losses(self.model(mel, notes), crops.inner).items():
                losses[name] = losses[name] + loss if name in losses else loss
        return losses

    def _known(self, crops: Crops) -> dict[str, Sequence[Tensor] | None]:
        """What each network in training is given of the notes, by the name of its loss."""
        known: dict[str, Sequence[Tensor] | None] = {}
        if not self.keeps_mel_network:
            known["magnitude"] = None
        if self.model.config.lines:
            known["magnitude_with_notes"] = crops.notes
        return known

    def _sound_losses(self, generated: Tensor, recorded: Tensor) -> dict[str, Tensor]:
        """The weighted losses of samples (B, S), by name.

        In the adversarial stage the discriminators take a step, too.
        """
        o = self.options
        losses = {"stft": stft_loss(generated, recorded), "mel": mel_loss(generated, recorded)}
        if self.step < o.steps * (1 - o.adversarial_share):
            return losses
        networks = self.discriminators
        loss = discriminator_loss(networks(recorded), networks(generated.detach()))
        self.descend(loss, networks, self.optimizers[1])
        networks.requires_grad_(False)
        outputs, true_outputs = networks(generated), networks(recorded)
        networks.requires_grad_(True)
        losses["adversarial"] = o.adversarial_weight * adversarial_loss(outputs)
        losses["features"] = o.feature_weight * feature_matching_loss(true_outputs, outputs)
        return losses

    @torch.no_grad()
    def _check(self, held_out: Recordings) -> None:
        """Vocode held-out crops with the averaged weights; log, plot and save the vocoder."""
        model, crops = self.averaged(), held_out.spread(CHECK_CLIPS)
        mel, recorded = crops.log_mel.to(self.device), crops.inner.to(self.device)
        notes = crops.notes
        generated = model(mel, notes)
        checks = {}
        if isinstance(model.generator, SpectrumGenerator):
            sketch, true = model.generator.sketch(mel), crops.magnitude(model.generator)
            known = model.generator.map_notes(mel, notes)
            predicted = model.generator.log_magnitude(mel, sketch, known)
            checks["check_magnitude"] = float(magnitude_loss(predicted, true.to(self.device)))
        self.log(
            check_stft=float(stft_loss(generated, recorded)),
            check_mel=float(mel_loss(generated, recorded)),
            **checks,
        )
        rows = {
            "recorded": recorded,
            "vocoder": generated,
            "Griffin-Lim": GriffinLim(10)(mel[:COLUMNS]),
        }
        plot_spectra(self.folder / f"mel-{self.step:07d}.png", rows)
        save_vocoder(model, self.folder)


def plot_spectra(path: Path, sounds: dict[str, Tensor]) -> None:
    """Draw spectrograms of the first samples (B, S) of each name, as a row of pictures in a PNG."""
    figure = Figure(figsize=(4 * COLUMNS, 3 * len(sounds)), layout="constrained")
    axes = figure.subplots(len(sounds), COLUMNS, squeeze=False)
    for row, (name, samples) in zip(axes, sounds.items(), strict=True):
        logs = _magnitude(samples[:COLUMNS].float(), 1024).clamp(min=FLOOR).log().cpu().numpy()
        for axis, picture in zip(row, logs, strict=False):
            axis.imshow(picture, origin="lower", aspect="auto", vmin=-11, vmax=-2)
            axis.set_title(name)
    figure.savefig(path, dpi=70)


def save_vocoder(model: MelGAN, folder: Path) -> None:
    """Write a vocoder as `vocoder.safetensors` and `vocoder.json` (its configuration)."""
    with new_file(folder / "vocoder.safetensors") as temporary:
        save_file(model.state_dict(), temporary)
    with new_file(folder / "vocoder.json") as temporary:
        temporary.write_text(json.dumps(model.config.to_dict(), indent=2) + "\n")


def load_trained_vocoder(folder: Path) -> MelGAN:
    """Load a vocoder that `save_vocoder` wrote. Raises SpectroRenderError if there is none."""
    try:
        config = VocoderConfig.from_dict(json.loads((folder / "vocoder.json").read_text()))
        model = MelGAN(config)
        model.load_state_dict(load_file(folder / "vocoder.safetensors"))
    except FileNotFoundError as error:
        raise SpectroRenderError(f"{error.filename} is missing", "run the vocoder stage") from error
    return model.eval()


def train_vocoder(
    cache: Path,
    folder: Path,
    options: VocoderOptions,
    device: torch.device,
    config: VocoderConfig | None = None,
    start_from: MelGAN | None = None,
    velocity_bins: int = 32,
    drawn: Tensor | None = None,
    held_out: Path | None = None,
    lines: LineTable | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Train a vocoder on the shards in `cache`, or continue the run in `folder`.

    A new run has the line table `lines`, or takes it from the vocoder `start_from` with all
    weights, or measures that of the soundfont. With no steps, only the table is replaced. Checks
    are made on the shards in `held_out`, by default on the first one of `cache`. `drawn` are
    natural log-mels (W, 256, 128) of the first W windows of the other shards, drawn by a
    Transformer: the last steps also learn from them. Raises SpectroRenderError for too few shards.
    """
    shards = sorted(cache.glob("shard-*.safetensors"))
    checked = shards[:1] if held_out is None else sorted(held_out.glob("shard-*.safetensors"))
    shards = shards[1:] if held_out is None else shards
    if not shards or not checked:
        places = f"{cache}" if held_out is None else f"{cache} or {held_out}"
        raise SpectroRenderError(
            f"there are too few shards in {places}", "run the data stage first"
        )
    config = config or VocoderConfig(
        contrast=CONTRAST, lines=LINES, attacks=True, delays=True, courses=True
    )
    trainer = VocoderTrainer(config, options, folder, device, say)
    if trainer.checkpoint.exists():
        trainer.resume()
    else:
        if start_from is not None:
            trainer.start_from(start_from)
        own = None if start_from is None else start_from.config
        is_known = own is not None and own.lines and own.delays and own.courses
        if lines is None and config.lines and not is_known:
            lines = measure_lines(config.lines)
        if lines is not None:
            trainer.take_lines(lines)
    trainer.train(Recordings(shards, velocity_bins, drawn), Recordings(checked, velocity_bins))
    if not options.steps:
        trainer.save()
        save_vocoder(trainer.averaged(), folder)
