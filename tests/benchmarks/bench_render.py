"""How many times faster than real time the default model renders the example, stage by stage.

Run from the checkout's top level: python -m tests.benchmarks.bench_render
"""

import time
from collections.abc import Callable
from pathlib import Path

import torch

from spectro_render.constants import WINDOW_SECONDS
from spectro_render.midi.read import read_midi
from spectro_render.options import RenderOptions
from spectro_render.render.renderer import Renderer
from spectro_render.vocoder.griffin_lim import GriffinLim

DEMO = Path(__file__).parents[2] / "docs" / "demo.mid"
REPEATS = 3


def fastest(work: Callable[[], object]) -> float:
    """Wall seconds of the fastest of a few runs, after one to warm up."""
    work()
    seconds = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begin)
    return min(seconds)


def main() -> None:
    renderer, score = Renderer.load(), read_midi(DEMO)
    windows = renderer.windows(score)
    music = len(windows) * WINDOW_SECONDS
    print(f"{torch.get_num_threads()} threads, {music:.1f} s of music, times real time:")
    for steps in (1, 3, 10, 20):
        options = RenderOptions(steps=steps)
        seconds = fastest(lambda o=options: list(renderer.mels(windows, o)))
        print(f"  notes -> mel, {steps:2d} steps  {music / seconds:7.1f}")
    mel = torch.cat(list(renderer.mels(windows)))
    seconds = fastest(lambda: renderer.vocode(mel, score))
    print(f"  mel -> sound, with notes   {music / seconds:7.1f}")
    print(f"  mel -> sound, mel alone    {music / fastest(lambda: renderer.vocode(mel)):7.1f}")
    seconds = fastest(lambda: GriffinLim()(mel[None]))
    print(f"  mel -> sound, Griffin-Lim  {music / seconds:7.1f}")
    print(f"  all, as the defaults are   {music / fastest(lambda: renderer.render(score)):7.1f}")


if __name__ == "__main__":
    main()
