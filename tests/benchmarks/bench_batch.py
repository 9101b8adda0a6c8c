"""Songs a second: sixteen of them one by one, as `spectro-render SONG` renders, and side by side.

Run from the checkout's top level: python -m tests.benchmarks.bench_batch [--steps N]
From MIDI files to WAV files, in one process. "One by one" is what a loop of single renderings does
but for loading the model each time; `--batch-size 1` differs from it in nothing.
"""

import argparse
import contextlib
import os
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from spectro_render.batch.batch import Batch
from spectro_render.batch.engine import LocalEngine
from spectro_render.batch.jobs import plan_jobs
from spectro_render.batch.tasks import Settings
from spectro_render.checkpoints.find import resolve_model
from spectro_render.options import Encoding, ModelChoice, RenderOptions
from spectro_render.report import Reporter
from tests.support.songs import SONGS, write_songs

SIZES = (1, 4, 8, 16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--model", default="default")
    chosen = parser.parse_args()
    options = RenderOptions(steps=chosen.steps)
    whole = Settings(ModelChoice(chosen.model), options, Encoding("wav"))
    find_model = partial(resolve_model, chosen.model)
    renderer = LocalEngine(whole, SONGS, find_model).renderer
    print(f"{torch.get_num_threads()} threads, {SONGS} songs")
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        os.mkdir("in")
        music = write_songs(Path("in"))
        fastest: dict[int, float] = {}
        for run in range(3):  # interleaved, as other work comes and goes; the first warms up
            for size in SIZES:
                settings = replace(whole, batch_size=size)
                engine = LocalEngine(settings, SONGS, find_model)
                engine.__dict__["renderer"] = renderer
                batch = Batch(settings, engine, Reporter(quiet=True), str, force=True)
                begin = time.perf_counter()
                assert batch.run(plan_jobs(["in"], "out", "wav")) == 0
                seconds = time.perf_counter() - begin
                if run:
                    fastest[size] = min(fastest.get(size, seconds), seconds)
    for size, seconds in fastest.items():
        gain = fastest[1] / seconds
        print(f"  batch size {size:2d}: {music / seconds:5.1f} times real time, {gain:.2f} x")


if __name__ == "__main__":
    main()
