"""How long the published size takes to load, and how much memory beyond its weights.

Run from the checkout's top level: python -m tests.benchmarks.bench_load

Random weights are written to a temporary directory (1.7 GB) in diffusers' layout, and read once to
be in the page cache. Memory is the most that a fresh process held while it loaded less what it held
before (Linux only). Mapped pages of a file count, although the system may drop them at any time.
"""

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from spectro_render.checkpoints.files import PICKLE, TENSORS, open_tensors
from spectro_render.checkpoints.load import save_model
from spectro_render.checkpoints.manifest import write_checksums
from spectro_render.network.config import ModelConfig
from spectro_render.network.model import SpectrogramModel

FULL = ModelConfig()
MEDIUM = replace(FULL, note_layers=2, context_layers=1, decoder_layers=1)  # 55 M parameters

LOAD = """
import json, sys, time
import torch
import spectro_render.autoregressive
from spectro_render.checkpoints import load_checkpoint

def memory(kind):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(kind))

before = memory("VmRSS")
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # forget the peak so far
wall, cpu = time.perf_counter(), time.process_time()
loaded = load_checkpoint(sys.argv[1], vocoder="griffin-lim")
print(json.dumps({
    "seconds": time.perf_counter() - wall,
    "cpu_seconds": time.process_time() - cpu,
    "peak": memory("VmHWM") - before,
    "weights": sum(4 * parameter.numel() for parameter in loaded.model.parameters()),
}))
"""


@dataclass(frozen=True)
class Cost:
    """What loading took; bytes, `weights` in float32."""

    seconds: float
    cpu_seconds: float
    peak: int
    weights: int


def write_model(path: Path, config: ModelConfig, kind: str) -> None:
    """A model directory with random weights in safetensors of a number format, or in pickles."""
    torch.manual_seed(0)
    save_model(path, SpectrogramModel(config), dtype="float32" if kind == "bin" else kind)
    if kind == "bin":
        for file in path.glob(f"*/{TENSORS}"):
            stored = open_tensors(file)
            torch.save({n: stored.read(n).clone() for n in stored.names}, file.with_name(PICKLE))
            file.unlink()
        write_checksums(path)
    (path / "SHA256SUMS").unlink()


def measure(path: Path) -> Cost:
    """Load a model directory in a fresh process, twice: the first brings it into the cache."""
    for _ in range(2):
        arguments = [sys.executable, "-c", LOAD, str(path)]
        done = subprocess.run(arguments, stdout=subprocess.PIPE, text=True, check=True)
    return Cost(**json.loads(done.stdout))


def main() -> None:
    for kind in ("float32", "float16", "bin"):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model"
            write_model(path, FULL, kind)
            cost = measure(path)
        print(
            f"{cost.weights / 4e6:.1f} M parameters, {kind:8}  {cost.seconds:5.1f} s, "
            f"CPU {cost.cpu_seconds:4.1f} s, peak {cost.peak / cost.weights:.2f} x the weights"
        )


if __name__ == "__main__":
    main()
