"""Training the Transformer: optimisers, loop, checkpoints, and a look at what it draws."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

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
from spectro_render.training.data import Batch, Windows
from spectro_render.training.muon import Muon
from spectro_render.training.objective import make_objective

CHECK_WINDOWS = 16


@dataclass(frozen=True)
class TrainingOptions:
    """How to train; the bundled weights were begun with these defaults, their card has the rest."""

    steps: int = 10_000
    batch_size: int = 16
    learning_rate: float = 3e-3  # of Muon, on the hidden matrices
    adam_rate: float = 1e-3  # of AdamW, on everything else
    warmup: int = 50  # steps
    decay_share: float = 0.4  # of the steps: at the end, linearly to zero
    ema_decay: float = 0.998
    gradient_clip: float = 1.0
    loss: str = "l1"  # one of LOSSES
    seed: int = 0
    log_every: int = 50
    check_every: int = 500


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


class Average:
    """Exponential moving average of a model's weights."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {name: p.detach().clone() for name, p in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            self.weights[name].lerp_(value, 1 - decay)


class Trainer:
    """One training run in a folder: `log.jsonl`, `checkpoint.pt`, `mel-*.png`."""

    def __init__(
        self,
        config: ModelConfig,
        options: TrainingOptions,
        folder: Path,
        device: torch.device,
        say: Callable[[str], None] = print,
    ) -> None:
        torch.manual_seed(options.seed)
        self.options, self.folder, self.device, self.say = options, folder, device, say
        self.model = make_model(config).to(device)
        self.generator = torch.Generator().manual_seed(options.seed)
        self.objective = make_objective(self.model, self.generator, options.loss)
        self.optimizers = optimizers(self.model, options)
        self.average = Average(self.model, options.ema_decay)
        self.step = 0
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    def save(self) -> None:
        """Write the whole state of the run; an interrupted write leaves the last one whole."""
        state = {
            "config": asdict(self.model.config),
            "step": self.step,
            "model": self.model.state_dict(),
            "average": self.average.weights,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "generator": self.generator.get_state(),
        }
        temporary = self.checkpoint.with_suffix(".tmp")
        torch.save(state, temporary)
        temporary.rename(self.checkpoint)

    def resume(self) -> None:
        """Go on from the folder's checkpoint."""
        state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        if ModelConfig(**state["config"]) != self.model.config:
            raise OptionError(
                f"{self.checkpoint} is of another network", "choose another --work, or its --preset"
            )
        self.model.load_state_dict(state["model"])
        self.average.weights = state["average"]
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.generator.set_state(state["generator"].cpu())
        self.step = state["step"]

    def start_from(self, model: MelModel) -> None:
        """Begin with the weights of a trained model of the same shape."""
        if model.config != self.model.config:
            raise OptionError(
                "these weights belong to a network of another shape", "match --preset"
            )
        self.model.load_state_dict(model.state_dict())
        self.average = Average(self.model, self.options.ema_decay)

    def train(self, windows: Windows, held_out: Windows) -> None:
        """Run to the last step, logging, checking on held-out windows and saving on the way."""
        if len(windows) < self.options.batch_size or not len(held_out):
            raise SpectroRenderError(
                f"{len(windows)} windows to learn from and {len(held_out)} to check on are too few",
                "run the data stage first, with more --hours",
            )
        batches = self._batches(windows)
        losses, started = [], time.monotonic()
        while self.step < self.options.steps:
            losses.append(self._update(next(batches)))
            if self.objective.said is not None:
                windows.remember(*self.objective.said)
            if self.step % self.options.log_every == 0:
                rate = len(losses) * self.options.batch_size / (time.monotonic() - started)
                self._log(loss=sum(losses) / len(losses), windows_per_second=rate)
                losses, started = [], time.monotonic()
            if self.step % self.options.check_every == 0 or self.step == self.options.steps:
                self.save()
                self._check(held_out)
                started = time.monotonic()

    def _update(self, batch: Batch) -> float:
        for optimizer, peak in zip(self.optimizers, self._peaks, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = peak * rate_factor(self.step, self.options)
            optimizer.zero_grad()
        self.model.train()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            loss = self.objective(batch.to(self.device))
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), self.options.gradient_clip)
        for optimizer in self.optimizers:
            optimizer.step()
        self.step += 1
        self.average.update(self.model, self.step)
        return float(loss.detach())

    @property
    def _peaks(self) -> tuple[float, float]:
        return self.options.learning_rate, self.options.adam_rate

    def _batches(self, windows: Windows) -> Iterator[Batch]:
        """Every window once before any comes again, in random order."""
        while True:
            windows.refresh()
            order = torch.randperm(len(windows), generator=self.generator).tolist()
            size = self.options.batch_size
            for start in range(0, len(order) - size + 1, size):
                yield windows.batch(order[start : start + size])

    def _check(self, held_out: Windows) -> None:
        """Sample held-out windows from the averaged weights; log their error, draw some."""
        held_out.refresh()
        # At random, as every so many-th would always meet a song at the same place.
        chosen = torch.randperm(len(held_out), generator=torch.Generator().manual_seed(0))
        batch = held_out.batch(chosen[:CHECK_WINDOWS].tolist()).to(self.device)
        model = make_model(self.model.config).to(self.device).eval()
        model.load_state_dict(self.average.weights)
        drawn, draft = sample_windows(model, batch)
        self._log(
            sample_error=float((drawn - batch.target).abs().mean()) * NATS,
            draft_error=float((draft - batch.target).abs().mean()) * NATS,
            correlation=correlation(drawn, batch.target),
        )
        picture = self.folder / f"mel-{self.step:07d}.png"
        plot_mels(picture, {"truth": batch.target, "sample": drawn, "draft": draft})

    def _log(self, **numbers: float) -> None:
        row = {"step": self.step, **{key: round(value, 4) for key, value in numbers.items()}}
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        self.say("  ".join(f"{key} {value}" for key, value in row.items()))


