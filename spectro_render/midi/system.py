"""System exclusive messages that change how notes sound, of General MIDI, GS and XG.

The messages stand in the specifications of General MIDI, levels 1 (RP-003) and 2 (RP-024), in the
MIDI implementation of Roland's SC-55 and SC-88 (addresses 40 00 xx and 40 1x xx), and in Yamaha's
specification of XG (system 00 00 xx, multi part 08 nn xx). One message may set several values that
follow each other.
"""

from __future__ import annotations

from typing import NamedTuple

GM, GM2, GS, XG = "GM", "GM2", "GS", "XG"
RESET, PART_MODE, KEY_SHIFT, PART_EVENT = "reset", "part mode", "key shift", "part event"
FINE_TUNING, COARSE_TUNING = "fine tuning", "coarse tuning"  # of the whole device
VOLUME = "volume"  # of the whole device

# Roland counts the parts from 0 by the drums: part 0 is channel 10, parts 1..9 channels 1..9.
_GS_CHANNELS = (9, *range(9), *range(10, 16))


class SystemMessage(NamedTuple):
    """What a system exclusive message does to the device at one port."""

    kind: str
    mode: str = ""  # of a reset: whose rules hold from here on
    channel: int = 0  # 0..15, of what concerns one part
    # Of a part mode 1 for drums, 0 for an instrument; of tunings and a key shift semitones; of a
    # volume 0 to 1.
    value: float = 0.0
    event: tuple[int, int, int] = (0, 0, 0)  # that does the same: status of channel 1, data


def system_messages(data: bytes) -> list[SystemMessage]:
    """The meaning of a message, given without F0 and F7; nothing for those that are not used."""
    if data[:1] == b"\x43" and data[1:2] and data[1] & 0xF0 == 0x10 and data[2:3] == b"\x4c":
        if data[3:4] == b"\x08" and len(data) >= 7:
            return _xg_part_messages(data[4], data[5], data[6:])
    if data[:1] == b"\x41" and data[2:4] == b"\x42\x12" and len(data) >= 8:
        if data[4] == 0x40 and data[5] & 0xF0 == 0x10:
            return _gs_part_messages(_GS_CHANNELS[data[5] & 0x0F], data[6], data[7:])
    message = _device_wide_message(data)
    return [] if message is None else [message]


def _device_wide_message(data: bytes) -> SystemMessage | None:
    if data[:1] == b"\x7e" and data[2:3] == b"\x09" and len(data) >= 4:
        mode = {1: GM, 3: GM2}.get(data[3])
        return SystemMessage(RESET, mode=mode) if mode else None
    if data[:1] == b"\x41" and data[2:4] == b"\x42\x12" and len(data) >= 8:
        return _gs_message(data[4:7], data[7:])
    if data[:1] == b"\x43" and data[1:2] and data[1] & 0xF0 == 0x10 and data[2:3] == b"\x4c":
        return _xg_message(data[3:6], data[6:]) if len(data) >= 7 else None
    if data[:1] == b"\x7f" and data[2:3] == b"\x04" and len(data) >= 6:
        return _device_message(data[3], data[4], data[5])
    return None


def is_heard(data: bytes) -> bool:
    """Whether a message, given without F0 and F7, can change how a GM, GS or XG device sounds.

    Requests, displays, sample dumps, time code and transport do not.
    """
    kind, model = data[:1], data[2:4]
    if kind == b"\x7e":  # universal, not in real time: only tunings are heard
        return model[:1] == b"\x08"
    if kind == b"\x7f":  # universal, in real time: device, tuning and controllers
        return model[:1] in (b"\x04", b"\x08", b"\x09", b"\x0a")
    if kind == b"\x41":  # Roland: displays, requests
        return model[:1] != b"\x45" and model[1:] != b"\x11"
    if kind == b"\x43" and model[:1] == b"\x4c":  # Yamaha: requests, display
        return data[1] & 0xF0 in (0x00, 0x10) and data[3:4] not in (b"\x06", b"\x07")
    return True


