"""Where the time goes when the command line renders the example with the default model.

Run from the checkout's top level: python -m tests.benchmarks.bench_profile

A fresh process renders it under Python's profiler, which adds some time where small functions are
called often (reading, tokens) and next to none to the networks. Imports come first, unprofiled.
"""

import cProfile
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import CodeType
from typing import Any

DEMO = Path(__file__).parents[2] / "docs" / "demo.mid"


def render_under_profile(begun: float) -> None:
    """Render the example into a temporary file and print the table; `begun` as of `time.time`."""
    from spectro_render.batch.cores import let_idle_threads_sleep
    from spectro_render.cli.app import run

    let_idle_threads_sleep()  # as the console script does
    for name in ("safetensors", "soundfile", "spectro_render.render"):
        import_module(name)
    start_up = time.time() - begun
    profiler = cProfile.Profile()
    with tempfile.TemporaryDirectory() as folder:
        profiler.enable()
        code = run([str(DEMO), "-o", f"{folder}/demo.wav", "-q"])
        profiler.disable()
    assert code == 0
    print_table(start_up, {entry.code: entry.totaltime for entry in profiler.getstats()})


def stages(seconds: Callable[..., float]) -> dict[str, float]:
    """Seconds of each stage, in the order in which data flows."""
    from spectro_render import diffusion
    from spectro_render.audio import audio, limiter
    from spectro_render.midi import read as midi
    from spectro_render.network import model
    from spectro_render.render import renderer as render
    from spectro_render.render import song
    from spectro_render.tokens import write as tokens
    from spectro_render.vocoder import melgan as vocoder

    network = vocoder.SpectrumGenerator
    sketch, log_magnitude = seconds(network.sketch), seconds(network.log_magnitude, network.sharpen)
    levelling, mapping = seconds(vocoder.match_mel), seconds(network.map_notes)
    whole = seconds(network.forward)
    return {
        "loading the weights": seconds(render.Renderer.load_found.__func__),  # type: ignore[attr-defined]
        "reading MIDI": seconds(midi.read_midi),
        "tokens": seconds(tokens.tokenize, song.WindowCursor.next_notes),
        "note encoder": seconds(model.MelModel.encode_notes),
        "context encoder": seconds(model.MelModel.remember),
        "denoiser": seconds(diffusion.sample),
        "vocoder: sketch": sketch,
        "vocoder: harmonic map": mapping,
        "vocoder: network": log_magnitude,
        "vocoder: phases": whole - sketch - mapping - log_magnitude - levelling,
        "vocoder: levelling": levelling,
        "limiter": seconds(limiter.Limiter.push, limiter.Limiter.flush),
        "writing": seconds(audio.AudioWriter.write, audio.AudioWriter.__exit__),
    }


def print_table(start_up: float, totals: dict[CodeType | str, float]) -> None:
    """A row a stage: seconds and share of the whole."""
    from spectro_render.cli.app import run

    def seconds(*functions: Any) -> float:
        return sum(totals.get(plain(function).__code__, 0.0) for function in functions)

    rows = {"starting Python, imports": start_up, **stages(seconds)}
    whole = start_up + seconds(run)
    rows["all else"] = whole - sum(rows.values())
    for name, spent in rows.items():
        print(f"  {name:26s} {spent:6.2f} s {spent / whole:6.1%}")
    print(f"  {'all':26s} {whole:6.2f} s")


def plain(function: Any) -> Any:
    """A function without its decorators, which have no code of their own to be found by."""
    return getattr(function, "__wrapped__", function)


def main() -> None:
    if len(sys.argv) > 1:
        render_under_profile(float(sys.argv[1]))
    else:
        module = "tests.benchmarks.bench_profile"
        subprocess.run([sys.executable, "-m", module, str(time.time())], check=True)


if __name__ == "__main__":
    main()
