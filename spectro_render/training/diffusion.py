"""Trains the Transformer: which optimisers, which steps, and what is checked on the way."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from spectro_render.constants import WINDOW_FRAMES
from spectro_render.diffusion import noise_source
from spectro_render.errors import OptionError, SpectroRenderError
from spectro_render.mel import from_model
from spectro_render.network.build import make_model
from spectro_render.network.config import ModelConfig
from spectro_render.network.frames import NATS
from spectro_render.network.model import MelModel
from spectro_render.options import Sampling
from spectro_render.training.data import TrainingBatch, Windows
from spectro_render.training.muon import Muon
from spectro_render.training.objective import make_objective
from spectro_render.training.run import Average, RunOptions, TrainingRun

CHECK_WINDOWS = 16


@dataclass(frozen=True)
class TrainingOptions(RunOptions):
    """How to train the Transformer.

    Training of the bundled weights began with these defaults; their model card tells the rest.
    """

    learning_rate: float = 3e-3  # peak, of Muon on the hidden matrices
    adam_rate: float = 1e-3  # peak, of AdamW on everything else
    warmup: int = 50  # steps in which the learning rates rise
    decay_share: float = 0.4  # share of the steps, at the end, in which they fall to zero
    loss: str = "l1"  # one of LOSSES; of a diffusion model only


def optimizers(model: MelModel, options: TrainingOptions) -> list[torch.optim.Optimizer]:
    """Muon for the matrices between hidden layers, AdamW for tables, gains, inputs and outputs."""
    hidden: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for module_name, module in model.named_modules():
        outer = module_name in _OUTER_LAYERS
        for parameter in module.parameters(recurse=False):
            is_hidden = isinstance(module, nn.Linear) and parameter.ndim == 2 and not outer
            (hidden if is_hidden else others).append(parameter)
    return [
        Muon(hidden, lr=options.learning_rate),
        torch.optim.AdamW(others, lr=options.adam_rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]


_OUTER_LAYERS = {
    "decoder.input",
    "decoder.output",
    "context.input",
    "context.tail.spread",
    "notes.notes.log_power",
    "notes.notes.draft",
}


def rate_factor(step: int, options: TrainingOptions) -> float:
    """Learning rate at a step, as a share of its peak: warm up, hold, fall linearly to zero."""
    falling = max(1.0, options.decay_share * options.steps)
    return min(1.0, (step + 1) / options.warmup, (options.steps - step) / falling)


class Trainer(TrainingRun[MelModel]):
    """A training run of the Transformer, which also draws pictures `mel-*.png` into its folder."""

    options: TrainingOptions

    def __init__(
        self,
        config: ModelConfig,
        options: TrainingOptions,
        folder: Path,
        device: torch.device,
        say: Callable[[str], None] = print,
    ) -> None:
        super().__init__(lambda: make_model(config), options, folder, device, say)
        self.objective = make_objective(self.model, self.generator, options.loss)
        self.optimizers = optimizers(self.model, options)

    def state(self) -> dict[str, Any]:
        """What the checkpoint holds; the configuration tells which network the weights fit."""
        return {"config": asdict(self.model.config), **super().state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over the contents of a checkpoint. Raises OptionError for another network's."""
        if ModelConfig(**state["config"]) != self.model.config:
            raise OptionError(
                f"{self.checkpoint} is of another network", "choose another --work, or its --preset"
            )
        super().restore(state)

    def start_from(self, model: MelModel) -> None:
        """Begin with the weights of a trained model. Raises OptionError for another shape."""
        if model.config != self.model.config:
            raise OptionError(
                "these weights belong to a network of another shape", "match --preset"
            )
        self.model.load_state_dict(model.state_dict())
        self.average = Average(self.model, self.options.ema_decay)

    def train(self, windows: Windows, held_out: Windows) -> None:
        """Train to the last step on `windows`, and check on the held-out ones on the way.

        Raises SpectroRenderError where there are too few windows of either.
        """
        if len(windows) < self.options.batch_size or not len(held_out):
            raise SpectroRenderError(
                f"{len(windows)} windows to learn from and {len(held_out)} to check on are too few",
                "run the data stage first, with more --hours",
            )
        batches = self._batches(windows)

        def update() -> dict[str, float]:
            loss = self._update(next(batches))
            if self.objective.own_predictions is not None:
                windows.keep_predictions(*self.objective.own_predictions)
            return {"loss": loss}

        self.run(update, lambda: self._check(held_out))

    def _update(self, batch: TrainingBatch) -> float:
        """Make one step, and return its loss."""
        peaks = self.options.learning_rate, self.options.adam_rate
        for optimizer, peak in zip(self.optimizers, peaks, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = peak * rate_factor(self.step, self.options)
        self.model.train()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            loss = self.objective(batch.to(self.device))
        self.descend(loss, self.model, *self.optimizers)
        self.end_step()
        return float(loss.detach())

    def _batches(self, windows: Windows) -> Iterator[TrainingBatch]:
        """Batches in random order, endlessly; no window is repeated before all have been used."""
        while True:
            windows.refresh()
            order = torch.randperm(len(windows), generator=self.generator).tolist()
            size = self.options.batch_size
            for start in range(0, len(order) - size + 1, size):
                yield windows.batch(order[start : start + size])

    def _check(self, held_out: Windows) -> None:
        """Draw held-out windows with the averaged weights; log their errors, plot some of them."""
        held_out.refresh()
        # At random: evenly spaced ones would always be the same part of a piece.
        chosen = torch.randperm(len(held_out), generator=torch.Generator().manual_seed(0))
        batch = held_out.batch(chosen[:CHECK_WINDOWS].tolist()).to(self.device)
        drawn, draft = sample_windows(self.averaged(), batch)
        self.log(
            sample_error=float((drawn - batch.target).abs().mean()) * NATS,
            draft_error=float((draft - batch.target).abs().mean()) * NATS,
            correlation=correlation(drawn, batch.target),
        )
        picture = self.folder / f"mel-{self.step:07d}.png"
        plot_mels(picture, {"truth": batch.target, "sample": drawn, "draft": draft})


@torch.inference_mode()
def sample_windows(
    model: MelModel, batch: TrainingBatch, steps: int = 10, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Mels drawn by the model after true contexts, and its drafts; (B, T, M) in [-1, 1] each.

    A diffusion model takes `steps` steps of DPM-Solver++, without guidance. For a model without
    drafts, the mels are returned twice.
    """
    memory = model.encode(batch.notes, batch.context, batch.has_context)
    noise = noise_source(seed, range(len(batch.target)), batch.target.device)
    mel = model.draw(memory, noise, Sampling("dpm++", steps, guidance=1.0, seed=seed))
    return mel, mel if memory.draft is None else memory.draft.clamp(-1, 1)


def correlation(a: Tensor, b: Tensor) -> float:
    """Pearson's correlation of two mels (B, T, M) within each window, averaged over windows."""
    a, b = (x.flatten(1) - x.flatten(1).mean(1, keepdim=True) for x in (a, b))
    scale = (a.norm(dim=1) * b.norm(dim=1)).clamp(min=1e-8)
    return float(((a * b).sum(1) / scale).mean())


def plot_mels(path: Path, mels: dict[str, Tensor], columns: int = 4) -> None:
    """Write a PNG with a row for each name: the first mels of its (B, T, M), in [-1, 1]."""
    figure = Figure(figsize=(4 * columns, 2.4 * len(mels)), layout="constrained")
    axes = figure.subplots(len(mels), columns, squeeze=False)
    for row, (name, mel) in zip(axes, mels.items(), strict=True):
        pictures = from_model(mel[:columns]).mT.float().cpu().numpy()
        for axis, picture in zip(row, pictures, strict=False):
            axis.imshow(picture, origin="lower", aspect="auto", vmin=-10, vmax=3)
            axis.set_title(name)
            axis.set_xticks(range(0, WINDOW_FRAMES + 1, 50))
    figure.savefig(path, dpi=70)
