"""MIDI files made in code."""

from collections.abc import Callable
from pathlib import Path

import mido

DEMO = Path(__file__).parents[2] / "docs" / "demo.mid"
SONGS = 16
MakeSong = Callable[..., Path]  # the type of the fixture `song`


def write_long_song(path: Path, minutes: int) -> None:
    """Write a MIDI file with eight notes per second, on four instruments and drums."""
    track = mido.MidiTrack()
    for channel, program in ((0, 0), (1, 33), (2, 48), (3, 73)):
        track.append(mido.Message("program_change", channel=channel, program=program))
    for count in range(minutes * 60 * 8):
        channel = (0, 1, 2, 3, 9)[count % 5]
        pitch = 38 if channel == 9 else 40 + count % 40
        track.append(mido.Message("note_on", channel=channel, note=pitch, velocity=80))
        track.append(mido.Message("note_off", channel=channel, note=pitch, time=120))
    mido.MidiFile(ticks_per_beat=480, tracks=[track]).save(str(path))


def write_songs(folder: Path) -> float:
    """Write sections of the example song, 15 to 22.5 s long; returns the seconds of music."""
    import pretty_midi

    from spectro_render.midi.read import read_midi
    from spectro_render.midi.score import section

    score, total = read_midi(DEMO), 0.0
    for number in range(SONGS):
        seconds = 15.0 + number / 2
        part = section(score, float(number % 8), seconds)
        midi = pretty_midi.PrettyMIDI()
        instruments: dict[tuple[int, bool], pretty_midi.Instrument] = {}
        for note in part.notes:
            key = (note.program, note.is_drum)
            instrument = instruments.setdefault(key, pretty_midi.Instrument(*key))
            instrument.notes.append(
                pretty_midi.Note(note.velocity, note.pitch, note.start, note.end)
            )
        midi.instruments = list(instruments.values())
        midi.write(str(folder / f"{number:02d}.mid"))
        total += seconds
    return total
