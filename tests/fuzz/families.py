"""MIDI files that are as bad as they can be for one step of reading, of any size.

Each family takes a number of events and gives a file of about 3 bytes for each. Where a step looked
through all earlier events at every event, its family would take a quadratic time.
"""

from __future__ import annotations

from collections.abc import Callable

from spectro_render.tokens.vocabulary import SLAKH_PROGRAMS
from tests.support.smf_writer import smf

Family = Callable[[int], bytes]

_DOWN, _UP = b"\xb0\x40\x7f", b"\xb0\x40\x00"  # the pedal
_SOSTENUTO, _LIFTED = b"\xb0\x42\x7f", b"\xb0\x42\x00"
_RESET_CONTROLLERS, _MONO = b"\xb0\x79\x00", b"\xb0\x7e\x00"
_ON, _OFF = b"\x90\x3c\x40", b"\x80\x3c\x00"
_GM_ON = b"\xf0\x05\x7e\x7f\x09\x01\xf7"


def number(value: int) -> bytes:
    """A variable-length quantity."""
    groups = [value & 0x7F]
    while value := value >> 7:
        groups.append(value & 0x7F | 0x80)
    return bytes(reversed(groups))


def at_once(*events: bytes) -> bytes:
    """Events at one tick."""
    return b"".join(b"\0" + event for event in events)


def spaced(ticks: int, *events: bytes) -> bytes:
    """Events with so many ticks before each."""
    return b"".join(number(ticks) + event for event in events)


def on_many_channels(count: int, event: Callable[[int], bytes]) -> bytes:
    """An event at tick 0 for each of many channels, at most 4096; `event` takes the channel."""
    body = b""
    for place in range(min(count, 4096)):
        port, channel = divmod(place, 16)
        body += at_once(b"\xff\x21\x01" + bytes([port])) if channel == 0 else b""
        body += at_once(event(channel))
    return body + at_once(b"\xff\x21\x01\x00")


def _note(channel: int) -> bytes:
    return bytes([0x90 + channel, 0x3C, 0x40])


def _bends(n: int) -> list[bytes]:
    return [bytes([0xE0, 0, 0x60 + i % 2]) for i in range(n)]


def _volumes(n: int, channel: int = 0) -> list[bytes]:
    return [bytes([0xB0 + channel, 7, 100 - 40 * (i % 2)]) for i in range(n)]


