"""The same weights, sampler, steps and seed here and in diffusers 0.24: is it the same, how fast?

Run from the checkout's top level, with a Python that has what requirements-diffusers.txt lists:

    python -m tests.benchmarks.bench_diffusers --python /path/to/python

Random weights of the published size (1.7 GB) are written to a temporary directory. Each library
runs in a process of its own, through the pipeline's own interface, up to the mel. Ten minutes.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

import spectro_render as sr
from spectro_render.checkpoints.names import write_config
from spectro_render.compat import components
from spectro_render.constants import LOG_MEL_MAX, LOG_MEL_MIN, N_MELS, WINDOW_FRAMES
from spectro_render.diffusion import DiscreteSchedule
from spectro_render.network.config import ModelConfig
from spectro_render.network.device import has_native_bfloat16
from spectro_render.network.model import SpectrogramModel

HERE = Path(__file__).parent
REQUIREMENTS = "tests/benchmarks/requirements-diffusers.txt"
SONG = HERE.parent / "data" / "tokens" / "boostermusic" / "06-Greensleeves.mid"
FIRST = 1  # the song's first window is nearly empty
QUIET = {"DIFFUSERS_VERBOSITY": "error", "PYTHONWARNINGS": "ignore", "TQDM_DISABLE": "1"}
RUNS = ((10, 4), (100, 2))  # steps, windows


def write_random_weights(folder: Path) -> None:
    """A model directory of the published size and form, which both libraries load."""
    torch.manual_seed(0)
    config = ModelConfig()
    parts = write_config(config)
    sr.SpectrogramDiffusionPipeline(
        components.SpectrogramNotesEncoder(**parts["notes"]),
        components.SpectrogramContEncoder(**parts["context"]),
        components.T5FilmDecoder(**parts["decoder"]),
        components.SpectrogramScheduler(config, DiscreteSchedule()),
        None,
    ).save_pretrained(folder)


def operations(windows: list[list[int]], steps: int) -> float:
    """Those of all matrix products that our run makes, multiplications and additions."""
    total = 0.0
    with FakeTensorMode():  # shapes without numbers
        model = SpectrogramModel(ModelConfig())
        mel, before = torch.empty(1, WINDOW_FRAMES, N_MELS), None
        for window in windows:
            lengths = [sum(id > 0 for id in window)]
            notes = torch.ones(1, lengths[0], dtype=torch.long)
            with FlopCounterMode(display=False) as once:
                memory = model.remember(model.encode_notes(notes, lengths), before)
            with FlopCounterMode(display=False) as each:
                model.decoder(mel, torch.empty(1), memory)
            total += once.get_total_flops() + steps * each.get_total_flops()
            before = mel
    return total


def run(python: str, library: str, folder: Path, steps: int, dtype: str, threads: int) -> dict:
    """Seconds and the speed of plain products; leaves the mel in the folder."""
    mel = folder / f"{library}.npy"
    command = [python, HERE / "one_pipeline.py", library, folder, folder / "windows.json"]
    command += [str(steps), dtype, str(threads), mel]
    environment = {**os.environ, **QUIET, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, env=environment)
    measured: dict = json.loads(done.stdout.splitlines()[-1])
    return {**measured, "mel": np.load(mel)}


def compare(python: str, folder: Path, windows: list[list[int]], steps: int, threads: int) -> None:
    """Print a row for diffusers and one for each number format here."""
    (folder / "windows.json").write_text(json.dumps(windows))
    theirs = run(python, "diffusers", folder, steps, "float32", threads)
    print(f"{steps} steps, {len(windows)} windows")
    print("                         CPU s   wall s   max |dx|  first window   of the floor")
    print(f"  diffusers 0.24       {theirs['cpu']:7.1f}  {theirs['wall']:7.1f}", flush=True)
    for dtype in ("float32", "bfloat16") if has_native_bfloat16() else ("float32",):
        ours = run(sys.executable, "spectro_render", folder, steps, dtype, threads)
        scale = 2 / (LOG_MEL_MAX - LOG_MEL_MIN)  # of x, which lies in [-1, 1]
        error = np.abs(ours["mel"] - theirs["mel"])[0] * scale
        share = operations(windows, steps) / ours["speed"] / ours["wall"]
        print(
            f"  here, {dtype:9}      {ours['cpu']:7.1f}  {ours['wall']:7.1f}   {error.max():8.1e}"
            f"      {error[:WINDOW_FRAMES].max():8.1e}   {share:11.0%}"
        )
        ratios = theirs["cpu"] / ours["cpu"], theirs["wall"] / ours["wall"]
        print(f"  times less           {ratios[0]:7.2f}  {ratios[1]:7.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", default=os.environ.get("DIFFUSERS_PYTHON"))
    parser.add_argument("--steps", type=int, help="only this many (default: 10, then 100)")
    parser.add_argument("--windows", type=int, help="of 5.12 s (default: 4, and 2 at 100 steps)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    chosen = parser.parse_args()
    if chosen.python is None:
        print("needs a Python with diffusers 0.24; make one and name it (or set DIFFUSERS_PYTHON):")
        print("  python3.11 -m venv build/diffusers")
        print(f"  build/diffusers/bin/pip install -c constraints.txt -r {REQUIREMENTS}")
        print("  python -m tests.benchmarks.bench_diffusers --python build/diffusers/bin/python")
        return
    song = sr.MidiProcessor()(SONG)
    runs = [run for run in RUNS if chosen.steps in (None, run[0])] or [(chosen.steps, 4)]
    with tempfile.TemporaryDirectory() as folder:
        write_random_weights(Path(folder))
        print(f"{SONG.name}, {chosen.threads} threads; the floor: plain large products", flush=True)
        for steps, windows in runs:
            count = chosen.windows or windows
            compare(chosen.python, Path(folder), song[FIRST : FIRST + count], steps, chosen.threads)
    if not has_native_bfloat16():
        print("bfloat16: this processor does not compute in it")


if __name__ == "__main__":
    main()
