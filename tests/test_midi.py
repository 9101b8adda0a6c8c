"""MIDI file -> Score: literal notes, every fixture's outcome, and the bounds on time and memory."""

import gzip
import io
import random
import struct
import sys
import time
import warnings
from dataclasses import astuple
from pathlib import Path

import mido
import pytest

from spectro_render.errors import MidiError
from spectro_render.midi.read import read_midi
from spectro_render.midi.score import Note, Track
from spectro_render.midi.smf import MAX_BYTES
from tests.support.processes import run_program
from tests.support.smf_writer import smf

FIXTURES = Path(__file__).parent / "data" / "midi"

C4_ON, C4_OFF = b"\x90\x3c\x40", b"\x80\x3c\x00"
E4_ON, E4_OFF = b"\x90\x40\x40", b"\x80\x40\x00"
C4 = b"\0" + C4_ON + b"\x60" + C4_OFF  # a quarter note of 96 ticks: 0.5 s


def times(data: bytes) -> list[tuple[float, float, int]]:
    return [(round(n.start, 6), round(n.end, 6), n.pitch) for n in read_midi(data).notes]


def repairs(data: bytes) -> tuple[str, ...]:
    return read_midi(data).repairs


def error(data: object) -> str:
    with pytest.raises(MidiError) as caught:
        read_midi(data)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- what a clean file becomes


def test_notes_of_two_tracks() -> None:
    strings = b"\0\xc0\x30" + b"\0\xff\x03\x05Celli" + b"\x60" + C4_ON + b"\x60" + C4_OFF
    drums = b"\0\x99\x24\x50\x60\x89\x24\x00"
    score = read_midi(smf(strings, drums))
    assert score.notes == (
        Note(start=0.0, end=0.5, pitch=36, velocity=80, program=0, is_drum=True),
        Note(start=0.5, end=1.0, pitch=60, velocity=64, program=48, is_drum=False),
    )
    assert score.duration == 1.0
    assert score.tracks == (
        Track("Celli", 48, False, 1, channel=1, lowest=60, highest=60),
        Track("", 0, True, 1, channel=10, lowest=36, highest=36),
    )
    assert score.repairs == score.ignored == ()


def test_format_0_has_many_channels_in_one_track() -> None:
    body = b"\0\xc1\x28" + b"\0" + C4_ON + b"\0\x91\x43\x40" + b"\x60\x80\x3c\0\0\x81\x43\0"
    score = read_midi(smf(body, kind=0))
    assert [(n.pitch, n.program) for n in score.notes] == [(60, 0), (67, 40)]


def test_tempo_changes() -> None:
    tempo = b"\0\xff\x51\x03\x0f\x42\x40" + b"\x60\xff\x51\x03\x03\xd0\x90"  # 1 s, then 0.25 s
    assert times(smf(tempo, C4 + C4)) == [(0.0, 1.0, 60), (1.0, 1.25, 60)]


def test_pedal_holds_a_note_until_it_is_lifted() -> None:
    body = b"\0\xb0\x40\x7f" + C4 + b"\x60\xb0\x40\x00"
    assert times(smf(body)) == [(0.0, 1.0, 60)]


def test_pedal_leaves_drums_alone() -> None:
    body = b"\0\xb9\x40\x7f\0\x99\x24\x50\x60\x89\x24\x00\x60\xb9\x40\x00"
    assert times(smf(body)) == [(0.0, 0.5, 36)]


def test_overlapping_notes_of_one_pitch_end_together() -> None:
    body = b"\0" + C4_ON + b"\x30" + C4_ON + b"\x30" + C4_OFF + b"\x30" + C4_OFF
    assert times(smf(body)) == [(0.0, 0.5, 60), (0.25, 0.5, 60)]


def test_drum_hits_without_length_are_kept() -> None:
    hit = b"\x60\x99\x24\x50\0\x89\x24\0"
    score = read_midi(smf(hit * 3))
    assert [(n.start, n.pitch, n.is_drum) for n in score.notes] == [
        (0.5, 36, True),
        (1.0, 36, True),
        (1.5, 36, True),
    ]
    assert score.ignored == score.repairs == ()


