"""How many times faster than real time the default model renders the example, stage by stage.

The last row is the example with its channels panned to seven places, so that it has seven buses.

Run from the checkout's top level: python -m tests.benchmarks.bench_render
"""

import io
import time
from collections.abc import Callable
from pathlib import Path

import mido
import torch

from spectro_render.constants import WINDOW_SECONDS
from spectro_render.midi.read import read_midi
from spectro_render.options import RenderOptions
from spectro_render.render.renderer import Renderer
from spectro_render.vocoder.griffin_lim import GriffinLim

DEMO = Path(__file__).parents[2] / "docs" / "demo.mid"
REPEATS = 3
PANS = (64, 40, 88, 52, 76, 30, 98)  # of channels, by turns


def fastest(work: Callable[[], object]) -> float:
    """Wall seconds of the fastest of a few runs, after one to warm up."""
    work()
    seconds = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begin)
    return min(seconds)


def panned_example() -> bytes:
    """The example, with a pan at the beginning of each track."""
    song = mido.MidiFile(DEMO)
    for track in song.tracks:
        for channel in {message.channel for message in track if message.type == "note_on"}:
            pan = PANS[channel % len(PANS)]
            track.insert(0, mido.Message("control_change", channel=channel, control=10, value=pan))
    data = io.BytesIO()
    song.save(file=data)
    return data.getvalue()


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
    seconds = fastest(lambda: renderer.render(score, full_band=True))
    print(f"  all, at 48 kHz             {music / seconds:7.1f}")
    panned = panned_example()
    seconds = fastest(lambda: renderer.render(panned, full_band=True))
    print(f"  at 48 kHz, in stereo       {music / seconds:7.1f}")


if __name__ == "__main__":
    main()
