"""Notes are played as a synthesiser plays them: state belongs to channels, not to tracks."""

import io
import random

import mido
import pytest

from spectro_render.midi.read import read_midi
from tests.support.plain_reading import plain_notes
from tests.support.smf_writer import smf

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


# --- drums: bytes after F0, as system exclusive messages are written in files

GM_ON, GM2_ON = "7e 7f 09 01 f7", "7e 7f 09 03 f7"
GS_ON, XG_ON = "41 10 42 12 40 00 7f 00 41 f7", "43 10 4c 00 00 7e 00 f7"


def exclusive(data: str) -> bytes:
    body = bytes.fromhex(data)
    return bytes([0, 0xF0, len(body)]) + body


def hit(channel: int, pitch: int = 50) -> bytes:
    return bytes([0, 0x90 | channel, pitch, 90, 10, 0x80 | channel, pitch, 0])


def bank(channel: int, number: int, program: int = 0) -> bytes:
    return bytes([0, 0xB0 | channel, 0, number, 0, 0xC0 | channel, program])


@pytest.mark.parametrize(
    ("setting", "drums"),
    [
        (b"", {9}),
        (exclusive("41 10 42 12 40 1a 15 02 0f f7"), {9, 10}),  # GS parts, without a reset before
        (exclusive(GS_ON) + exclusive("41 10 42 12 40 10 15 00 1b f7"), set()),
        (exclusive(GS_ON) + exclusive("41 7f 42 12 40 11 15 01 19 f7"), {0, 9}),
        (exclusive("41 10 42 12 40 1a 15 02 0f f7") + exclusive(GM_ON), {9}),  # back to the usual
        (exclusive("41 10 42 12 40 1a 15 02 0f f7") + bank(10, 0), {9, 10}),
        (exclusive(XG_ON) + exclusive("43 10 4c 08 03 07 02 f7"), {3, 9}),
        (exclusive(XG_ON) + bank(3, 126) + bank(4, 127) + bank(5, 64) + bank(9, 0), {3, 4, 9}),
        (exclusive(XG_ON) + bank(9, 64), set()),
        (exclusive(XG_ON) + bank(3, 127) + bank(3, 0), {9}),
        (exclusive(GM2_ON) + bank(3, 120) + bank(9, 121) + bank(4, 127), {3}),
        (exclusive(GM2_ON) + bank(9, 121) + exclusive(GS_ON), {9}),
        (exclusive(GS_ON) + bank(3, 127) + bank(4, 120), {9}),  # 127: sounds of the MT-32
        (bank(3, 127) + bank(4, 120) + bank(9, 121) + bank(5, 121), {3, 4, 9}),
        (bank(3, 127) + bank(3, 0), {9}),
        (b"\0\xb3\0\x7f", {9}),  # a bank without a program change chooses nothing
        (b"\0\xf0\x04\x43\x10\x4c\x00" + b"\0\xf7\x04\x00\x7e\x00\xf7" + bank(3, 127), {3, 9}),
    ],
)
def test_which_channels_are_drums(setting: bytes, drums: set[int]) -> None:
    hits = b"".join(hit(channel) for channel in range(16))
    score = read_midi(smf(setting + hits))
    assert {channel for channel, note in enumerate(score.notes) if note.is_drum} == drums
    assert not [phrase for phrase in score.ignored if "played as" not in phrase]
    assert score.repairs == ()
    set_up = read_midi(smf(setting, b"\x0a" + hits[1:]))  # in a track of its own
    assert {channel for channel, note in enumerate(set_up.notes) if note.is_drum} == drums


def test_drums_of_one_port_are_no_drums_of_the_other() -> None:
    port = b"\0\xff\x21\x01\x01"
    gs = exclusive("41 10 42 12 40 1a 15 02 0f f7")
    score = read_midi(smf(gs + hit(10), port + b"\x14" + hit(10)[1:]))
    assert [note.is_drum for note in score.notes] == [True, False]


def test_two_devices_with_names_have_channels_of_their_own() -> None:
    def track(device: str, program: int, *more: bytes) -> bytes:
        name = bytes([0, 0xFF, 9, len(device)]) + device.encode()
        return name + b"".join(more) + bytes([0, 0xC0, program]) + hit(0, 60 + program)

    def programs(*tracks: bytes) -> list[int]:
        return [note.program for note in read_midi(smf(*tracks)).notes]

    notes = b"\x20" + hit(0)[1:]  # on the first device
    assert programs(track("A", 40), track("B", 19), notes) == [40, 19, 40]
    assert programs(track("A", 40), track("A", 19), notes) == [40, 19, 19]
    port = b"\0\xff\x21\x01\0"  # numbered: the same
    assert programs(track("A", 40, port), track("B", 19, port), notes) == [40, 19, 19]