def test_notes_without_length_sound_for_a_tick() -> None:
    tick = round(0.5 / 96, 6)
    expected = [(0.0, 0.5, 60), (0.5, 0.5 + tick, 64)]
    assert times(smf(C4 + b"\0" + E4_ON + b"\0" + E4_OFF)) == expected
    end_first = smf(C4 + b"\0" + E4_OFF + b"\0" + E4_ON, b"\x83\x00" + C4_ON + b"\x60" + C4_OFF)
    assert times(end_first)[:2] == expected
    assert repairs(end_first) == ()


def test_what_is_not_in_the_vocabulary_is_named() -> None:
    bends = b"\0\xe0\x00\x50" * 3
    controllers = b"\0\xb0\x01\x01\0\xb0\x4d\x10\0\xb0\x07\x64\0\xb0\x0b\x7f"
    pressure_and_sysex = b"\0\xd0\x40\0\xf0\x02\x7d\xf7"
    assert read_midi(smf(bends + controllers + pressure_and_sysex + C4)).ignored == (
        "system exclusive (1 event)",
        "controller 77 (1 event)",
        "channel pressure (1 event)",
    )


@pytest.mark.parametrize(
    ("controllers", "velocity"),
    [
        (b"", 64),
        (b"\0\xb0\x07\x64\0\xb0\x0b\x7f", 64),  # the defaults
        (b"\0\xb0\x07\x32", 32),
        (b"\0\xb0\x0b\x40", 32),
        (b"\0\xb0\x07\x32\0\xb0\x0b\x40", 16),
        (b"\0\xb0\x07\x7f", 81),
        (b"\0\xb0\x07\x00", 1),
        (b"\0\xb1\x07\x00", 64),  # another channel
    ],
)
def test_volume_and_expression_are_in_the_velocity(controllers: bytes, velocity: int) -> None:
    score = read_midi(smf(controllers + C4))
    assert [note.velocity for note in score.notes] == [velocity]
    assert score.ignored == ()


def test_volume_holds_for_all_tracks_of_its_channel_from_its_time_on() -> None:
    volume = b"\x60\xb0\x07\x32"
    assert [note.velocity for note in read_midi(smf(volume, C4 + C4)).notes] == [64, 32]
    other_port = b"\0\xff\x21\x01\x01"
    assert [n.velocity for n in read_midi(smf(volume, other_port + C4 + C4)).notes] == [64, 64]


# --- equal to note_seq where there is nothing to repair


def random_file(seed: int) -> bytes:
    """A faultless file: tempo changes, pedal, programs, drums, overlaps; a track for a channel.

    Programs come first, and no pedal moves at the tick of a note's end: there note_seq departs from
    how players sound.
    """
    random_ = random.Random(seed)
    file = mido.MidiFile(ticks_per_beat=random_.choice([24, 96, 480, 10080]))
    conductor = mido.MidiTrack()
    for _ in range(random_.randrange(4)):
        tempo = random_.randrange(200_000, 1_500_000)
        conductor.append(mido.MetaMessage("set_tempo", tempo=tempo, time=random_.randrange(2000)))
    conductor.append(mido.MetaMessage("key_signature", key="Eb"))
    conductor.append(mido.MetaMessage("lyrics", text="la"))
    file.tracks.append(conductor)
    for channel in random_.sample(range(16), 4):
        file.tracks.append(random_track(random_, channel))
    stream = io.BytesIO()
    file.save(file=stream)
    return stream.getvalue()


