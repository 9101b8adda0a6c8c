"""Runs the spectrogram diffusion pipeline of one library, in a process of its own, and times it.

python one_pipeline.py LIBRARY FOLDER WINDOWS.json STEPS DTYPE THREADS MEL.npy

LIBRARY is `diffusers` or `spectro_render`: the same lines do for both. Prints a JSON object.
"""

import importlib
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch


def matmul_speed(dtype: torch.dtype, size: int = 2048, repeats: int = 5) -> float:
    """Operations a second of a large product, the fastest of a few."""
    a = torch.rand(size, size, dtype=dtype)
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        a @ a
        seconds.append(time.perf_counter() - begin)
    return 2 * size**3 / min(seconds)


def main() -> None:
    library, folder, windows, steps, number_format, threads, out = sys.argv[1:]
    torch.set_num_threads(int(threads))
    dtype = getattr(torch, number_format)
    pipeline = importlib.import_module(library).SpectrogramDiffusionPipeline
    pipe = pipeline.from_pretrained(folder).to(dtype)
    pipe.set_progress_bar_config(disable=True)
    ids = json.loads(Path(windows).read_text())
    speed = matmul_speed(dtype)
    wall, cpu = time.perf_counter(), time.process_time()
    mel = pipe(ids, torch.Generator().manual_seed(0), int(steps), output_type="mel").audios
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    np.save(out, np.asarray(mel))
    print(json.dumps({"wall": wall, "cpu": cpu, "speed": max(speed, matmul_speed(dtype))}))


if __name__ == "__main__":
    main()