@torch.inference_mode()
def sample_windows(
    model: MelModel, batch: Batch, steps: int = 10, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Samples of a batch, each after its true context, and the drafts; (B, T, M).

    A diffusion model takes so many steps of DPM-Solver++.
    """
    memory = model.encode(batch.notes, batch.context, batch.heard)
    noise = noise_source(seed, range(len(batch.target)), batch.target.device)
    mel = model.draw(memory, noise, Sampling("dpm++", steps, guidance=1.0, seed=seed))
    return mel, mel if memory.draft is None else memory.draft.clamp(-1, 1)


def correlation(a: Tensor, b: Tensor) -> float:
    """Pearson's correlation over all bands and frames of (B, T, M), window by window, mean."""
    a, b = (x.flatten(1) - x.flatten(1).mean(1, keepdim=True) for x in (a, b))
    scale = (a.norm(dim=1) * b.norm(dim=1)).clamp(min=1e-8)
    return float(((a * b).sum(1) / scale).mean())


def plot_mels(path: Path, mels: dict[str, Tensor], columns: int = 4) -> None:
    """Draw the first windows of each set under one another, into a PNG."""
    figure = Figure(figsize=(4 * columns, 2.4 * len(mels)), layout="constrained")
    axes = figure.subplots(len(mels), columns, squeeze=False)
    for row, (name, mel) in zip(axes, mels.items(), strict=True):
        pictures = from_model(mel[:columns]).mT.float().cpu().numpy()
        for axis, picture in zip(row, pictures, strict=False):
            axis.imshow(picture, origin="lower", aspect="auto", vmin=-10, vmax=3)
            axis.set_title(name)
            axis.set_xticks(range(0, WINDOW_FRAMES + 1, 50))
    figure.savefig(path, dpi=70)