def random_track(random_: random.Random, channel: int) -> mido.MidiTrack:
    track = mido.MidiTrack([mido.MetaMessage("track_name", name=f"part {channel}")])
    program = random_.randrange(128)
    track.append(mido.Message("program_change", channel=channel, program=program))
    sounding: list[int] = []
    for _ in range(200):
        step, pitch = random_.randrange(1, 300), random_.randrange(40, 60)
        action = random_.random()
        if sounding and action < 0.45:
            pitch = sounding.pop()
            track.append(mido.Message("note_off", channel=channel, note=pitch, time=step))
        elif action < 0.9:
            sounding.append(pitch)
            velocity = random_.randrange(1, 128)
            on = mido.Message("note_on", channel=channel, note=pitch, velocity=velocity, time=step)
            track.append(on)
        else:
            value = random_.choice([0, 127])
            track.append(
                mido.Message("control_change", channel=channel, control=64, value=value, time=step)
            )
    for pitch in sounding:
        track.append(mido.Message("note_off", channel=channel, note=pitch, time=10))
    return track


def notes_by_note_seq(data: bytes) -> list[Note]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import note_seq

    sequence = note_seq.apply_sustain_control_changes(note_seq.midi_to_note_sequence(data))
    notes = [
        Note(n.start_time, n.end_time, n.pitch, n.velocity, n.program, n.is_drum)
        for n in sequence.notes
    ]
    return sorted(notes, key=astuple)


@pytest.mark.parametrize("seed", range(12))
def test_a_clean_file_gives_the_notes_of_note_seq(seed: int) -> None:
    data = random_file(seed)
    score = read_midi(data)
    assert len(score.notes) > 100
    assert sorted(score.notes, key=astuple) == notes_by_note_seq(data)
    assert score.repairs == ()


# --- repairs


def test_notes_never_switched_off_end_with_their_track() -> None:
    body = b"\0" + C4_ON + b"\x60" + E4_ON + b"\x60" + E4_OFF + b"\x60\xb0\x40\x00"
    assert times(smf(body)) == [(0.0, 1.5, 60), (0.5, 1.0, 64)]
    assert repairs(smf(body)) == (
        "note never switched off, closed at the next of its pitch or the track's end",
    )


def test_a_note_never_switched_off_ends_where_its_pitch_starts_again_or_all_notes_end() -> None:
    again = b"\0" + C4_ON + b"\x60" + C4_ON + b"\x60\xb0\x40\x00"
    assert times(smf(again)) == [(0.0, 0.5, 60), (0.5, 1.0, 60)]
    all_notes_off = b"\0" + C4_ON + b"\x60\xb0\x7b\x00\x60\xb0\x40\x00"
    assert times(smf(all_notes_off)) == [(0.0, 0.5, 60)]
    at_the_end = b"\x60" + C4_ON
    assert times(smf(at_the_end)) == [(0.5, 1.0, 60)]


def test_tempo_in_the_second_track_is_heeded() -> None:
    data = smf(b"", b"\0\xff\x51\x03\x0f\x42\x40" + C4)
    assert times(data) == [(0.0, 1.0, 60)]
    assert repairs(data) == ("tempo set outside the first track",)


def test_the_same_tempo_in_every_track_is_no_fault() -> None:
    tempo = b"\0\xff\x51\x03\x0f\x42\x40"
    assert repairs(smf(tempo, tempo + C4)) == ()


def test_smpte_division_is_absolute_time() -> None:
    body = b"\0\xff\x51\x03\x0f\x42\x40" + C4  # its tempo means nothing
    assert times(smf(body, division=(-25 << 8) + 40)) == [(0.0, 0.096, 60)]
    assert times(smf(body, division=(-24 << 8) + 4)) == [(0.0, 1.0, 60)]
    assert times(smf(body, division=(-30 << 8) + 32)) == [(0.0, 0.1, 60)]
    assert times(smf(body, division=(-29 << 8) + 32)) == [(0.0, 0.1001, 60)]


@pytest.mark.parametrize("division", [0, -1, (-16 << 8) + 96])
def test_impossible_division(division: int) -> None:
    data = smf(C4, division=division)
    assert times(data) == [(0.0, 0.1, 60)]
    assert repairs(data) == (f"impossible division {division}: 480 assumed",)


