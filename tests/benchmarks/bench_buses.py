"""How many times faster than real time songs of several buses are rendered, and how many they have.

Run from the checkout's top level: python -m tests.benchmarks.bench_buses [FOLDER [FILES]]

FOLDER has MIDI files, of which FILES are chosen at random (default: 100); without it, songs are
made up. Buses are counted in all of them. Those with the most windows for their length, and the
one in the middle, are rendered for at most a minute of sound.
"""

import random
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import mido
import torch

from spectro_render.constants import WINDOW_SECONDS
from spectro_render.errors import SpectroRenderError
from spectro_render.midi.buses import buses
from spectro_render.midi.length import TAIL_SECONDS
from spectro_render.midi.read import read_midi
from spectro_render.render.renderer import Renderer
from tests.support.songs import DEMO

FILES, WORST, SECONDS = 100, 3, 60.0


class Song(NamedTuple):
    """A file, its buses, and their windows in relation to those of the song."""

    path: Path
    buses: int
    work: float


def measure(path: Path) -> Song:
    score = read_midi(path)
    found = buses(score)
    every = {
        (number, index)
        for number, bus in enumerate(found)
        for note in bus.score.notes
        for index in range(
            int(note.start / WINDOW_SECONDS), int((note.end + TAIL_SECONDS) / WINDOW_SECONDS) + 1
        )
    }
    return Song(path, len(found), len(every) / len({index for _, index in every}))


def write_moving_song(path: Path, channels: int) -> None:
    """Write a song of half a minute in which each channel is bent, or pans, all the time."""
    track = mido.MidiTrack()
    for channel in range(channels):
        track.append(mido.Message("program_change", channel=channel, program=8 * channel))
    for beat in range(60):
        for channel in range(channels):
            track.append(mido.Message("note_on", channel=channel, note=40 + beat % 30, velocity=80))
        for step in range(8):
            for channel in range(channels):
                bend = mido.Message("pitchwheel", channel=channel, pitch=900 * step)
                pan = mido.Message("control_change", channel=channel, control=10, value=16 * step)
                track.append(bend if channel % 2 else pan)
            track[-1].time = 60
        for channel in range(channels):
            track.append(mido.Message("note_off", channel=channel, note=40 + beat % 30))
    mido.MidiFile(ticks_per_beat=480, tracks=[track]).save(str(path))


def report(renderer: Renderer, name: str, song: Song) -> None:
    renderer.render(song.path, duration=5.0)  # warm
    begin, begin_of_work = time.perf_counter(), time.process_time()
    sound = renderer.render(song.path, duration=SECONDS)
    factor = sound.seconds / (time.perf_counter() - begin)
    of_a_core = sound.seconds / (time.process_time() - begin_of_work)
    print(
        f"  {name:<8}{song.buses:3d} buses, {song.work:5.2f} times the windows:"
        f" {factor:6.1f}, {of_a_core:6.1f} in the time of one core"
    )


def main() -> None:
    renderer = Renderer.load()
    print(f"{torch.get_num_threads()} threads, times real time:")
    if len(sys.argv) == 1:
        with tempfile.TemporaryDirectory() as folder:
            report(renderer, "example", measure(DEMO))
            for channels in (1, 4, 16):
                path = Path(folder, f"{channels}.mid")
                write_moving_song(path, channels)
                report(renderer, "made up", measure(path))
        return
    paths = sorted(Path(sys.argv[1]).rglob("*.mid"))
    random.Random(0).shuffle(paths)
    songs = []
    for path in paths[: int(sys.argv[2]) if len(sys.argv) > 2 else FILES]:
        try:
            songs.append(measure(path))
        except SpectroRenderError:
            continue
    songs.sort(key=lambda song: song.work)
    shares = (0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
    counts = sorted(song.buses for song in songs)
    places = [counts[min(int(share * len(counts)), len(counts) - 1)] for share in shares]
    print(f"{len(songs)} files, buses at {shares}: {places}")
    report(renderer, "median", songs[len(songs) // 2])
    for song in songs[-WORST:]:
        report(renderer, "worst", song)


if __name__ == "__main__":
    main()
