"""What more steps of each sampler buy: mels against its own longest run, notes, time.

Run from the checkout's top level: python -m tests.benchmarks.bench_steps [--model M] [MIDI...]
The longest run takes 1000 steps, the paper's number; --longest 100 is done sooner. Noise is the
same throughout, so samplers that draw none later (ddim, dpm++) all approach one mel.
"""

import argparse
import math
import time
from pathlib import Path

import torch
from torch import Tensor

from spectro_render.evaluation.transcription import note_f1, played_notes
from spectro_render.midi.read import read_midi
from spectro_render.midi.score import Score, section
from spectro_render.options import RenderOptions
from spectro_render.render.renderer import Renderer

DEMO = Path(__file__).parents[2] / "docs" / "demo.mid"
SAMPLERS = ("ddpm", "ddim", "dpm++")
STEPS = (1000, 100, 50, 20, 10, 5, 3, 2, 1)


def mels(renderer: Renderer, scores: list[Score], options: RenderOptions) -> list[Tensor]:
    """Natural log-mels (T, 128), a score each."""
    return [torch.cat(list(renderer.mels(renderer.windows(s, options), options))) for s in scores]


def mean_f1(renderer: Renderer, scores: list[Score], made: list[Tensor]) -> float:
    """How well a transcriber hears the notes of the sounds, without drums."""
    found = [
        note_f1(renderer.vocode(mel).numpy(), played_notes(score.notes))
        for score, mel in zip(scores, made, strict=True)
    ]
    known = [f1 for f1 in found if not math.isnan(f1)]  # of music that is not all drums
    return sum(known) / max(1, len(known))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("midi", nargs="*", type=Path, default=[DEMO])
    parser.add_argument("--model", default="default")
    parser.add_argument("--seconds", type=float, default=10.24, help="of each file")
    parser.add_argument("--longest", type=int, default=1000, help="steps to compare with")
    chosen = parser.parse_args()
    renderer = Renderer.load(chosen.model)
    scores = [section(read_midi(path), 0.0, chosen.seconds) for path in chosen.midi]
    print("sampler  steps  log-mel L1 to the longest  note F1  seconds")
    for sampler in SAMPLERS:
        longest: list[Tensor] | None = None
        for steps in (n for n in STEPS if n <= chosen.longest):
            options = RenderOptions(sampler=sampler, steps=steps, duration=chosen.seconds)
            begin = time.perf_counter()
            made = mels(renderer, scores, options)
            seconds = time.perf_counter() - begin
            longest = longest or made
            error = (torch.cat(made) - torch.cat(longest)).abs().mean()
            f1 = mean_f1(renderer, scores, made)
            print(f"{sampler:7} {steps:6d} {error:26.3f} {f1:8.3f} {seconds:8.2f}", flush=True)


if __name__ == "__main__":
    main()