def test_data_bytes_are_clipped() -> None:
    data = smf(C4 + b"\0\x90\x40\xf0\x60" + E4_OFF)
    assert [note.velocity for note in read_midi(data).notes] == [64, 127]
    assert repairs(data) == ("data byte above 127 clipped",)


def test_a_truncated_file_keeps_what_is_there() -> None:
    data = smf(C4 + C4)
    assert times(data[:-10]) == [(0.0, 0.5, 60)]
    assert repairs(data[:-10]) == (
        "wrong track length",
        "a track ends inside an event: the rest of the track is left out",
    )


@pytest.mark.parametrize(
    ("old", "new", "repair"),
    [
        (b"MThd", b"MT0d", "the header's name is damaged"),
        (b"MTrk", b"mTrk", None),
        (b"MThd\0\0\0\6", b"MThd\0\0\0\x16", None),
        (b"MTrk\0\0\0", b"MTrk\1\0\0", "wrong track length"),
        (b"MTrk\0\0\0\x0c", b"MTrk\0\0\0\x05", "wrong track length"),
        (b"MTrk\0\0\0\x0c", b"XTRA\0\0\0\x02hiMTrk\0\0\0\x0c", None),
    ],
)
def test_damaged_chunk_headers(old: bytes, new: bytes, repair: str | None) -> None:
    data = smf(C4)
    assert old in data
    assert times(data.replace(old, new)) == [(0.0, 0.5, 60)]
    assert repairs(data.replace(old, new)) == ((repair,) if repair else ())


def test_no_header_at_all() -> None:
    data = smf(C4, division=480)[14:]
    assert times(data) == [(0.0, 0.1, 60)]
    assert repairs(data) == ("no header: 480 ticks a quarter note assumed",)


def test_more_and_fewer_tracks_than_promised() -> None:
    assert repairs(smf(C4, C4, n_tracks=1)) == ("the header promises 1 tracks, 2 found",)
    assert repairs(smf(C4, n_tracks=3)) == ("the header promises 3 tracks, 1 found",)


def test_junk_before_and_behind_and_a_second_file() -> None:
    data = smf(C4)
    assert repairs(b"junk" + data) == ("4 bytes before the header skipped",)
    assert repairs(data + b"junk") == ()
    assert times(data + smf(E4_ON)) == [(0.0, 0.5, 60)]


def test_wrappers_are_no_fault() -> None:
    data = smf(C4)
    riff = b"RIFF" + struct.pack("<I", len(data) + 12) + b"RMIDdata" + struct.pack("<I", len(data))
    for wrapped in (gzip.compress(data), riff + data, gzip.compress(riff + data)):
        assert times(wrapped) == [(0.0, 0.5, 60)]
        assert repairs(wrapped) == ()


def test_a_meta_event_of_wrong_length_costs_no_note_of_other_tracks() -> None:
    signature = b"\0\xff\x58\x02\x04\x02\x18\x08"
    assert times(smf(signature, C4)) == [(0.0, 0.5, 60)]
    assert repairs(smf(signature, C4)) == ("event without a status byte",)


def test_undefined_status_bytes_are_stepped_over() -> None:
    assert times(smf(b"\0\xf4\0\xf5\0\xf1\x10\0\xf2\x10\x10\0\xfd" + C4)) == [(0.0, 0.5, 60)]


def test_negative_time_step_goes_back() -> None:
    data = smf(C4 + b"\x8f\xff\xff\xff\x50" + E4_ON + b"\x60" + E4_OFF)  # -48 ticks
    assert times(data) == [(0.0, 0.5, 60), (0.25, 0.75, 64)]
    assert repairs(data) == ("negative time step",)


@pytest.mark.parametrize(
    ("name", "text"),
    [(b"Fl\xf6te", "Flöte"), ("Flöte".encode(), "Flöte"), (b"\xff\xfe", "ÿþ"), (b"a\0b", "a\0b")],
)
def test_track_names_in_any_encoding(name: bytes, text: str) -> None:
    body = b"\0\xff\x03" + bytes([len(name)]) + name + C4
    assert read_midi(smf(body)).tracks[0].name == text


