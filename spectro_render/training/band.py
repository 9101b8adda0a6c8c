"""Trains the network that predicts the band above 7.4 kHz, on the pieces of the other stages.

Shards of music hold sound at 16 kHz. So the pieces of some of them are played again, at 48 kHz, and
kept in shards of their own. FluidSynth never plays a piece twice alike, so these have mels, too:
    envelope  float16 (W, 1024, B)    of each window, see `vocoder/band.py`
    mel       float16 (W, 256, 128)   natural log
"""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from spectro_render.atomic import new_file
from spectro_render.constants import N_MELS, WINDOW_FRAMES
from spectro_render.errors import OptionError, SpectroRenderError
from spectro_render.mel import log_mel
from spectro_render.training.band_table import measure_band
from spectro_render.training.data import (
    PIECE_WINDOWS,
    CacheSpec,
    make_piece,
    recalled,
)
from spectro_render.training.run import Average, RunOptions, TrainingRun
from spectro_render.training.synth import Synthesizer, to_model_rate
from spectro_render.training.vocoder import REMEMBERED_STEPS, map_rows
from spectro_render.vocoder.band import (
    BANDS,
    CONTEXT,
    FLOOR,
    FULL_HOP,
    NEAR,
    STEPS,
    BandConfig,
    BandTable,
    HighBand,
    band_envelope,
)

HOURS = 4.0  # of music at most, which the network learns from
SAME = 0.5  # nats: mels of a piece that is played twice differ by some 0.1, on average
DECIBELS = 20 / torch.log(torch.tensor(10.0)).item()  # in a natural logarithm of magnitude


@dataclass(frozen=True)
class BandOptions(RunOptions):
    """How to train the band's network."""

    steps: int = 2000
    batch_size: int = 16  # windows
    learning_rate: float = 2e-3
    warmup: int = 100  # steps in which the rate rises
    final_rate: float = 0.01  # share of the learning rate that is left at the end
    drawn_share: float = 0.5  # share of the windows with a mel that the Transformer drew
    unknown_share: float = 0.15  # share of the steps in which no notes are known
    gain_deviation: float = 2.0  # dB, standard deviation of the random gain of a window
    step_weight: float = 0.25  # of the error of single steps, beside that of frames
    log_every: int = 200
    check_every: int = 1000


