"""Two thousand short songs in one run: do memory, open files and speed stay as they are?

Run from the checkout's top level: python -m tests.benchmarks.bench_many [--songs N]. Linux only.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import mido
import numpy as np

from spectro_render import Renderer

SECONDS = 5
PROGRAM = [sys.executable, "-m", "spectro_render"]


def write_song(path: Path, number: int) -> None:
    """Four notes a second on two instruments."""
    track = mido.MidiTrack()
    for channel in range(2):
        track.append(
            mido.Message("program_change", channel=channel, program=(number + 40 * channel) % 96)
        )
    for count in range(SECONDS * 4):
        note = {"channel": count % 2, "note": 48 + (number + 5 * count) % 36}
        track.append(mido.Message("note_on", velocity=80, **note))
        track.append(mido.Message("note_off", time=240, **note))
    mido.MidiFile(ticks_per_beat=480, tracks=[track]).save(str(path))


def seconds_a_song(songs: list[Path], repeats: int = 30) -> float:
    """One by one, as `Renderer.render` does it, model loaded."""
    renderer = Renderer.load()
    for song in songs[:3]:
        renderer.render(song)
    begin = time.perf_counter()
    for song in songs[:repeats]:
        renderer.render(song).save(song.with_suffix(".wav"))
    return (time.perf_counter() - begin) / repeats


def run_all(folder: Path) -> list[tuple[float, float, int]]:
    """After each song: wall seconds, megabytes of memory, open files."""
    command = [*PROGRAM, str(folder / "in"), "-o", str(folder / "out"), "--json", "-q"]
    states = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            assert json.loads(line)["status"] == "rendered"
            status = Path(f"/proc/{process.pid}/status").read_text()
            kilobytes = re.search(r"VmRSS:\s+(\d+)", status)
            assert kilobytes is not None
            files = len(os.listdir(f"/proc/{process.pid}/fd"))
            states.append((time.perf_counter(), int(kilobytes[1]) / 1024, files))
    assert process.returncode == 0
    return states


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--songs", type=int, default=2000)
    number = parser.parse_args().songs
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "in").mkdir()
        songs = [folder / "in" / f"{k:04d}.mid" for k in range(number)]
        for k, song in enumerate(songs):
            write_song(song, k)
        alone = seconds_a_song(songs)
        for song in songs:
            song.with_suffix(".wav").unlink(missing_ok=True)
        seconds, megabytes, files = zip(*run_all(folder), strict=True)
    megabytes = megabytes[number // 2 :]  # before that the heap finds its size, in steps
    slope = np.polyfit(np.arange(len(megabytes)), megabytes, 1)[0]
    together = (seconds[-1] - seconds[0]) / (len(seconds) - 1)
    gain, first, last = alone / together, megabytes[0], megabytes[-1]
    print(f"{number} songs of {SECONDS} s in one run")
    print(f"  a song: {together:.3f} s, by itself {alone:.3f} s: {gain:.2f} times as fast")
    print(f"  memory of the second half: {first:.0f} MB, then {last:.0f} MB", end=", ")
    print(f"at most {max(megabytes):.0f} MB, {100 * slope:+.2f} MB a hundred songs")
    print(f"  open files: {min(files)} to {max(files)}")


if __name__ == "__main__":
    main()