# --- bounds


def test_what_lies_past_24_hours_is_left_out() -> None:
    far = b"\xff\xff\xff\x7f"  # 388 hours
    data = smf(C4 + far + E4_ON + b"\x60" + E4_OFF)
    assert times(data) == [(0.0, 0.5, 60)]
    assert repairs(data) == ("event past 24 hours left out (2 times)",)
    held = smf(C4 + b"\0" + E4_ON + far + E4_OFF)
    assert times(held) == [(0.0, 0.5, 60), (0.5, 1.0, 64)]
    assert "event past 24 hours left out" in error(smf(far + C4_ON + b"\0" + C4_OFF))


def test_a_file_of_twelve_hours_has_exact_times() -> None:
    far = bytes([0x94, 0xC0, 0x80, 0x01])  # 42 991 617 ticks
    data = smf(C4 + far + E4_ON + b"\x01" + E4_OFF, division=481)
    assert times(data)[1] == (
        round(42_991_713 / 481 / 2, 6),
        round(42_991_714 / 481 / 2, 6),
        64,
    )
    assert repairs(data) == ()


def test_too_many_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spectro_render.midi.smf.MAX_EVENTS", 1000)
    assert len(read_midi(smf(C4 * 500)).notes) == 500
    assert error(smf(C4 * 400, C4 * 101)) == "more than 1,000 MIDI events; split the file"


def test_a_huge_file_is_refused_without_being_read_whole() -> None:
    class Endless(io.RawIOBase):
        read_bytes = 0

        def read(self, size: int = -1) -> bytes:
            assert 0 < size
            self.read_bytes += size
            return b"\0" * size

    endless = Endless()
    assert error(endless) == "larger than 16 MB; give a Standard MIDI File (.mid)"
    assert endless.read_bytes == MAX_BYTES + 1


def test_a_gzip_bomb_is_cut_off() -> None:
    wanted = "the gzip wrapper holds more than 1 MB; unpack it with gunzip first"
    assert error(gzip.compress(bytes(2 * 10**7))) == wanted
    assert error(gzip.compress(smf(C4 * 2 * 10**5))) == wanted
    noise = random.Random(0).randbytes(2**17)
    assert error(gzip.compress(noise + bytes(2**21))).startswith(
        "the gzip wrapper holds more than 1.27 MB"
    )
    assert len(read_midi(gzip.compress(smf(C4 * 10**5))).notes) == 10**5


def test_a_number_without_end_is_quickly_given_up() -> None:
    started = time.process_time()
    assert "a number has no end" in error(smf(b"\xff" * 10**7))
    assert time.process_time() - started < 5


MEMORY_PROGRAM = """
import sys
from spectro_render.errors import MidiError
from spectro_render.midi import read_midi
for path in sys.argv[1:]:
    try:
        read_midi(path)
    except MidiError:
        pass
if sys.platform == "linux":  # its ru_maxrss counts what the parent held before the program began
    with open("/proc/self/status") as file:
        status = dict(line.split(":", 1) for line in file)
    print(int(status["VmHWM"].split()[0]) // 2**10)
else:
    import resource
    unit = 2**20 if sys.platform == "darwin" else 2**10
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit)
"""


