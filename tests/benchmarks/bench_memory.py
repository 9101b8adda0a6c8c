"""Peak memory of rendering 3 minutes and 3 hours: it must not grow with the song's length.

Run from the checkout's top level: python -m tests.benchmarks.bench_memory

The model is a toy of the default's form, so that three hours take minutes; what could grow (notes,
windows, mels, samples) is the same.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import mido

from tests.toys import write_toy_model

RENDER = """
import resource, sys
from spectro_render.cli import run
code = run([sys.argv[1], "-o", sys.argv[2], "--model", sys.argv[3], "--steps", "1", "-q"])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
sys.exit(code)
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


def peak_memory(minutes: int, folder: Path, model: Path) -> int:
    """Megabytes that rendering a song of so many minutes takes at most."""
    midi, wav = folder / f"{minutes}.mid", folder / f"{minutes}.wav"
    write_song(midi, minutes)
    arguments = [sys.executable, "-c", RENDER, str(midi), str(wav), str(model)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    return int(done.stdout)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_toy_model(folder / "toy")
        for minutes in (3, 180):
            megabytes = peak_memory(minutes, folder, folder / "toy")
            print(f"{minutes:4d} minutes: peak memory {megabytes:5d} MB")


if __name__ == "__main__":
    main()
