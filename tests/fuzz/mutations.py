"""MIDI files damaged with knowledge of their structure: the same seed makes the same files."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

SEEDS = Path(__file__).parent.parent / "data" / "midi"
_SUFFIXES = {".mid", ".midi", ".kar", ".rmi"}
_MAX_CHANGES = 4  # made to one file
_MAX_SIZE = 2**19  # bytes; copies of copies would only take time

_NAMES = (b"../../x", b"/tmp/x", b"a\0b", b"C:\\x", b"\xff\xfe", b"\x1b[2J\n", b"x" * 5000)
_DIVISIONS = (0, 1, -1, 24, 480, 0x7FFF, -0x8000, -(24 << 8), -(29 << 8) + 1, -(30 << 8) + 255)
_LENGTHS = (0, 1, 3, 2**16, 2**31 - 1, 2**31, 2**32 - 1)
_EVENTS = (  # each after a time step of 0
    *(b"\0\xff\x51\x03" + tempo.to_bytes(3, "big") for tempo in (0, 1, 500_000, 2**24 - 1)),
    b"\0\xff\x51\x00",
    b"\0\xff\x58\x04\x00\xff\xff\x00",  # time signatures
    b"\0\xff\x58\x04\xff\x00\x00\x00",
    b"\0\xff\x59\x02\x7f\x09",  # key signature
    b"\0\xff\x2f\x00",
    b"\0\xff\x7f\xff\xff\xff\x7f",
    b"\0\xf0\x05abc",  # system exclusive without its end
    b"\0\xf0\xff\xff\xff\x7f\xf7",
    b"\0\xf7\x00",
    b"\0\x40\x40",  # running status
    b"\0\x90\x3c\x7f",
    b"\0\xc0\xff",
    b"\0\xb0\x40\x7f",
    b"\xff\xff\xff\x7f",  # time steps
    b"\xff\xff\xff\xff\x7f",
    b"\x8f\xff\xff\xff\x7f",
    b"\xff\xff\xff\xff\xff",  # a number without an end
    *(
        b"\0\xff\x03" + _number + name
        for name in _NAMES
        for _number in [bytes([0x80 | len(name) >> 7, len(name) & 0x7F])]
    ),
)

Change = Callable[[random.Random, bytearray], bytearray]


def seeds(folder: Path = SEEDS) -> list[bytes]:
    """The MIDI files of a folder, by name."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)
    return [path.read_bytes() for path in paths]


def mutations(originals: Sequence[bytes], seed: int = 0) -> Iterator[bytes]:
    """Damaged copies without an end."""
    chance = random.Random(seed)
    while True:
        data = bytearray(chance.choice(originals))
        for _ in range(chance.randint(1, _MAX_CHANGES)):
            data = chance.choice(_CHANGES)(chance, data)
        yield bytes(data[:_MAX_SIZE])


def _chunks(data: bytearray) -> list[bytearray]:
    """Cut before every track; the first piece is what comes before them."""
    first, *tracks = data.split(b"MTrk")
    return [first, *(bytearray(b"MTrk") + track for track in tracks)]


def _place(chance: random.Random, data: bytearray) -> int:
    return chance.randrange(len(data) + 1)


def _flip_bits(chance: random.Random, data: bytearray) -> bytearray:
    for _ in range(chance.randint(1, 8) if data else 0):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return data


def _cut_off(chance: random.Random, data: bytearray) -> bytearray:
    return data[: _place(chance, data)]


def _set_length(chance: random.Random, data: bytearray) -> bytearray:
    """A wrong length in a track or in the header."""
    tag = chance.choice((b"MTrk", b"MThd"))
    at = data.find(tag, _place(chance, data) if tag == b"MTrk" else 0)
    if at >= 0:
        data[at + 4 : at + 8] = struct.pack(">I", chance.choice(_LENGTHS))
    return data


def _set_division(chance: random.Random, data: bytearray) -> bytearray:
    at = data.find(b"MThd")
    if at >= 0:
        data[at + 12 : at + 14] = struct.pack(">h", chance.choice(_DIVISIONS))
    return data


def _set_format(chance: random.Random, data: bytearray) -> bytearray:
    at = data.find(b"MThd")
    if at >= 0:
        data[at + 8 : at + 12] = struct.pack(
            ">HH", chance.randrange(4), chance.choice((0, 1, 65535))
        )
    return data


def _insert_event(chance: random.Random, data: bytearray) -> bytearray:
    """An event at the start of a track, or anywhere."""
    at = data.find(b"MTrk", _place(chance, data))
    at = at + 8 if at >= 0 and chance.random() < 0.5 else _place(chance, data)
    data[at:at] = chance.choice(_EVENTS)
    return data


def _move_bytes(chance: random.Random, data: bytearray) -> bytearray:
    """Repeats, removes or copies elsewhere what is about as long as events."""
    start, size = _place(chance, data), chance.choice((1, 3, 4, 8, 64))
    piece = data[start : start + size]
    if chance.random() < 0.5:
        del data[start : start + size]
    at = _place(chance, data)
    data[at:at] = piece * chance.choice((0, 1, 1, 200))
    return data


def _move_chunks(chance: random.Random, data: bytearray) -> bytearray:
    chunks = _chunks(data)
    chance.choice(
        (
            lambda: chunks.append(bytearray(chance.choice(chunks))),
            lambda: chunks.pop(chance.randrange(len(chunks))),
            lambda: chance.shuffle(chunks),
        )
    )()
    return bytearray().join(chunks)


def _drop_status(chance: random.Random, data: bytearray) -> bytearray:
    """Running status where there was none: status bytes from some place on are left out."""
    at = _place(chance, data)
    return (
        data[:at]
        + bytearray(byte for byte in data[at : at + 64] if not 0x80 <= byte < 0xF0)
        + data[at + 64 :]
    )


def _wrap(chance: random.Random, data: bytearray) -> bytearray:
    """Within RIFF, whose length is right or not."""
    size = chance.choice((len(data), 0, 2**32 - 1))
    return (
        bytearray(b"RIFF" + struct.pack("<I", size) + b"RMIDdata" + struct.pack("<I", size)) + data
    )


_CHANGES: tuple[Change, ...] = (
    *(_flip_bits, _cut_off, _set_length, _set_division, _set_format),
    *(_insert_event, _insert_event, _insert_event, _move_bytes, _move_chunks, _drop_status, _wrap),
)