def render_bands(spec: CacheSpec, folder: Path, hours: float, workers: int) -> Iterator[Path]:
    """Play the pieces of a cache's first shards at 48 kHz; yields each shard of envelopes written.

    `hours` is the length of music at most, `workers` the number of processes. Raises
    SpectroRenderError where a shard of music is missing, OptionError where it holds other music.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanted = min(spec.shards, max(2, round(spec.shards * hours / spec.hours)))
    missing = [k for k in range(wanted) if not (folder / spec.path(k).name).exists()]
    for index in missing:
        if not spec.path(index).exists():
            raise SpectroRenderError(f"{spec.path(index)} is missing", "run the data stage first")
    context = multiprocessing.get_context("spawn")  # FluidSynth and torch do not survive a fork
    with context.Pool(workers, _start_worker, (spec, folder)) as pool:
        yield from pool.imap_unordered(_write_shard, missing)


_spec: CacheSpec
_folder: Path
_synthesizer: Synthesizer


def _start_worker(spec: CacheSpec, folder: Path) -> None:
    """Set up a worker process that writes shards of envelopes."""
    global _spec, _folder, _synthesizer
    torch.set_num_threads(1)
    _spec, _folder, _synthesizer = spec, folder, Synthesizer(spec.soundfont)


def _write_shard(index: int) -> Path:
    """Play and write a shard, in a worker process, and return its path."""
    frames, again = PIECE_WINDOWS * WINDOW_FRAMES, []
    envelopes = torch.zeros(_spec.pieces, frames * STEPS, BANDS)
    with safe_open(_spec.path(index), "pt") as shard:
        mels = shard.get_tensor("mel").view(_spec.pieces, frames, -1)
    for number, mel in enumerate(mels):
        score = make_piece(_spec, index * _spec.pieces + number)
        full = torch.zeros(frames * FULL_HOP)
        played = _synthesizer.render_score_full(score)[: len(full)]
        full[: len(played)] = torch.from_numpy(played)
        again.append(log_mel(torch.from_numpy(to_model_rate(full.numpy()))))
        if (again[-1] - mel).abs().mean() > SAME:
            hint = "delete the work folder, or name the same MIDI files and --seed"
            raise OptionError(f"{_spec.path(index)} holds other music than these options", hint)
        envelopes[number] = band_envelope(full)
    path = _folder / _spec.path(index).name
    with new_file(path) as temporary:
        envelope = envelopes.half().view(-1, WINDOW_FRAMES * STEPS, BANDS)
        mel = torch.cat(again).half().view(-1, WINDOW_FRAMES, N_MELS)
        save_file({"envelope": envelope, "mel": mel}, temporary)
    return path


class BandWindows:
    """The mels, envelopes and expected levels of windows, in memory."""

    def __init__(
        self,
        music: Sequence[Path],
        bands: Sequence[Path],
        table: BandTable,
        velocity_bins: int,
        drawn: Tensor | None = None,
    ) -> None:
        """Read shards of music, and what was played of them at 48 kHz.

        `drawn` are natural log-mels (W, 256, 128) that a Transformer drew of the first W windows.
        """
        mels, envelopes, expected = [], [], []
        for path, band in zip(music, bands, strict=True):
            with safe_open(path, "pt") as shard:
                tables = shard.get_tensor("notes").split(shard.get_tensor("counts").tolist())
                number = shard.get_tensor("piece")
            first = [True, *(number[1:] != number[:-1]).tolist()]
            for rows in recalled(tables, first, REMEMBERED_STEPS):
                notes = map_rows(rows, velocity_bins)
                expected.append(table.expect(notes, 0, WINDOW_FRAMES * STEPS).half())
            played = load_file(band)
            mels.append(played["mel"])
            envelopes.append(played["envelope"])
        self.mels, self.envelopes = torch.cat(mels), torch.cat(envelopes)
        self.expected = torch.stack(expected)
        self.drawn = self.mels[:0] if drawn is None else drawn

    def __len__(self) -> int:
        return len(self.mels)

    def batch(self, numbers: Tensor, are_drawn: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mels (B, 256, 128), and the levels that `HighBand` reads and predicts for them."""
        true = self.mels[numbers].float()
        if len(self.drawn):
            drawn = self.drawn[numbers.clamp(max=len(self.drawn) - 1)].float()
            chosen = are_drawn & (numbers < len(self.drawn))
            true = torch.where(chosen[:, None, None], drawn, true)
        seen = slice((CONTEXT - NEAR) * STEPS, -(CONTEXT - 1 - NEAR) * STEPS)
        predicted = slice(CONTEXT * STEPS, -(CONTEXT - 1) * STEPS)
        expected = self.expected[numbers, seen].float()
        return true, expected, self.envelopes[numbers, predicted].float()


def frame_levels(envelope: Tensor) -> Tensor:
    """Levels (..., T - 1, B) of frames of 40 ms from an envelope (..., 4 T, B), natural logs."""
    steps = torch.arange(2 * STEPS) + 0.5
    weights = (torch.pi * steps / (2 * STEPS)).sin() ** 4
    power = (2 * envelope).exp().unfold(-2, 2 * STEPS, STEPS) @ (weights / weights.sum())
    return 0.5 * power.log()


def spectral_distance(envelope: Tensor, true: Tensor) -> Tensor:
    """Log-spectral distance of envelopes (..., 4 T, B) in dB, a scalar: mean over frames."""
    error = frame_levels(envelope) - frame_levels(true)
    return DECIBELS * (error.square().mean(-1) + 1e-6).sqrt().mean()


