"""What can be heard and is not played is named, and nothing else is."""

import pytest

from spectro_render.midi.read import read_midi
from tests.support.smf_writer import smf


def controls(*values: int, channel: int = 0, step: int = 0) -> bytes:
    """Control changes: controller, value, controller, value ..."""
    pairs = zip(values[::2], values[1::2], strict=True)
    events = [bytes([0, 0xB0 | channel, first, second]) for first, second in pairs]
    return bytes([step]) + b"".join(events)[1:]


def exclusive(data: str) -> bytes:
    body = bytes.fromhex(data) + b"\xf7"
    return bytes([0, 0xF0, len(body)]) + body


def note(channel: int = 0, pitch: int = 60, length: int = 100) -> bytes:
    return bytes([0, 0x90 | channel, pitch, 90, length, 0x80 | channel, pitch, 0])


def names(*tracks: bytes) -> tuple[str, ...]:
    return read_midi(smf(*tracks)).ignored


@pytest.mark.parametrize(
    "setting",
    [
        controls(1, 0, 10, 64, 65, 0, 67, 0, 68, 0, 69, 0, 91, 40, 93, 0),  # the defaults
        controls(33, 5, 39, 0, 42, 99, 43, 64),  # last bits of volume, pan and others
        controls(3, 1, 9, 1, 20, 4, 85, 1, 102, 5, 111, 1, 119, 3),  # undefined ones
        controls(1, 90, 10, 20, 91, 100, channel=5),  # a channel without notes
        controls(99, 1, 98, 8, 6, 64, 38, 0),  # a sound parameter as it is anyway
        controls(99, 127, 98, 127, 6, 0),  # no parameter
        controls(101, 0, 100, 5, 6, 1),  # the depth of a modulation that never comes
        controls(99, 1, 98, 8, 6, 20, channel=5),
        controls(1, 90) + controls(121, 0),
        controls(1, 90, 67, 127, 74, 10) + exclusive("7e 7f 09 01"),
        exclusive("7e 7f 06 01"),  # asks who is there
        exclusive("7e 7f 09 02"),  # GM off
        exclusive("7f 7f 06 02"),  # transport
        exclusive("41 10 45 12 10 00 00 41 42 43 00"),  # shows words
        exclusive("41 10 42 11 40 00 04 01 00"),  # asks for a value
        exclusive("43 10 4c 06 00 00 41 42 43"),
        b"\0\xd0\0\0\xa0\x3c\0",
    ],
)
def test_what_nobody_hears_is_no_alarm(setting: bytes) -> None:
    assert names(setting + note()) == ()


@pytest.mark.parametrize(
    ("setting", "name"),
    [
        (controls(8, 20), "balance (1 event)"),
        (controls(65, 127), "portamento (1 event)"),
        (controls(67, 127), "soft pedal (1 event)"),
        (controls(91, 100), "reverb (1 event)"),
        (controls(99, 1, 98, 8, 6, 20), "sound parameter (1 event)"),
        (b"\0\xd0\x40", "channel pressure (1 event)"),
        (b"\0\xa0\x3c\x40", "key pressure (1 event)"),
        (exclusive("41 10 42 12 40 01 30 02 0d"), "system exclusive (1 event)"),
    ],
)
def test_what_is_heard_and_not_played_is_named(setting: bytes, name: str) -> None:
    assert names(setting + note()) == (name,)
    assert names(setting, b"\x0a" + note()[1:]) == (name,)


def test_breath_is_named_where_a_note_sounds_under_it() -> None:
    between = controls(2, 90, step=10) + controls(2, 0, step=10)
    assert names(note() + between + note()) == ()
    begin, end = b"\0\x90\x3c\x5a", b"\x0a\x80\x3c\0"
    assert names(begin + between + end) == ("breath (1 event)",)
    assert names(begin + b"\x40" + end[1:], between) == ("breath (1 event)",)
    assert names(between, b"\x30" + note()[1:]) == ()


@pytest.mark.parametrize("setting", [controls(1, 90), controls(10, 20), controls(10, 20, 121, 0)])
def test_modulation_and_pan_are_played_and_not_named(setting: bytes) -> None:
    assert names(setting + note()) == names(setting, b"\x0a" + note()[1:]) == ()
    assert len(read_midi(smf(setting + note())).courses) == 1


def test_vibrato_of_drums_is_named() -> None:
    assert names(controls(1, 90, channel=9) + note(9)) == ("modulation (1 note)",)


def test_notes_that_mono_mode_would_cut_are_named() -> None:
    begin, end = b"\0\x90\x3c\x5a", b"\x0a\x80\x3c\0"
    assert names(controls(126, 1) + begin + note(pitch=64) + end) == (
        "overlap of notes in mono mode (1 event)",
    )
    assert names(controls(126, 1) + note() + note(pitch=64)) == ()
    assert names(controls(126, 1, 127, 0) + begin + note(pitch=64) + end) == ()