def test_a_reset_silences_notes_and_gives_the_piano_back() -> None:
    organ = b"\0\xc0\x13\0\xb0\x07\x20" + b"\0\x90\x3c\x5a" + b"\x0a" + exclusive(GM_ON)[1:]
    notes = read_midi(smf(organ + b"\x0a\x80\x3c\0" + hit(0), division=DIVISION)).notes
    assert [(note.program, note.velocity) for note in notes] == [(19, 29), (0, 90)]
    assert notes[0].end == pytest.approx(10 * TICK)


def test_kits_that_are_played_as_the_standard_one_are_named() -> None:
    brush = b"\0\xc9\x28" + hit(9) * 2 + b"\0\xc9\x30" + hit(9, 36) + hit(9, 45) + b"\0\xc9\x01"
    score = read_midi(smf(brush + hit(9)))
    assert score.ignored == (
        "Brush drum kit, played as the standard one (2 notes)",
        "Orchestra drum kit, played as the standard one (1 note)",
    )
    assert [note.program for note in score.notes if not note.is_drum] == [47]


@pytest.mark.parametrize(
    "message",
    [
        "41 10 42 12 40 11 00 00 13 4d f7",  # tone number of a GS part
        "43 10 4c 08 00 03 13 f7",
        "43 10 4c 08 00 01 00 00 13 f7",  # bank and program
    ],
)
def test_instruments_that_exclusive_messages_choose_are_played(message: str) -> None:
    score = read_midi(smf(exclusive(message) + hit(0) + hit(1)))
    assert [note.program for note in score.notes] == [19, 0]
    assert score.ignored == ()


@pytest.mark.parametrize(
    ("setting", "channel", "name"),
    [
        (bank(9, 0, 11), 9, "Room drum kit, played as the standard one"),
        (bank(9, 0, 49), 9, "drum kit 49, played as the standard one"),
        (bank(9, 0, 3), 9, ""),
        (exclusive(XG_ON) + bank(9, 126), 9, "SFX drum kit, played as the standard one"),
        (exclusive(XG_ON) + bank(9, 127), 9, ""),
        (bank(0, 8), 0, "variation of an instrument, played as the usual one"),  # GS
        (exclusive(GS_ON) + bank(0, 127), 0, "variation of an instrument, played as the usual one"),
        (exclusive(XG_ON) + bank(0, 64), 0, "variation of an instrument, played as the usual one"),
        (
            b"\0\xb0\x20\x03" + bank(0, 121),
            0,
            "variation of an instrument, played as the usual one",
        ),
        (exclusive(GS_ON) + b"\0\xb0\x20\x03" + bank(0, 0), 0, ""),  # which device's sounds
        (bank(0, 121), 0, ""),
        (bank(0, 8) + bank(0, 0), 0, ""),
        (b"\0\xb0\0\x08\0\xb0\x20\x03", 0, ""),  # without a program change
    ],
)
def test_sounds_of_other_banks_and_kits_are_named(setting: bytes, channel: int, name: str) -> None:
    expected = (f"{name} (1 note)",) if name else ()
    assert read_midi(smf(setting + hit(channel))).ignored == expected


def test_the_symphony_kit_of_xg_has_no_timpani() -> None:
    score = read_midi(smf(exclusive(XG_ON) + bank(9, 127, 48) + hit(9, 45)))
    assert [note.is_drum for note in score.notes] == [True]


def test_a_string_struck_again_under_the_sostenuto_pedal_rings_on() -> None:
    down, up = b"\x05\xb0\x42\x7f", b"\x64\xb0\x42\0"
    again = b"\x05\x80\x3c\0" + hit(0, 60)
    score = read_midi(smf(b"\0\x90\x3c\x5a" + down + again + up, division=DIVISION))
    assert [round(note.end / TICK) for note in score.notes] == [10, 120]


# --- pitch


def control(*values: int, channel: int = 0, step: int = 0) -> bytes:
    """Control changes: controller, value, controller, value ..."""
    pairs = zip(values[::2], values[1::2], strict=True)
    events = [bytes([0, 0xB0 | channel, first, second]) for first, second in pairs]
    return bytes([step]) + b"".join(events)[1:]


def wheel(semitones: float, reach: float = 2.0, step: int = 0) -> bytes:
    value = min(max(round(8192 + semitones / reach * 8192), 0), 16383)
    return bytes([step, 0xE0, value & 0x7F, value >> 7])


def note(pitch: int = 60, length: int = 100) -> bytes:
    return bytes([0, 0x90, pitch, 90, length, 0x80, pitch, 0])


NULL = control(101, 127, 100, 127)
OCTAVE = control(101, 0, 100, 0, 6, 12)


