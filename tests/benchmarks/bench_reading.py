"""CPU seconds to read a file of 100 000 notes with its pedal, and what note_seq needs for it.

Run from the checkout's top level: python -m tests.benchmarks.bench_reading
"""

import random
import time
import warnings

from spectro_render.midi.read import read_midi
from tests.support.smf_writer import smf

NOTES = 100_000


def music() -> bytes:
    """NOTES notes of a pianist, one after the other, whose pedal changes with every 50th."""
    r = random.Random(0)
    body = bytearray()
    for number in range(NOTES):
        if number % 50 == 0:
            body += bytes([0, 0xB0, 64, 0, 3, 0xB0, 64, 127])
        pitch = r.randrange(30, 90)
        body += bytes([7, 0x90, pitch, 80, 9, 0x80, pitch, 0])
    return smf(bytes(body))


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import note_seq

    data = music()
    begin = time.process_time()
    ours = read_midi(data)
    read = time.process_time()
    theirs = note_seq.apply_sustain_control_changes(note_seq.midi_to_note_sequence(data))
    done = time.process_time()
    assert len(ours.notes) == len(theirs.notes) == NOTES
    print(f"read_midi {read - begin:.2f} s, note_seq {done - read:.2f} s")