class BandTrainer(TrainingRun[HighBand]):
    """A training run of the band's network."""

    options: BandOptions

    def __init__(
        self,
        config: BandConfig,
        table: BandTable,
        options: BandOptions,
        folder: Path,
        device: torch.device,
        say: Callable[[str], None] = print,
    ) -> None:
        super().__init__(lambda: HighBand(config), options, folder, device, say)
        self.model.table.load_state_dict(table.state_dict())
        self.average = Average(self.model, options.ema_decay)
        self.optimizers = [
            torch.optim.Adam(self.model.parameters(), lr=options.learning_rate, betas=(0.9, 0.98))
        ]

    def state(self) -> dict[str, Any]:
        """The contents of a checkpoint, with the network's shape."""
        return {**super().state(), "config": self.model.config.to_dict()}

    def train(self, windows: BandWindows, held_out: BandWindows) -> None:
        """Train on `windows` to the last step, with regular checks on held-out ones."""
        self.run(lambda: self._update(windows), lambda: self._check(held_out))

    def _update(self, windows: BandWindows) -> dict[str, float]:
        """Take one training step, and return the errors by name."""
        o = self.options
        share = torch.tensor(torch.pi * self.step / o.steps)
        rate = o.final_rate + (1 - o.final_rate) * (0.5 + 0.5 * share.cos().item())
        for group in self.optimizers[0].param_groups:
            group["lr"] = o.learning_rate * rate * min(1.0, (self.step + 1) / o.warmup)
        numbers = torch.randint(len(windows), (o.batch_size,), generator=self.generator)
        are_drawn = torch.rand(o.batch_size, generator=self.generator) < o.drawn_share
        mel, expected, true = windows.batch(numbers, are_drawn)
        gain = torch.randn(o.batch_size, 1, 1, generator=self.generator)
        gain *= o.gain_deviation / DECIBELS
        known = torch.rand((), generator=self.generator) >= o.unknown_share
        mel, true = (mel + gain).to(self.device), (true + gain).clamp(min=FLOOR).to(self.device)
        made = self.model(mel, expected.to(self.device) if known else None)
        distance, steps = spectral_distance(made, true), (made - true).abs().mean() * DECIBELS
        self.descend(distance + o.step_weight * steps, self.model, self.optimizers[0])
        self.end_step()
        return {"distance": float(distance.detach()), "step_error": float(steps.detach())}

    @torch.no_grad()
    def _check(self, held_out: BandWindows) -> None:
        """Log the distance of held-out windows with the averaged weights, with notes or without."""
        model, errors = self.averaged(), torch.zeros(2)
        for first in range(0, len(held_out), self.options.batch_size):
            numbers = torch.arange(first, min(first + self.options.batch_size, len(held_out)))
            mel, expected, true = held_out.batch(numbers, torch.zeros_like(numbers) > 0)
            for place, known in enumerate((expected.to(self.device), None)):
                made = model(mel.to(self.device), known).cpu()
                errors[place] += spectral_distance(made, true) * len(numbers)
        errors /= len(held_out)
        self.log(check_distance=float(errors[0]), check_without_notes=float(errors[1]))


def train_band(
    spec: CacheSpec,
    folder: Path,
    options: BandOptions,
    device: torch.device,
    *,
    workers: int = 1,
    drawn: Tensor | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Train the band's network on the pieces of a cache, or continue the run in `folder`.

    The first shard is used for checks. `drawn` are natural log-mels (W, 256, 128) of the first W
    windows of the other shards, drawn by a Transformer. Raises the errors of `render_bands`.
    """
    for path in render_bands(spec, folder, HOURS, workers):
        say(f"wrote {path}")
    measured = folder / "table.safetensors"
    table = BandTable()
    if measured.exists():
        table.load_state_dict(load_file(measured))
    else:
        table = measure_band(say)
        with new_file(measured) as temporary:
            save_file(table.state_dict(), temporary)
    trainer = BandTrainer(BandConfig(), table, options, folder, device, say)
    if trainer.checkpoint.exists():
        trainer.resume()
    bands = sorted(folder.glob("shard-*.safetensors"))
    music = [spec.folder / path.name for path in bands]
    bins = spec.vocabulary.velocity_bins
    held_out = BandWindows(music[:1], bands[:1], trainer.model.table, bins)
    windows = BandWindows(music[1:], bands[1:], trainer.model.table, bins, drawn)
    trainer.train(windows, held_out)


def load_trained_band(folder: Path) -> HighBand | None:
    """The network trained in a folder, with its averaged weights; None if there is none."""
    path = folder / "checkpoint.pt"
    if not path.exists():
        return None
    state = torch.load(path, map_location="cpu", weights_only=True)
    network = HighBand(BandConfig(**state["config"]))
    network.load_state_dict(state["average"])
    return network.eval()
