"""Trains the Transformer: optimisers, learning rates, steps and checks."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from spectro_render.constants import N_MELS, WINDOW_FRAMES
from spectro_render.diffusion import noise_source
from spectro_render.errors import OptionError, SpectroRenderError
from spectro_render.mel import from_model
from spectro_render.network.build import make_model
from spectro_render.network.config import ModelConfig
from spectro_render.network.curves import NoteCurves
from spectro_render.network.frames import NATS, NoteFrames
from spectro_render.network.model import Decoder, MelModel
from spectro_render.options import Sampling
from spectro_render.training.data import TrainingBatch, Windows
from spectro_render.training.muon import Muon
from spectro_render.training.objective import make_objective
from spectro_render.training.run import Average, RunOptions, TrainingRun

RISING_SHARE = 0.25
CHECK_WINDOWS = 16
DRAWN_AT_ONCE = 8  # windows


@dataclass(frozen=True)
class TrainingOptions(RunOptions):
    """How to train the Transformer.

    The bundled weights were first trained with these defaults; their model card has the details.
    """

    learning_rate: float = 3e-3  # peak, of Muon on the hidden matrices
    adam_rate: float = 1e-3  # peak, of AdamW on everything else
    # Steps in which the learning rates rise. Those of the curves do so in RISING_SHARE of all at
    # most; the decoder of a model to start from gets worse by a few steps at the full rate.
    warmup: int = 50
    decay_share: float = 0.4  # share of the steps, at the end, in which they fall to zero
    loss: str = "l1"  # one of LOSSES; only for diffusion models
    frozen: bool = False  # whether the encoders of notes and context stay as they are
    curve_rate: float | None = None  # peak, of Adam on the draft's curves; None: they stay
    vector_factor: float = 10.0  # of that rate, for the vectors of keys and recordings


def optimizers(model: MelModel, options: TrainingOptions) -> list[torch.optim.Optimizer]:
    """Make Muon for matrices between hidden layers, AdamW for tables, gains, inputs and outputs.

    A third and a fourth one, Adam, are for the curves of the draft, if these are trained: for what
    all notes share, and for the vectors of keys and recordings, which few notes have.
    """
    hidden: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    curves: list[nn.Parameter] = []
    vectors: list[nn.Parameter] = []
    for module_name, module in model.named_modules():
        if module_name.startswith(_CURVES):
            group = vectors if module_name in _VECTORS else curves
            group += (p for p in module.parameters(recurse=False) if p.requires_grad)
            continue
        outer = module_name in _OUTER_LAYERS
        for parameter in module.parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            is_hidden = isinstance(module, nn.Linear) and parameter.ndim == 2 and not outer
            (hidden if is_hidden else others).append(parameter)
    chosen: list[torch.optim.Optimizer] = [
        Muon(hidden, lr=options.learning_rate),
        torch.optim.AdamW(
            others, lr=options.adam_rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True
        ),
    ]
    if curves and options.curve_rate is not None:
        for group in (curves, vectors):
            chosen.append(
                torch.optim.Adam(group, lr=options.curve_rate, betas=(0.9, 0.98), fused=True)
            )
    return chosen


_CURVES = "notes.notes.curves"
_VECTORS = {f"{_CURVES}.key", f"{_CURVES}.latent"}
_OUTER_LAYERS = {
    "decoder.input",
    "decoder.output",
    "context.input",
    "context.tail.spread",
    "notes.notes.log_power",
    "notes.notes.draft",
}


def rate_factor(step: int, options: TrainingOptions) -> float:
    """Learning rate at a step as a share of its peak: it rises, stays, and falls to zero."""
    falling = max(1.0, options.decay_share * options.steps)
    return min(1.0, (step + 1) / options.warmup, (options.steps - step) / falling)


class DraftCache:
    """Drafts of windows, kept because curves that are not trained always draw the same ones."""

    def __init__(self, notes: NoteFrames) -> None:
        self._notes = notes
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}  # (1 + T, M) and (1, M) float16 each

    @torch.no_grad()
    def add_to(self, batch: TrainingBatch) -> TrainingBatch:
        """The batch with its drafts."""
        numbers = batch.numbers.tolist()
        missing = [row for row, number in enumerate(numbers) if number not in self._kept]
        if missing:
            drawn = (x.half().unbind() for x in self._notes.draw_draft(batch.notes[missing]))
            self._kept.update(
                zip((numbers[row] for row in missing), zip(*drawn, strict=True), strict=True)
            )
        drafts, shares = zip(*(self._kept[number] for number in numbers), strict=True)
        return replace(batch, drafted=(torch.stack(drafts).float(), torch.stack(shares).float()))


class Trainer(TrainingRun[MelModel]):
    """A training run of the Transformer; pictures `mel-*.png` in its folder show its progress."""

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
        self._drafts: DraftCache | None = None
        for module in self.model.modules():
            if not isinstance(module, NoteFrames) or module.curves is None:
                continue
            if options.curve_rate is None:  # trained on single notes, by `curves.py`
                module.curves.requires_grad_(False)
                self._drafts = DraftCache(module)
        if options.frozen:
            for name, parameter in self.model.named_parameters():
                if name.startswith(("notes.", "context.")) and not name.startswith(_CURVES):
                    parameter.requires_grad_(False)
        self.objective = make_objective(self.model, self.generator, options.loss)
        self.optimizers = optimizers(self.model, options)

    def state(self) -> dict[str, Any]:
        """The contents of a checkpoint, with the configuration of the network."""
        return {"config": asdict(self.model.config), **super().state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from the contents of a checkpoint. Raises OptionError for another network."""
        if ModelConfig(**state["config"]) != self.model.config:
            raise OptionError(
                f"{self.checkpoint} belongs to another network",
                "choose another --work, or the --preset that it was trained with",
            )
        super().restore(state)

    def start_from(self, model: MelModel, curves: dict[str, Tensor] | None = None) -> None:
        """Begin with the weights of a trained model, but with other curves, a state of NoteCurves.

        Raises OptionError for another network.
        """
        own, known = self.model.config, model.config
        if curves is not None:
            known = replace(known, recordings=own.recordings, recorded_frames=own.recorded_frames)
        if known != own:
            raise OptionError(
                "the weights to start from belong to another network",
                "choose the --preset that they were trained with",
            )
        state = model.state_dict()
        if curves is not None:
            state |= {f"{_CURVES}.{name}": value for name, value in curves.items()}
        self.model.load_state_dict(state)
        self.average = Average(self.model, self.options.ema_decay)

    def start_with(self, curves: dict[str, Tensor]) -> None:
        """Begin with the trained curves of single notes, a state of `NoteCurves`.

        The draft is good from the first step on, so the decoder begins by leaving it as it is.
        """
        for module in self.model.modules():
            if isinstance(module, NoteCurves):
                module.load_state_dict(curves)
            elif isinstance(module, Decoder):
                nn.init.zeros_(module.output.weight)
        self.average = Average(self.model, self.options.ema_decay)

    def train(self, windows: Windows, held_out: Windows) -> None:
        """Train on `windows` to the last step, with regular checks on held-out windows.

        Raises SpectroRenderError if there are too few windows.
        """
        if len(windows) < self.options.batch_size or not len(held_out):
            raise SpectroRenderError(
                f"{len(windows)} windows to train on and {len(held_out)} held-out ones are too few",
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
        """Take one training step, and return its loss."""
        o = self.options
        soon = replace(o, warmup=max(1, min(o.warmup, round(RISING_SHARE * o.steps))))
        usual, own = rate_factor(self.step, o), (o.curve_rate or 0.0) * rate_factor(self.step, soon)
        rates = o.learning_rate * usual, o.adam_rate * usual, own, own * o.vector_factor
        for optimizer, rate in zip(self.optimizers, rates, strict=False):
            for group in optimizer.param_groups:
                group["lr"] = rate
        self.model.train()
        batch = batch.to(self.device)
        if self._drafts is not None:
            batch = self._drafts.add_to(batch)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            loss = self.objective(batch)
        self.descend(loss, self.model, *self.optimizers)
        self.end_step()
        return float(loss.detach())

    def _batches(self, windows: Windows) -> Iterator[TrainingBatch]:
        """Endless batches in random order; no window is repeated before all have been used."""
        while True:
            windows.refresh()
            order = torch.randperm(len(windows), generator=self.generator).tolist()
            size = self.options.batch_size
            for start in range(0, len(order) - size + 1, size):
                yield windows.batch(order[start : start + size])

    def _check(self, held_out: Windows) -> None:
        """Sample held-out windows with the averaged weights; log their errors and plot some."""
        held_out.refresh()
        # Chosen at random, as evenly spaced windows would all be the same part of a piece.
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
    """Sample mels with true contexts; returns them and the drafts, each (B, T, M) in [-1, 1].

    A diffusion model takes `steps` steps of DPM-Solver++, without guidance. A model without drafts
    gives the mels twice.
    """
    memory = model.encode(batch.notes, batch.context, batch.has_context)
    noise = noise_source(seed, range(len(batch.target)), batch.target.device)
    mel = model.draw(memory, noise, Sampling("dpm++", steps, guidance=1.0, seed=seed))
    return mel, mel if memory.draft is None else memory.draft.clamp(-1, 1)


def draw_mels(model: MelModel, windows: Windows, first: int, count: int) -> Tensor:
    """Natural log-mels (W, 256, 128), float16, of at most `count` windows from `first` on.

    Each is drawn after its true predecessor, in 3 steps.
    """
    numbers = range(first, min(first + count, len(windows)))
    device = next(model.parameters()).device
    drawn = [torch.zeros(0, WINDOW_FRAMES, N_MELS)]
    for start in numbers[::DRAWN_AT_ONCE]:
        batch = windows.batch([*range(start, min(start + DRAWN_AT_ONCE, numbers.stop))])
        mels, _ = sample_windows(model, batch.to(device), steps=3, seed=start)
        drawn.append(from_model(mels).cpu())
    return torch.cat(drawn).half()


def correlation(a: Tensor, b: Tensor) -> float:
    """Pearson's correlation of two mels (B, T, M): the mean over windows."""
    a, b = (x.flatten(1) - x.flatten(1).mean(1, keepdim=True) for x in (a, b))
    scale = (a.norm(dim=1) * b.norm(dim=1)).clamp(min=1e-8)
    return float(((a * b).sum(1) / scale).mean())


def plot_mels(path: Path, mels: dict[str, Tensor], columns: int = 4) -> None:
    """Draw the first mels of each name, (B, T, M) in [-1, 1], as a row of pictures in a PNG."""
    figure = Figure(figsize=(4 * columns, 2.4 * len(mels)), layout="constrained")
    axes = figure.subplots(len(mels), columns, squeeze=False)
    for row, (name, mel) in zip(axes, mels.items(), strict=True):
        pictures = from_model(mel[:columns]).mT.float().cpu().numpy()
        for axis, picture in zip(row, pictures, strict=False):
            axis.imshow(picture, origin="lower", aspect="auto", vmin=-10, vmax=3)
            axis.set_title(name)
            axis.set_xticks(range(0, WINDOW_FRAMES + 1, 50))
    figure.savefig(path, dpi=70)
