"""Measures the time and the memory of rendering and of loading, in new processes on Linux."""

import json
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from spectro_render.checkpoints.files import PICKLE, TENSORS, open_tensors
from spectro_render.checkpoints.load import save_model
from spectro_render.checkpoints.manifest import write_checksums
from spectro_render.network.config import ModelConfig
from spectro_render.network.model import SpectrogramModel
from tests.support.songs import write_long_song

FULL = ModelConfig()
MEDIUM = replace(FULL, note_layers=2, context_layers=1, decoder_layers=1)  # 55 M parameters

LOAD = """
import json, sys, time
import torch
import spectro_render.checkpoints.find
import spectro_render.checkpoints.load
import spectro_render.network.autoregressive
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

RENDER = r"""
import re
from pathlib import Path
from spectro_render.cli import main
try:
    main()
finally:
    kilobytes = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]
    print(int(kilobytes) // 1024)
"""


def time_and_memory(minutes: int, folder: Path, model: str) -> tuple[float, int]:
    """Wall seconds and megabytes for rendering a song of `minutes` minutes, with start-up."""
    midi, wav = folder / f"{minutes}.mid", folder / f"{minutes}.wav"
    write_long_song(midi, minutes)
    begin = time.perf_counter()
    options = ["--model", model, "--steps", "1", "-q"]
    arguments = [sys.executable, "-c", RENDER, str(midi), "-o", str(wav), *options]
    done = subprocess.run(arguments, stdout=subprocess.PIPE, text=True, check=True)
    return time.perf_counter() - begin, int(done.stdout)


@dataclass(frozen=True)
class Cost:
    """The cost of loading a model; memory in bytes, `weights` as float32."""

    seconds: float
    cpu_seconds: float
    peak: int
    weights: int


def write_model(path: Path, config: ModelConfig, kind: str) -> None:
    """Write a model with random weights, as safetensors files of a number format or .bin files."""
    torch.manual_seed(0)
    save_model(path, SpectrogramModel(config), dtype="float32" if kind == "bin" else kind)
    if kind == "bin":
        for file in path.glob(f"*/{TENSORS}"):
            stored = open_tensors(file)
            torch.save({n: stored.read(n).clone() for n in stored.names}, file.with_name(PICKLE))
            file.unlink()
        write_checksums(path)
    (path / "SHA256SUMS").unlink()


def measure_loading(path: Path) -> Cost:
    """Load a model directory in a new process, after a first one has filled the file cache."""
    for _ in range(2):
        arguments = [sys.executable, "-c", LOAD, str(path)]
        done = subprocess.run(arguments, stdout=subprocess.PIPE, text=True, check=True)
    return Cost(**json.loads(done.stdout))