def test_memory_and_silence(tmp_path: Path) -> None:
    """Under 1 GB (gigabytes would be asked for), nothing on stdout or stderr."""
    long = tmp_path / "long.mid"
    long.write_bytes(smf(C4 + bytes([0x82, 0xF0, 0x80, 0x01]) + C4_ON + b"\x01" + C4_OFF))
    paths = [long, *FIXTURES.glob("*/huge*"), *FIXTURES.glob("*/negative*")]
    assert len(paths) >= 4
    done = run_program(
        [sys.executable, "-W", "default", "-c", MEMORY_PROGRAM, *map(str, paths)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
    )
    assert done.stderr == ""
    assert int(done.stdout) < 1000


def test_twenty_thousand_notes_take_a_few_seconds() -> None:
    read_midi(smf(C4))  # imports
    random_ = random.Random(0)
    notes = (random_.randrange(30, 90) for _ in range(20_000))
    data = smf(b"".join(bytes([7, 0x90, p, 80, 9, 0x80, p, 0]) for p in notes))
    started = time.process_time()
    assert len(read_midi(data).notes) == 20_000
    assert time.process_time() - started < 5


# --- sources and errors


def test_sources(tmp_path: Path) -> None:
    data = smf(C4)
    path = tmp_path / "c.mid"
    path.write_bytes(data)
    expected = read_midi(data)
    assert read_midi(path) == read_midi(str(path)) == expected
    assert read_midi(io.BytesIO(data)) == read_midi(bytearray(data)) == expected  # type: ignore[arg-type]
    with path.open("rb") as file:
        assert read_midi(file) == expected


def test_sources_that_cannot_be_read(tmp_path: Path) -> None:
    reasons: dict[str | Path, str]
    reasons = {tmp_path / "none.mid": "No such file or directory", tmp_path: "Is a directory"}
    reasons["a\0b"] = "embedded null byte"
    for path, reason in reasons.items():
        assert error(path) == f"{path}: cannot be opened ({reason}); check the path"
    assert error(io.StringIO("MThd")) == ("the file is open as text; open it in binary mode ('rb')")
    closed = io.BytesIO()
    closed.close()
    assert "closed file" in error(closed)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a MIDI file (it is empty); give a Standard MIDI File (.mid)"),
        (
            b"<html>",
            "not a MIDI file (6 bytes without a MIDI header); give a Standard MIDI File (.mid)",
        ),
        (smf(b""), "the MIDI file has no notes; choose one that has"),
        (smf(C4)[:14], "the MIDI file has no track; export it again"),
        (
            smf(C4)[:25],
            "no notes could be read (wrong track length; a track ends inside an event: the rest of "
            "the track is left out); export the file again",
        ),
        (
            b"\x1f\x8bnothing",
            "the gzip wrapper is damaged (",
        ),
    ],
)
def test_errors_say_what_why_and_what_to_do(data: bytes, message: str) -> None:
    assert error(data).startswith(message)


def test_damage_at_random_never_raises_anything_else() -> None:
    random_ = random.Random(0)
    originals = [path.read_bytes() for path in sorted(FIXTURES.glob("*/*.mid"))]
    for original in originals * 4:
        data = bytearray(original)
        for _ in range(min(len(data), 5)):
            position = random_.randrange(len(data))
            data[position : position + random_.randrange(3)] = random_.randbytes(
                random_.randrange(3)
            )
            data = data or bytearray(1)
        try:
            score = read_midi(bytes(data))
        except MidiError as damage:
            assert "\n" not in str(damage)
        else:
            assert all(n.start < n.end and 1 <= n.velocity <= 127 for n in score.notes)


# --- the fixtures


