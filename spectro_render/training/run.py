"""A training run in a folder: its log, its checkpoint, and the loop over its steps.

The runs of the Transformer (`diffusion.py`) and of the vocoder (`vocoder.py`) build on it.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from spectro_render.atomic import new_file
from spectro_render.training.progress import clock

SAVE_SECONDS = 60.0  # after which a checkpoint is written, so that a killed run loses little
# Steps after which a run with a limited time chooses its number of steps by their speed: soon, so
# that it can be told how long it takes, and again when the speed is better known.
PROBE_STEPS = 6, 60
LOG = "log.jsonl"
STEPS = "steps.json"  # in the run's folder: that number

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class RunOptions:
    """The settings that every training run has."""

    steps: int = 10_000
    seconds: float | None = None  # that the steps may take; their number then follows from it
    batch_size: int = 16
    gradient_clip: float = 1.0  # largest norm of the gradient of one network
    ema_decay: float = 0.998  # decay per step of the average of the weights
    seed: int = 0
    log_every: int = 50  # steps
    check_every: int = 500  # steps


class Average:
    """Exponential moving average of a network's weights."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {name: p.detach().clone() for name, p in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Update the average with the weights after `step` steps; the first steps decay faster."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in network.state_dict().items():
            self.weights[name].lerp_(value, 1 - decay)


class TrainingRun(Generic[Network]):
    """The training of one network, with `log.jsonl` and `checkpoint.pt` in the run's folder.

    Random numbers come from the seed alone: from `generator`, and from torch's own generator for
    initial weights and dropout. Subclasses fill `optimizers`.
    """

    options: RunOptions

    def __init__(
        self,
        make_network: Callable[[], Network],
        options: RunOptions,
        folder: Path,
        device: torch.device,
        say: Callable[[str], None] = print,
    ) -> None:
        """`say` is called with each row of the log, as readable text."""
        torch.manual_seed(options.seed)
        self.options, self.folder, self.device, self.say = options, folder, device, say
        self._make_network = make_network
        self.model = make_network().to(device)
        self.average = Average(self.model, options.ema_decay)
        self.optimizers: list[torch.optim.Optimizer] = []
        self.generator = torch.Generator().manual_seed(options.seed)
        self.step = 0
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def checkpoint(self) -> Path:
        """The file that `save` writes."""
        return self.folder / "checkpoint.pt"

    def save(self) -> None:
        """Write the checkpoint; if writing is interrupted, the previous checkpoint stays.

        Raises OutputError if it cannot be written.
        """
        with new_file(self.checkpoint) as temporary:
            torch.save(self.state(), temporary)

    def resume(self) -> None:
        """Continue from the folder's checkpoint, with the same numbers as without interruption.

        Rows that the interrupted run logged after it are removed.
        """
        self.restore(torch.load(self.checkpoint, map_location=self.device, weights_only=True))
        log = self.folder / LOG
        if log.exists():
            rows = [row for row in log.read_text().splitlines() if _step_of(row) <= self.step]
            with new_file(log) as temporary:
                temporary.write_text("".join(row + "\n" for row in rows))

    def state(self) -> dict[str, Any]:
        """The contents of a checkpoint."""
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "average": self.average.weights,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "generator": self.generator.get_state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from the contents of a checkpoint."""
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        self.average.weights = state["average"]
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.generator.set_state(state["generator"].cpu())

    def averaged(self) -> Network:
        """A network with the averaged weights, in evaluation mode."""
        network = self._make_network().to(self.device).eval()
        network.load_state_dict(self.average.weights)
        return network

    def run(self, update: Callable[[], dict[str, float]], check: Callable[[], None]) -> None:
        """Train to the last step, with regular log rows and checkpoints.

        `update` takes one step, which ends with `end_step`, and returns its losses by name; the
        log has their means. `check` is called after each regular checkpoint.
        """
        losses: list[dict[str, float]] = []
        probes: list[float] = []  # seconds of each step that the number of steps follows from
        seconds, pace, saved = 0.0, 0.0, time.monotonic()
        self._take_planned_steps()
        while self.step < self.options.steps:
            started = time.monotonic()
            losses.append(update())
            took = time.monotonic() - started
            seconds += took
            pace = took if not pace else 0.9 * pace + 0.1 * took
            if self.options.seconds is not None and self.step <= PROBE_STEPS[-1]:
                probes.append(took)
                if self.step in PROBE_STEPS:
                    self._plan_steps(probes)
            is_last = self.step >= self.options.steps
            if self.step % self.options.log_every == 0 or is_last:
                rate = len(losses) * self.options.batch_size / seconds
                # Some losses begin later than others.
                names = dict.fromkeys(name for row in losses for name in row)
                found = {name: [row[name] for row in losses if name in row] for name in names}
                means = {name: sum(values) / len(values) for name, values in found.items()}
                self.log(**means, examples_per_second=rate, seconds_left=pace * self._steps_left)
                losses, seconds = [], 0.0
            if self.step % self.options.check_every == 0 or is_last:
                self.save()
                check()
                saved = time.monotonic()
            elif time.monotonic() - saved > SAVE_SECONDS:
                self.save()
                saved = time.monotonic()

    @property
    def _steps_left(self) -> int:
        return self.options.steps - self.step

    def _take_planned_steps(self) -> None:
        """Use the number of steps that an interrupted run had found to fit its time."""
        planned = self.folder / STEPS
        if self.options.seconds is not None and planned.exists():
            self.options = replace(self.options, steps=json.loads(planned.read_text()))

    def _plan_steps(self, took: list[float]) -> None:
        """Choose as many steps as fit, given the seconds that the first ones took.

        The very first are slower than all others, and do not count.
        """
        assert self.options.seconds is not None
        usual = took[PROBE_STEPS[0] // 2 :] or took
        steps = max(self.step, round(self.options.seconds * len(usual) / sum(usual)))
        with new_file(self.folder / STEPS) as temporary:
            temporary.write_text(json.dumps(steps))
        self.options = replace(self.options, steps=steps)

    def descend(self, loss: Tensor, network: nn.Module, *optimizers: torch.optim.Optimizer) -> None:
        """Take one step down the gradient of a loss, a scalar, with the network's optimizers."""
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), self.options.gradient_clip)
        for optimizer in optimizers:
            optimizer.step()

    def end_step(self) -> None:
        """Count a step that has been taken, and update the average of the weights."""
        self.step += 1
        self.average.update(self.model, self.step)

    def log(self, seconds_left: float | None = None, **numbers: float) -> None:
        """Append a row to the log, and pass it to `say` with the time that is left."""
        row = {"step": self.step, **{key: round(value, 4) for key, value in numbers.items()}}
        with (self.folder / LOG).open("a") as file:
            file.write(json.dumps(row) + "\n")
        text = "  ".join(f"{key} {value}" for key, value in row.items())
        self.say(text if seconds_left is None else f"{text}  {clock(seconds_left)} left")


def _step_of(row: str) -> float:
    """The step of a row of the log; infinity for a row that was cut off."""
    try:
        return float(json.loads(row)["step"])
    except ValueError:
        return float("inf")