def _device_message(kind: int, low: int, high: int) -> SystemMessage | None:
    """A universal message for the whole device, with the two halves of its value.

    Tunings are in CA-025.
    """
    if kind == 1:
        return SystemMessage(VOLUME, value=(high << 7 | low) / 16383)
    if kind == 3:
        return SystemMessage(FINE_TUNING, value=((high << 7 | low) - 8192) / 8192)
    if kind == 4:
        return SystemMessage(COARSE_TUNING, value=high - 64)
    return None


def _tenths_of_cents(nibbles: bytes) -> SystemMessage | None:
    """Master tune of GS and XG: tenths of cents from 1024 on, in four halves of bytes."""
    if len(nibbles) < 4:
        return None
    number = sum(
        (nibble & 0x0F) << shift for nibble, shift in zip(nibbles, (12, 8, 4, 0), strict=False)
    )
    return SystemMessage(FINE_TUNING, value=(number - 1024) / 1000)


def _gs_message(address: bytes, values: bytes) -> SystemMessage | None:
    if address in (b"\x40\x00\x7f", b"\x00\x00\x7f"):  # GS reset; system mode set of the SC-88
        return SystemMessage(RESET, mode=GS)
    if address == b"\x40\x00\x00":
        return _tenths_of_cents(values)
    if address == b"\x40\x00\x04":  # master volume
        return SystemMessage(VOLUME, value=values[0] / 127)
    if address == b"\x40\x00\x05":  # master key shift
        return SystemMessage(COARSE_TUNING, value=values[0] - 64)
    return None


def _gs_part_messages(channel: int, place: int, values: bytes) -> list[SystemMessage]:
    """Tone number, part mode, key shift, level and pan of a part; a checksum follows the values."""
    first = values[0] & 0x7F
    if place == 0x00 and len(values) > 1:
        return [
            SystemMessage(PART_EVENT, channel=channel, event=(0xB0, 0, first)),
            SystemMessage(PART_EVENT, channel=channel, event=(0xC0, values[1] & 0x7F, 0)),
        ]
    if place == 0x15:
        return [SystemMessage(PART_MODE, GS, channel, float(first > 0))]
    if place == 0x16:
        return [SystemMessage(KEY_SHIFT, channel=channel, value=first - 64)]
    if place == 0x19:
        return [SystemMessage(PART_EVENT, channel=channel, event=(0xB0, 7, first))]
    if place == 0x1C:  # 0: at random
        return [SystemMessage(PART_EVENT, channel=channel, event=(0xB0, 10, first or 64))]
    return []


def _xg_message(address: bytes, values: bytes) -> SystemMessage | None:
    if address in (b"\x00\x00\x7e", b"\x00\x00\x7f"):  # XG system on; all parameters reset
        return SystemMessage(RESET, mode=XG)
    if address == b"\x00\x00\x00":
        return _tenths_of_cents(values)
    if address == b"\x00\x00\x04":  # master volume
        return SystemMessage(VOLUME, value=values[0] / 127)
    if address == b"\x00\x00\x06":  # transpose
        return SystemMessage(COARSE_TUNING, value=values[0] - 64)
    return None


def _xg_part_messages(channel: int, place: int, values: bytes) -> list[SystemMessage]:
    """Bank, program, part mode, note shift, volume and pan of a part."""
    events = {0x01: (0xB0, 0), 0x02: (0xB0, 32), 0x0B: (0xB0, 7)}
    messages = []
    for offset, byte in enumerate(values if channel < 16 else b""):
        value = byte & 0x7F
        if place + offset == 0x03:
            event = (0xC0, value, 0)
            messages.append(SystemMessage(PART_EVENT, channel=channel, event=event))
        elif place + offset == 0x07:
            messages.append(SystemMessage(PART_MODE, XG, channel, float(value > 0)))
        elif place + offset == 0x08:
            messages.append(SystemMessage(KEY_SHIFT, channel=channel, value=value - 64))
        elif place + offset == 0x0E:  # 0: at random
            event = (0xB0, 10, value or 64)
            messages.append(SystemMessage(PART_EVENT, channel=channel, event=event))
        elif place + offset in events:
            event = (*events[place + offset], value)
            messages.append(SystemMessage(PART_EVENT, channel=channel, event=event))
    return messages
