"""Time and peak memory against the length of the song: linear the one, flat the other.

Run from the checkout's top level: python -m tests.benchmarks.bench_growth [--long]

The default model at one step, each song in a fresh process; `--long` adds three hours. Linux only.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import mido

MINUTES = (3, 30)
LONG = 180

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


def write_song(path: Path, minutes: int) -> None:
    """Eight notes a second on four instruments and drums."""
    track = mido.MidiTrack()
    for channel, program in ((0, 0), (1, 33), (2, 48), (3, 73)):
        track.append(mido.Message("program_change", channel=channel, program=program))
    for count in range(minutes * 60 * 8):
        channel = (0, 1, 2, 3, 9)[count % 5]
        pitch = 38 if channel == 9 else 40 + count % 40
        track.append(mido.Message("note_on", channel=channel, note=pitch, velocity=80))
        track.append(mido.Message("note_off", channel=channel, note=pitch, time=120))
    mido.MidiFile(ticks_per_beat=480, tracks=[track]).save(str(path))


def time_and_memory(minutes: int, folder: Path, model: str) -> tuple[float, int]:
    """Wall seconds and megabytes that a song of so many minutes takes, start-up and all."""
    midi, wav = folder / f"{minutes}.mid", folder / f"{minutes}.wav"
    write_song(midi, minutes)
    begin = time.perf_counter()
    options = ["--model", model, "--steps", "1", "-q"]
    arguments = [sys.executable, "-c", RENDER, str(midi), "-o", str(wav), *options]
    done = subprocess.run(arguments, stdout=subprocess.PIPE, text=True, check=True)
    return time.perf_counter() - begin, int(done.stdout)


def main() -> None:
    lengths = (*MINUTES, LONG) if "--long" in sys.argv else MINUTES
    with tempfile.TemporaryDirectory() as name:
        for minutes in lengths:
            seconds, megabytes = time_and_memory(minutes, Path(name), "default")
            print(
                f"{minutes:4d} minutes: {seconds:7.1f} s, {seconds / minutes:5.2f} s a minute,"
                f" peak memory {megabytes:5d} MB"
            )


if __name__ == "__main__":
    main()
