"""Notes are played as a synthesiser plays them: state belongs to channels, not to tracks."""

import io
import random

import mido
import pytest

from spectro_render.midi.read import read_midi
from tests.support.plain_reading import plain_notes

DIVISION = 100
TICK = 0.5 / DIVISION  # seconds


def random_file(seed: int) -> bytes:
    """Tracks that share channels, pitches and ticks, with pedals, programs and modes."""
    random_ = random.Random(seed)
    file = mido.MidiFile(ticks_per_beat=DIVISION)
    channels = random_.choice([(0,), (0, 9), (3, 4), (0, 1, 9)])
    ports = random_.choice([(0,), (0, 1)])
    for _ in range(random_.randrange(1, 4)):
        track = mido.MidiTrack()
        if random_.random() < 0.7:
            track.append(mido.MetaMessage("midi_port", port=random_.choice(ports)))
        for _ in range(random_.randrange(5, 40)):
            track.append(random_message(random_, random_.choice(channels)))
        track.append(mido.MetaMessage("end_of_track", time=random_.choice([0, 0, 7])))
        file.tracks.append(track)
    stream = io.BytesIO()
    file.save(file=stream)
    return stream.getvalue()


def random_message(random_: random.Random, channel: int) -> mido.Message:
    step, pitch = random_.choice([0, 0, 1, 5, 10]), random_.randrange(60, 63)
    kind = random_.choices(["on", "off", "control", "program"], [10, 10, 6, 1])[0]
    if kind == "on":
        velocity = random_.choice([0, 64, 90])
        return mido.Message("note_on", channel=channel, note=pitch, velocity=velocity, time=step)
    if kind == "off":
        return mido.Message("note_off", channel=channel, note=pitch, time=step)
    if kind == "program":
        program = random_.randrange(128)
        return mido.Message("program_change", channel=channel, program=program, time=step)
    control = random_.choice([64, 64, 64, 64, 66, 66, 120, 121, 123, 126])
    value = random_.choice([0, 63, 64, 127])
    return mido.Message("control_change", channel=channel, control=control, value=value, time=step)


def assert_as_a_plain_reading(data: bytes) -> None:
    expected = sorted(
        (note.start, note.end, note.pitch, note.is_drum, note.program) for note in plain_notes(data)
    )
    found = sorted(
        (round(note.start / TICK), round(note.end / TICK), note.pitch, note.is_drum, note.program)
        for note in read_midi(data).notes
    )
    assert found == expected


@pytest.mark.parametrize("first", range(0, 2000, 100))
def test_notes_are_those_of_a_plain_reading(first: int) -> None:
    n_notes = 0
    for seed in range(first, first + 100):
        data = random_file(seed)
        if expected := plain_notes(data):
            n_notes += len(expected)
            assert_as_a_plain_reading(data)
    assert n_notes > 500
