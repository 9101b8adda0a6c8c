"""How fast the three trainings are: examples a second a core, against their matrix products alone.

Run from the checkout's top level: python -m tests.benchmarks.bench_train [--steps N]

One thread, and CPU time, so that other programs disturb little. The floor is the time that a step's
products and convolutions would take at the rate of a large matrix product, measured between the
steps. The data are made up (their sound does not matter to speed): no soundfont is needed. The
Transformer is timed on windows that it has not seen before, and on windows that it has.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from safetensors.torch import save_file
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from spectro_render.constants import N_MELS, WINDOW_FRAMES, WINDOW_SAMPLES, WINDOW_SECONDS
from spectro_render.network.curves import DRUM_KIT
from spectro_render.network.presets import PRESETS
from spectro_render.tokens.vocabulary import Vocabulary
from spectro_render.tokens.write import tokenize
from spectro_render.training.compose import made_up
from spectro_render.training.curves import CurveOptions, CurveTrainer
from spectro_render.training.data import Windows, piece_notes
from spectro_render.training.diffusion import Trainer, TrainingOptions
from spectro_render.training.soundfont import RecordingMap
from spectro_render.training.vocoder import Recordings, VocoderOptions, VocoderTrainer
from spectro_render.vocoder.melgan import VocoderConfig

CONFIG = PRESETS["bundled"]
PIECES, PIECE_WINDOWS = 16, 12
PRODUCTS = ("mm", "bmm", "addmm", "baddbmm", "convolution", "mkldnn", "conv2d", "linear")
OPTIMISER = ("_fused_adam", "lerp_", "_foreach", "linalg_vector_norm", "addcmul_", "addcdiv_")


@dataclass
class Timed:
    """What was measured of one training."""

    seconds: float  # of CPU time, of one step
    floor: float  # of those, for the products alone
    shares: dict[str, float]  # of a step's time, by kind of operation


def write_music(folder: Path) -> None:
    """A shard of made-up music whose mels and samples are noise."""
    vocabulary, generator = Vocabulary(CONFIG.velocity_bins, CONFIG.programs), Random(0)
    parts = []
    for _ in range(PIECES):
        score = made_up(generator, (PIECE_WINDOWS - 0.5) * WINDOW_SECONDS)
        windows = tokenize(score, vocabulary, seconds=PIECE_WINDOWS * WINDOW_SECONDS)
        parts.append(piece_notes(windows[:PIECE_WINDOWS], vocabulary))
    tensors = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
    count = PIECES * PIECE_WINDOWS
    tensors["mel"] = torch.randn(count, WINDOW_FRAMES, N_MELS).sub(5).half()
    tensors["samples"] = 0.1 * torch.randn(count, WINDOW_SAMPLES)
    tensors["piece"] = torch.arange(PIECES).repeat_interleave(PIECE_WINDOWS).int()
    save_file(tensors, folder / "shard-00000.safetensors")


def made_up_notes(count: int = 2000, frames: int = 200) -> tuple[torch.Tensor, torch.Tensor]:
    """Mels and rows of single notes, as `notes.read_notes` returns them."""
    columns = [
        torch.randint(DRUM_KIT + 1, (count,)),
        torch.randint(128, (count,)),
        torch.randint(CONFIG.velocity_bins + 1, (count,)),
        torch.full((count,), 4),
        torch.full((count,), 2 * frames - 200),
        torch.full((count,), frames),
        frames * torch.arange(count),
    ]
    return torch.randn(count * frames, N_MELS).sub(5).half(), torch.stack(columns, 1)


def made_up_recordings() -> RecordingMap:
    """As many recordings as the bundled model's soundfont has, each for some keys."""
    shape = DRUM_KIT + 1, 128, CONFIG.velocity_bins + 1
    each, rest = divmod(CONFIG.recorded_frames, CONFIG.recordings)
    frames = torch.full((CONFIG.recordings,), float(each))
    frames[-1] += rest
    nothing = torch.zeros(CONFIG.recordings)
    recording = torch.randint(CONFIG.recordings, shape).float()
    return RecordingMap(recording, torch.ones(shape), frames, nothing, nothing)


def product_rate() -> float:
    """Floating-point operations a second of CPU time, of a product of large matrices."""
    a = torch.randn(1024, 1024)
    begin = time.process_time()
    for _ in range(5):
        a @ a
    return 5 * 2 * 1024**3 / (time.process_time() - begin)


def measure(step: Callable[[], object], steps: int) -> Timed:
    """Time a training step, count its products, and sort its operations by kind."""
    with FlopCounterMode(display=False) as counter:
        step()
    seconds, rates = [], []
    for _ in range(steps):
        rates.append(product_rate())
        begin = time.process_time()
        step()
        seconds.append(time.process_time() - begin)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        step()
    found = {"products": 0.0, "optimiser": 0.0, "other": 0.0}
    for event in profiler.key_averages():
        name = event.key.removeprefix("aten::")
        kind = "optimiser" if name.startswith(OPTIMISER) else "other"
        found["products" if name.startswith(PRODUCTS) else kind] += event.self_cpu_time_total
    total = sum(found.values())
    middle = sorted(rates)[steps // 2]
    shares = {kind: value / total for kind, value in found.items()}
    return Timed(sorted(seconds)[steps // 2], counter.get_total_flops() / middle, shares)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=5, help="of each training; the median counts")
    steps = parser.parse_args().steps
    torch.set_num_threads(1)
    torch.manual_seed(0)
    device = torch.device("cpu")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_music(folder)
        curves = CurveTrainer(CONFIG, made_up_recordings(), CurveOptions(), folder / "c", device)
        mels, notes = made_up_notes()
        transformer = Trainer(CONFIG, TrainingOptions(), folder / "t", device)
        windows = Windows(folder, CONFIG.conditioning, CONFIG.memory_steps)
        batches, known = transformer._batches(windows), windows.batch(range(16))
        config = VocoderConfig(contrast=1.3, lines=40, attacks=True)
        vocoder = VocoderTrainer(config, VocoderOptions(), folder / "v", device)
        recordings = Recordings([folder / "shard-00000.safetensors"])
        trainings: dict[str, tuple[Callable[[], object], int]] = {
            "curves of notes": (lambda: curves._update(mels, notes), curves.options.batch_size),
            "Transformer, new windows": (lambda: transformer._update(next(batches)), 16),
            "Transformer, known windows": (lambda: transformer._update(known), 16),
            "vocoder": (lambda: vocoder._update(recordings), vocoder.options.batch_size),
        }
        print(
            "training                    s/step  examples/s/core  floor  products optimiser other"
        )
        for name, (step, size) in trainings.items():
            found = measure(step, steps)
            shares = "  ".join(f"{100 * share:7.0f}%" for share in found.shares.values())
            print(
                f"{name:27} {found.seconds:6.3f}  {size / found.seconds:15.1f}"
                f"  {100 * found.floor / found.seconds:4.0f}%  {shares}",
                flush=True,
            )


if __name__ == "__main__":
    main()