EXPECTED: dict[str, tuple[int, float] | str] = {  # notes and seconds, or the error's key words
    "MIDI.jl/negative_delta.mid": (2, 1.25),
    "MIDI.jl/texts.mid": (9, 4.5),
    "go-audio-midi/example-format0.mid": (4, 2.0),
    "jazz-soft/test-2-tracks-type-0.mid": (16, 4.5),
    "jazz-soft/test-2-tracks-type-2.mid": (16, 4.5),
    "jazz-soft/test-corrupt-file-extra-byte.mid": (8, 4.0),
    "jazz-soft/test-corrupt-file-missing-byte.mid": (8, 4.0),
    "jazz-soft/test-empty-file.mid": "not a MIDI file",
    "jazz-soft/test-empty.mid": "the MIDI file has no notes",
    "jazz-soft/test-illegal-message-all.mid": (8, 4.0),
    "jazz-soft/test-illegal-message-f4.mid": (8, 4.0),
    "jazz-soft/test-illegal-message-f8.mid": (8, 4.0),
    "jazz-soft/test-karaoke-kar.mid": (29, 10.6),
    "jazz-soft/test-non-midi-track.mid": (8, 4.0),
    "jazz-soft/test-not-a-midi-file.mid": "not a MIDI file",
    "jazz-soft/test-running-status-metaevent.mid": (8, 4.0),
    "jazz-soft/test-running-status-sysex.mid": (8, 4.0),
    "jazz-soft/test-silence-end-of-track.mid": "the MIDI file has no notes",
    "jazz-soft/test-smpte-offset.mid": (8, 4.0),
    "jazz-soft/test-sysex-gs-40-1x-15-drum-part-change.mid": (8, 5.0),
    "jazz-soft/test-track-length.mid": (1, 0.5),
    "jazz-soft/test-vlq-4-byte.mid": (8, 4.0),
    "miditok/empty.mid": "the MIDI file has no notes",
    "midly/SysExTest.mid": "the MIDI file has no notes",
    "muspy/empty.mid": "the MIDI file has no notes",
    "muspy/negative-ticks-per-beat.mid": "the MIDI file has no track",
    "muspy/type2.mid": "the MIDI file has no track",
    "muspy/zero-ticks-per-beat.mid": "the MIDI file has no track",
    "note-seq/example_event_order.mid": (3, 10.0),
    "note-seq/example_is_drum.mid": (40, 0.02),
    "sonivox/ants.mid": (372, 17.23),
    "sonivox/midi_gs.mid": (1, 0.5),
    "synthetic/all_pitches_0_127.mid": (128, 16.0),
    "synthetic/databyte_over_127.mid": (4, 2.0),
    "synthetic/drums_only_ch10_program.mid": (4, 2.0),
    "synthetic/gzip_wrapped.mid": (4, 2.0),
    "synthetic/header_says_3_tracks_has_1.mid": (4, 2.0),
    "synthetic/html_404_as_mid.mid": "not a MIDI file",
    "synthetic/huge_delta_multi.mid": (4, 2.0),
    "synthetic/huge_delta_time.mid": (4, 2.0),
    "synthetic/karaoke_cp1251.mid": (4, 2.0),
    "synthetic/keysig_13_sharps.mid": (4, 2.0),
    "synthetic/keysig_mode_255.mid": (4, 2.0),
    "synthetic/lyrics_shift_jis.mid": (4, 2.0),
    "synthetic/lyrics_utf16_bom.mid": (4, 2.0),
    "synthetic/mac_binary_prefix_128.mid": (4, 2.0),
    "synthetic/missing_end_of_track.mid": (4, 2.0),
    "synthetic/no_tracks.mid": "the MIDI file has no track",
    "synthetic/overlapping_same_pitch.mid": (2, 0.5),
    "synthetic/rmid_riff_wrapper.mid": (4, 2.0),
    "synthetic/running_status_at_start.mid": (1, 0.5),
    "synthetic/smpte_division_25x40.mid": (4, 0.38),
    "synthetic/smpte_offset_bad_frames.mid": (4, 2.0),
    "synthetic/stuck_notes_no_off.mid": (3, 1.5),
    "synthetic/tempo_len_1.mid": (4, 2.0),
    "synthetic/tempo_zero.mid": (4, 2.0),
    "synthetic/timesig_len_2.mid": (4, 2.0),
    "synthetic/timesig_zero_numerator.mid": (4, 2.0),
    "synthetic/track_len_ffffffff.mid": (4, 2.0),
    "synthetic/truncated_mid_event.mid": (3, 1.5),
    "synthetic/unclosed_sysex.mid": (4, 2.0),
    "synthetic/zero_length_track.mid": (4, 2.0),
}


def test_every_fixture_has_an_expectation() -> None:
    found = {str(path.relative_to(FIXTURES)) for path in FIXTURES.glob("*/*")}
    assert found == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_fixture(name: str) -> None:
    expected = EXPECTED[name]
    data = (FIXTURES / name).read_bytes()
    if isinstance(expected, str):
        assert expected in error(data)
    else:
        score = read_midi(data)
        assert (len(score.notes), round(score.duration, 2)) == expected