def _held(n: int) -> list[bytes]:
    """Many keys down on many channels without drums, which end with the track."""
    return [
        bytes([0x90 + (0, 1, 2, 3, 4, 5, 6, 7)[i // 128 % 8], i % 128, 1 + i % 127])
        for i in range(n)
    ]


def _tempos(n: int) -> list[bytes]:
    return [b"\xff\x51\x03" + (400_000 + i % 2).to_bytes(3, "big") for i in range(n)]


def _pages(n: int) -> bytes:
    """Notes over a page full of held ones, again and again."""
    full = on_many_channels(1100, lambda channel: bytes([0x90 + channel, 60, 127]))
    programs = at_once(*(bytes([0xC0 + i, 8 * i]) for i in range(16)))
    return programs + full + spaced(40, *([_ON, _OFF] * (n // 2)))


def _pile(n: int) -> bytes:
    """Notes that pile up on one pitch, and then more loud ones than a window has room for."""
    pile = spaced(1, *[b"\x90\x0a\x01"] * n)
    loud = b""
    for place in range(2100):
        program, pitch = divmod(place, 100)
        port, channel = divmod(program, 8)
        if pitch == 0:
            loud += at_once(b"\xff\x21\x01" + bytes([port]))
            loud += at_once(bytes([0xC0 + channel, SLAKH_PROGRAMS[program]]))
        loud += b"\x01" + bytes([0x90 + channel, 20 + pitch, 127])
    return pile + loud + at_once(b"\xff\x21\x01\x00") + number(4000) + b"\x80\x0a\x00"


FAMILIES: dict[str, Family] = {
    # keys and pedals
    "one key struck again at one tick": lambda n: smf(at_once(*[_ON] * n)),
    "one key struck again": lambda n: smf(spaced(1, *[_ON] * n)),
    "one key struck again under the pedal": lambda n: smf(at_once(_DOWN) + spaced(1, *[_ON] * n)),
    "one key struck again under the pedal at one tick": lambda n: smf(at_once(_DOWN, *[_ON] * n)),
    "released by a track that struck none": lambda n: smf(
        at_once(*[_ON] * (n // 2)), at_once(*[_OFF] * (n // 2))
    ),
    "released by the tracks that struck it": lambda n: smf(
        *[at_once(_ON)] * (n // 9), *[at_once(_OFF)] * (n // 9)
    ),
    "held by the pedal, which is pressed again": lambda n: smf(
        at_once(_DOWN) + spaced(1, *[_ON, _OFF] * (n // 4), *[_DOWN] * (n // 2))
    ),
    "caught by sostenuto, and the pedal moves": lambda n: smf(
        at_once(*[_ON] * (n // 3), _SOSTENUTO) + spaced(1, *[_OFF], *[_DOWN, _UP] * (n // 3))
    ),
    "sostenuto moves over many keys": lambda n: smf(
        at_once(*[_ON] * (n // 2)) + spaced(1, *[_SOSTENUTO, _LIFTED] * (n // 4))
    ),
    "controllers are reset over many keys": lambda n: smf(
        at_once(*[_ON] * (n // 2)) + spaced(1, *[_RESET_CONTROLLERS] * (n // 2))
    ),
    "mono mode under the pedal": lambda n: smf(at_once(_MONO, _DOWN) + spaced(1, *[_ON] * n)),
    "devices are reset": lambda n: smf(at_once(*[_ON, _GM_ON] * (n // 10))),
    # channels
    "controllers of many channels, and resets": lambda n: smf(
        on_many_channels(n // 3, lambda channel: bytes([0xB0 + channel, 1, 9]))
        + spaced(1, *[_RESET_CONTROLLERS] * (n // 2), _ON)
    ),
    "pressures of many keys, and resets": lambda n: smf(
        at_once(*(bytes([0xA0, i % 128, 9]) for i in range(n // 2)))
        + spaced(1, *[_RESET_CONTROLLERS] * (n // 2), _ON)
    ),
    "pressures of many channels, and resets of devices": lambda n: smf(
        at_once(
            *(bytes([0xA0 + i // 128 % 16, i % 128, 9]) for i in range(n // 3)),
            *[_GM_ON] * (n // 5),
            _ON,
        )
    ),
    "many ports": lambda n: smf(
        *(at_once(b"\xff\x21\x01" + bytes([i % 256]), _ON, _OFF) for i in range(n // 10))
    ),
    "many devices by name": lambda n: smf(
        *(at_once(b"\xff\x09\x03%03x" % (i % 4096), _ON, _OFF) for i in range(n // 12))
    ),
    "many programs": lambda n: smf(at_once(*(bytes([0xC0, i % 128]) for i in range(n)), _ON)),
    "many notes of many programs": lambda n: smf(
        spaced(1, *(b for i in range(n // 3) for b in (bytes([0xC0, i % 128]), _ON, _OFF)))
    ),
    # loudness
    "volume changes under one note": lambda n: smf(at_once(_ON) + spaced(9, *_volumes(n))),
    "volume changes at one tick": lambda n: smf(at_once(_ON) + at_once(*_volumes(n))),
    "volume changes under many notes": lambda n: smf(
        at_once(*[_ON] * (n // 2)) + spaced(9, *_volumes(n // 2))
    ),
    "volume changes while many channels sound": lambda n: smf(
        on_many_channels(n // 3, _note) + spaced(60, *_volumes(n // 2))
    ),
    "volume changes while many channels are faint": lambda n: smf(
        on_many_channels(n // 6, lambda channel: bytes([0xB0 + channel, 7, 1]))
        + on_many_channels(n // 6, _note)
        + spaced(60, *_volumes(n // 3))
    ),
    "volume changes where many channels end": lambda n: smf(
        at_once(*_volumes(1))
        + on_many_channels(n // 5, _note)
        + number(96)
        + on_many_channels(n // 5, lambda channel: bytes([0x80 + channel, 0x3C, 0]))
        + at_once(*_volumes(n // 3))
    ),
    "a channel comes and goes as another changes": lambda n: smf(
        on_many_channels(n // 6, _note)
        + spaced(30, *[b"\x91\x3c\x40", b"\x81\x3c\x00", *_volumes(2, 2)] * (n // 8))
    ),
    "a fade between short notes": lambda n: smf(
        spaced(2, *(e for i in range(n // 3) for e in (_ON, bytes([0xB0, 7, i % 128]), _OFF)))
    ),
    # pitch
    "bends under one note": lambda n: smf(at_once(_ON) + spaced(1, *_bends(n))),
    "bends under many drums": lambda n: smf(
        at_once(*[b"\x99\x24\x40"] * (n // 2))
        + spaced(1, *(b"\xe9" + bend[1:] for bend in _bends(n // 2))),
        division=30_000,
    ),
    "bends under many notes": lambda n: smf(
        at_once(*[_ON] * (n // 2)) + spaced(1, *_bends(n // 2))
    ),
    # time
    "many tempos": lambda n: smf(spaced(1, *_tempos(n // 2)), spaced(1, *[_ON, _OFF] * (n // 6))),
    "many tempos in many tracks": lambda n: smf(
        *(spaced(i, *_tempos(1)) for i in range(n // 8)), at_once(_ON)
    ),
    # the file
    "many tracks": lambda n: smf(*[at_once(_ON) + spaced(9, _OFF)] * (n // 8)),
    "many names": lambda n: smf(at_once(_ON, *[b"\xff\x03\x00", b"\xff\x01\x01x"] * (n // 3))),
    "many negative steps": lambda n: smf(
        b"".join(b"\x8f\xff\xff\xff\x7f" + _ON for _ in range(n // 3))
    ),
    "events without status": lambda n: smf(b"\0\x40\x40" * n + at_once(_ON)),
    "messages without an end": lambda n: smf(at_once(*[b"\xf0\x03abc"] * (n // 2), _ON)),
    "messages in many parts": lambda n: smf(
        at_once(b"\xf0\x01\x7e", *[b"\xf7\x01\x01"] * (n // 2), _ON)
    ),
    "junk between tracks": lambda n: smf(at_once(_ON)) + b"MTrx\0\0\0\1MTrk" * (n // 3),
    # windows
    "many notes in one window": lambda n: smf(
        at_once(*(bytes([0x90, i % 128, 1 + i % 127]) for i in range(n)))
    ),
    "many held notes over many windows": lambda n: smf(
        at_once(*_held(min(n // 2, 1024)))
        + spaced(300, *[b"\x98\x3c\x40", b"\x88\x3c\x00"] * (n // 4))
    ),
    "windows that are full of held notes": lambda n: smf(_pages(n)),
    "a pile of notes on one pitch in full windows": lambda n: smf(_pile(n)),
    "held for most of a day": lambda n: smf(
        at_once(*_held(min(n, 1024))) + number(15_800_000) + b"\x88\x3c\x00"
    ),
}

SMALL = 60  # events


def small_files() -> list[bytes]:
    """A small file of each family, to be damaged."""
    return [family(SMALL) for family in FAMILIES.values()]