@pytest.mark.parametrize(
    ("setting", "pitch", "is_warped"),
    [
        (control(101, 0, 100, 2, 6, 62), 58, False),  # coarse tuning
        (control(100, 2, 101, 0, 38, 0, 6, 76), 72, False),
        (control(101, 0, 100, 2, 96, 0, 96, 0, 97, 0), 61, False),  # increments and a decrement
        (control(101, 0, 100, 2) + NULL + control(6, 62), 60, False),
        (control(101, 0, 100, 2, 99, 1, 98, 2, 6, 62), 60, False),  # of another parameter
        (control(99, 1, 98, 2, 101, 0, 100, 2, 6, 62), 58, False),
        (control(101, 0, 100, 1, 6, 127, 38, 127), 61, False),  # fine tuning by a semitone
        (control(101, 0, 100, 1, 6, 74), 60, False),  # by 16 cents
        (control(101, 0, 100, 1, 6, 96), 60, True),  # by 50 cents
        (control(101, 0, 100, 1, 6, 32) + wheel(0.5), 60, False),  # they cancel
        (wheel(2), 62, False),
        (wheel(0.5), 60, True),
        (wheel(1) + wheel(0), 60, False),  # a bend that only resets
        (OCTAVE + wheel(7, 12), 67, False),
        (control(101, 0, 100, 0, 6, 2, 38, 50) + wheel(2.5, 2.5), 60, True),
        (control(101, 0, 100, 0) + control(96, 0) * 98 + wheel(2.98, 2.98), 63, False),
        (OCTAVE + wheel(7, 12) + control(121, 0), 60, False),
        (control(101, 0, 100, 2, 6, 62) + control(121, 0), 58, False),  # keeps the tuning
        (control(101, 0, 100, 2, 6, 62) + exclusive(GM_ON), 60, False),
        (control(101, 0, 100, 2, 6, 62, channel=1), 60, False),
        (exclusive("7f 7f 04 04 00 43 f7"), 63, False),  # master tuning
        (exclusive("7f 7f 04 03 00 00 f7"), 59, False),
        (exclusive("7f 7f 04 04 00 43 f7") + exclusive("7f 7f 04 03 7f 7f f7"), 64, False),
        (exclusive("41 10 42 12 40 00 05 3e 7d f7"), 58, False),
        (exclusive("43 10 4c 00 00 06 46 f7"), 66, False),
        (exclusive("41 10 42 12 40 00 00 00 07 0e 08 23 f7"), 61, False),
        (exclusive("7f 7f 04 04 00 43 f7") + exclusive(XG_ON), 60, False),
        (exclusive("41 10 42 12 40 11 16 34 00 f7"), 48, False),  # key shift of a GS part
        (exclusive("43 10 4c 08 00 08 45 f7"), 65, False),  # and of an XG part
        (exclusive("43 10 4c 08 01 08 45 f7"), 60, False),
        (exclusive("41 10 42 12 40 11 16 34 00 f7") + exclusive(GS_ON), 60, False),
    ],
)
def test_a_note_has_the_pitch_that_its_channel_is_tuned_and_bent_to(
    setting: bytes, pitch: int, is_warped: bool
) -> None:
    score = read_midi(smf(setting + note()))
    assert [note.pitch for note in score.notes] == [pitch]
    assert score.ignored in ((), ("sound parameter (1 event)",))
    assert any(course.bend for course in score.courses) is is_warped
    assert [n.pitch for n in read_midi(smf(setting, note())).notes] == [pitch]
    drum = setting.replace(b"\xb0", b"\xb9").replace(b"\xe0", b"\xe9") + hit(9)
    assert [note.pitch for note in read_midi(smf(drum)).notes] == [50]


def test_a_bend_that_moves_as_a_note_starts_is_an_ornament() -> None:
    begin, end = b"\0\x90\x3c\x5a", b"\x60\x80\x3c\0"
    scooped = wheel(-2) + begin + wheel(-1, step=4) + wheel(0, step=4) + end
    score = read_midi(smf(scooped, division=DIVISION))
    assert [note.pitch for note in score.notes] == [60]
    assert len(score.courses) == 1 and score.ignored == ()
    released = wheel(2) + begin + wheel(0, step=60) + end
    score = read_midi(smf(released, division=DIVISION))
    assert [(note.pitch, note.bend) for note in score.notes] == [(62, 2)]
    assert len(score.courses) == 1 and score.ignored == ()
    after = wheel(2) + begin + end + wheel(0) + wheel(1) + wheel(0) + note(62)
    score = read_midi(smf(after))
    assert [note.pitch for note in score.notes] == [62, 62]
    assert score.courses == score.ignored == ()


def test_bends_of_drums_are_named() -> None:
    bent = b"\0\xe9\0\x70"
    assert read_midi(smf(bent + hit(9))).ignored == ("pitch bend (1 note)",)
    assert read_midi(smf(bent + b"\0\xe9\0\x40" + hit(9))).ignored == ()
    assert read_midi(smf(hit(9) + b"\x60" + bent[1:])).ignored == ()
    tuned = control(101, 0, 100, 2, 6, 60, channel=9)
    assert read_midi(smf(tuned + hit(9))).ignored == ()


def test_pitches_beyond_the_keyboard_come_back_by_octaves() -> None:
    tuned = control(101, 0, 100, 2, 6, 88)
    assert [note.pitch for note in read_midi(smf(tuned + note(120))).notes] == [120]
    tuned = control(101, 0, 100, 2, 6, 59)
    assert [note.pitch for note in read_midi(smf(tuned + note(2))).notes] == [9]
