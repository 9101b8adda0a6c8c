"""Trains the curves of single notes, which a model's draft adds up, on notes played alone."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spectro_render.constants import LOG_MEL_MIN, STEPS_PER_WINDOW
from spectro_render.errors import OptionError
from spectro_render.network.config import ModelConfig
from spectro_render.network.curves import DRUM_KIT, STEPS_PER_FRAME, NoteCurves
from spectro_render.training.run import Average, RunOptions, TrainingRun
from spectro_render.training.soundfont import RecordingMap

FRAMES = 24  # of a note in a batch: a quarter near its onset, a quarter after its end
NEAR_ONSET, AFTER_END = 10, 17  # frames from which these are drawn
DRUM_SHARE = 1 / 8  # of the notes in a batch
HELD_OUT_SHARE = 0.01  # of the notes, on which the run is checked
CHECK_FRAMES = 64  # of each of them
SILENT = LOG_MEL_MIN + 0.1  # natural log-mel: below, a note may be as soft as it likes
LOUD, SOFTNESS = -6.0, 1.5  # nats: where the weight of an error is in the middle, and how it falls
LEAST_WEIGHT = 0.25  # of errors where note and curve are soft


@dataclass(frozen=True)
class CurveOptions(RunOptions):
    """How to train the curves of notes."""

    batch_size: int = 256  # notes
    check_every: int = 1000
    learning_rate: float = 3e-3  # peak
    vector_factor: float = 2.0  # of the rate, for the vectors of keys and recordings
    warmup: int = 100  # steps
    decay_share: float = 0.5  # share of the steps, at the end, in which the rate falls to zero
    full_rate_steps: int = 1  # a run with fewer has a lower peak, in proportion


class CurveTrainer(TrainingRun[NoteCurves]):
    """A training run of the curves of single notes."""

    options: CurveOptions

    def __init__(
        self,
        config: ModelConfig,
        recordings: RecordingMap,
        options: CurveOptions,
        folder: Path,
        device: torch.device,
        say: Callable[[str], None] = print,
    ) -> None:
        def make() -> NoteCurves:
            curves = NoteCurves(config)
            curves.load_state_dict(vars(recordings), strict=False)
            return curves

        super().__init__(make, options, folder, device, say)
        self.config = config
        rare = [self.model.key.weight, self.model.latent.weight]
        others = [p for p in self.model.parameters() if all(p is not q for q in rare)]
        self.optimizers = [
            torch.optim.Adam(group, lr=options.learning_rate, betas=(0.9, 0.98), fused=True)
            for group in (others, rare)
        ]

    def start_from(self, curves: NoteCurves) -> None:
        """Begin with the curves of another soundfont.

        Each recording begins with the vectors of the one that the other soundfont plays for the
        same key, at the same times. Raises OptionError for curves of another shape.
        """
        own = self.model.state_dict()
        shared = {name for name, _ in self.model.named_parameters()} - {"latent.weight"}
        known = {name: value for name, value in curves.state_dict().items() if name in shared}
        if any(name not in known or own[name].shape != known[name].shape for name in shared):
            raise OptionError(
                "the curves to start from belong to another network",
                "choose the --preset that they were trained with",
            )
        self.model.load_state_dict(known, strict=False)
        with torch.no_grad():
            self.model.latent.weight.copy_(self._vectors_of(curves))
        self.average = Average(self.model, self.options.ema_decay)

    def _vectors_of(self, curves: NoteCurves) -> Tensor:
        """The vectors of own recordings, taken from others that are played for the same keys."""
        count = len(self.model.frames)
        played = self.model.recording.flatten().long()
        order = played.argsort(stable=True)
        edges = torch.searchsorted(played[order], torch.arange(count + 1))
        key = order[(edges[:-1] + edges[1:]) // 2]  # one in the middle of those that play it
        other = curves.recording.flatten()[key].long()
        speed = curves.ratio.flatten()[key] / self.model.ratio.flatten()[key]
        frames = self.model.frames.long()
        number = torch.arange(count).repeat_interleave(frames)
        place = torch.arange(len(number)) - (frames.cumsum(0) - frames)[number]
        position = STEPS_PER_FRAME * (place - 1) * speed[number]
        vectors = curves.vectors_at(other.clamp(min=0)[number], position)
        return torch.where((other >= 0)[number][:, None], vectors, self.model.latent.weight)

    def state(self) -> dict[str, Any]:
        """The contents of a checkpoint, with the configuration of the network."""
        return {"config": asdict(self.config), **super().state()}

    def train(self, mels: Tensor, notes: Tensor) -> None:
        """Train on notes as `notes.read_notes` returns them, with regular checks on some of them.

        Mels are (F, 128), rows of notes (N, 7).
        """
        held_out, others = self._divided(notes)

        def check() -> None:
            shares = torch.linspace(0, 1, CHECK_FRAMES)
            frames = (shares * (held_out[:, 5:6] - 1)).long()
            kept, self.model = self.model, self.averaged()
            with torch.no_grad():
                self.log(held_out_loss=float(self._loss(mels, held_out, frames)))
            self.model = kept

        self.run(lambda: self._update(mels, others), check)

    def _divided(self, notes: Tensor) -> tuple[Tensor, Tensor]:
        """The notes to check on, and the others; the same ones after an interruption."""
        source = torch.Generator().manual_seed(self.options.seed)
        is_held_out = torch.rand(len(notes), generator=source) < HELD_OUT_SHARE
        is_held_out[0] = True
        return notes[is_held_out], notes[~is_held_out]

    def _update(self, mels: Tensor, notes: Tensor) -> dict[str, float]:
        """Take one training step, and return its loss."""
        size, is_drum = self.options.batch_size, notes[:, 0] == DRUM_KIT
        count = round(DRUM_SHARE * size)
        drums, others = notes[is_drum], notes[~is_drum]
        rows = torch.cat([self._choose(others, size - count), self._choose(drums, count)])
        for optimizer, factor in zip(
            self.optimizers, (1.0, self.options.vector_factor), strict=True
        ):
            optimizer.param_groups[0]["lr"] = factor * self._rate()
        loss = self._loss(mels, rows, self._frames(rows))
        self.descend(loss, self.model, *self.optimizers)
        self.end_step()
        return {"loss": float(loss.detach())}

    def _rate(self) -> float:
        options = self.options
        falling = max(1.0, options.decay_share * options.steps)
        left = (options.steps - self.step) / falling
        peak = options.learning_rate * min(1.0, options.steps / options.full_rate_steps)
        return peak * min(1.0, (self.step + 1) / options.warmup, left)

    def _choose(self, notes: Tensor, count: int) -> Tensor:
        return notes[torch.randint(len(notes), (count,), generator=self.generator)]

    def _draw(self, low: int, high: int, rows: int) -> Tensor:
        return torch.randint(low, high, (rows, FRAMES // 4), generator=self.generator)

    def _frames(self, rows: Tensor) -> Tensor:
        """Frames (N, FRAMES) to learn from, of notes (N, 7): some near onsets and ends."""
        count, quarter = rows[:, 5:6], FRAMES // 4
        drawn = torch.rand(len(rows), FRAMES, generator=self.generator)
        frames = (drawn * count).long()
        frames[:, :quarter] = self._draw(0, NEAR_ONSET, len(rows))
        end = (rows[:, 3:4] + rows[:, 4:5]) // STEPS_PER_FRAME - 1
        frames[:, quarter : 2 * quarter] = end + self._draw(-1, AFTER_END - 1, len(rows))
        return frames.clamp(min=0).minimum(count - 1)

    def _loss(self, mels: Tensor, rows: Tensor, frames: Tensor) -> Tensor:
        """Weighted mean absolute error, in nats, of frames (N, F) of notes (N, 7)."""
        program, pitch, velocity, onset, length, _, first = rows.unbind(1)
        wanted = mels[(first[:, None] + frames).flatten()].float().to(self.device)
        age = STEPS_PER_FRAME * (frames + 1) - onset[:, None]
        rest = age - length[:, None]
        rest[program == DRUM_KIT] = -2 * STEPS_PER_WINDOW  # a drum hit has no end
        number = torch.arange(len(rows)).repeat_interleave(frames.shape[1])
        times = torch.stack([age.flatten(), rest.flatten()], 1)
        inputs: list[Any] = [program, pitch, velocity, number, times]
        predicted = self.model.log_mels(*(x.to(self.device) for x in inputs))
        error = predicted - wanted
        error = torch.where(wanted > SILENT, error.abs(), error.relu())
        loudest = torch.maximum(wanted, predicted.detach())
        audible = torch.sigmoid((loudest - LOUD) / SOFTNESS)
        weight = LEAST_WEIGHT + (1 - LEAST_WEIGHT) * audible
        return (error * weight).sum() / weight.sum()
