"""Music that is changed before it is rendered: by options, and by mapping files."""

import json
from collections.abc import Callable
from pathlib import Path

import mido
import pretty_midi
import pytest

import spectro_render as sr
from spectro_render.batch.mapping import MappingFile, read_mapping
from spectro_render.cli import app as cli
from spectro_render.errors import MidiError, OptionError
from spectro_render.midi.instruments import DRUMS, INSTRUMENTS, find_instrument
from spectro_render.midi.length import part_to_render, with_times
from spectro_render.midi.read import as_score, read_midi
from spectro_render.options import RenderOptions
from tests.support.smf_writer import smf
from tests.support.songs import MakeSong

QUARTER = 96  # ticks


def named(name: str) -> bytes:
    data = name.encode()
    return b"\0\xff\x03" + bytes([len(data)]) + data


def notes(channel: int, *pitches: int, velocity: int = 100) -> bytes:
    """Quarter notes, one after the other."""
    return b"".join(
        bytes([0, 0x90 | channel, pitch, velocity, QUARTER, 0x80 | channel, pitch, 0])
        for pitch in pitches
    )


def signature(ticks: int, beats: int, power: int) -> bytes:
    step = bytes([0x80 | ticks >> 7, ticks & 0x7F])
    return step + bytes([0xFF, 0x58, 4, beats, power, 24, 8])


BAND = smf(
    named("Lead") + b"\0\xc0\x49" + notes(0, 60, 62),
    named("Strings") + b"\0\xc1\x30" + notes(1, 50),
    named("Strings") + b"\0\xc2\x30" + notes(2, 55),
    named("Kit") + notes(9, 36, 38),
)
SINGLE = smf(notes(0, *range(60, 76)))  # four bars of 4/4, 8 s


def played(data: bytes, **options: object) -> list[tuple[int, int | str]]:
    """Pitch and program of each note, by pitch; drums have no program."""
    score = read_midi(data, RenderOptions(**options))  # type: ignore[arg-type]
    return sorted((note.pitch, "drum" if note.is_drum else note.program) for note in score.notes)


def changed(programs: dict[int | str, int | str], data: bytes = BAND) -> dict[int, int | str]:
    """The notes whose program is another than in the file."""
    before = played(data)
    return dict(sorted(set(played(data, programs=programs)) - set(before)))


# --- instruments ------------------------------------------------------------------------------


@pytest.mark.parametrize("program", range(128))
def test_every_instrument_has_a_name_and_a_number(program: int) -> None:
    assert find_instrument(INSTRUMENTS[program]) == find_instrument(str(program + 1)) == program


@pytest.mark.parametrize(
    ("name", "program"),
    [("violin", 40), ("FLUTE", 73), ("honky tonk", 3), ("church", 19), (41, 40), ("drums", DRUMS)],
)
def test_names_of_instruments(name: str | int, program: int) -> None:
    assert find_instrument(name) == program


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vioiln", "did you mean 'Violin'?"),
        ("viol", "may be Violin (41) or Viola (42)"),
        ("sax", "may be Soprano Sax (65), Alto Sax (66), Tenor Sax (67) or Baritone Sax (68)"),
        ("0", "count from 1"),
        ("129", "count from 1"),
        ("-1", "count from 1"),
        ("", "give a name such as 'violin'"),
        ("9" * 5000, "give a name such as 'violin'"),
    ],
)
def test_wrong_names_of_instruments(name: str, message: str) -> None:
    with pytest.raises(OptionError) as caught:
        find_instrument(name)
    assert message in str(caught.value)


def test_programs_of_channels_and_tracks() -> None:
    assert changed({1: "violin"}) == changed({"1": 41}) == {60: 40, 62: 40}
    assert changed({"Lead": "violin"}) == changed({" lead ": 41}) == {60: 40, 62: 40}
    assert changed({"Strings": "oboe"}) == {50: 68, 55: 68}  # both tracks of that name
    assert changed({"Strings": "oboe", 3: "tuba"}) == {50: 68, 55: 58}  # the later wins


def test_drums_become_an_instrument_and_back() -> None:
    assert changed({10: "violin"}) == {36: 40, 38: 40}
    assert changed({"Lead": "drums"}) == {60: "drum", 62: "drum"}
    assert len(played(BAND, programs={10: "violin"}, drums=False)) == 6
    assert len(played(BAND, programs={"Lead": "drums"}, drums=False)) == 2


def test_a_name_is_found_in_any_case_and_any_spelling_of_unicode() -> None:
    two = smf(named("cafe\u0301") + notes(0, 60), named("CAF\u00c9") + notes(1, 62))
    assert changed({"caf\u00e9": "violin"}, two) == {60: 40, 62: 40}
    assert changed({"CAF\u00c9": "violin"}, two) == {62: 40}  # as written, so it is the only one


def test_a_track_named_like_an_instrument_is_a_track() -> None:
    assert changed({"Violin": "flute"}, smf(named("Violin") + notes(0, 60))) == {60: 73}


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("Laed", "no track is called 'Laed'; did you mean 'Lead'?"),
        (
            "Oboe d'amore",
            "no track is called \"Oboe d'amore\"; there is 'Lead', 'Strings' or 'Kit'",
        ),
        (7, "channel 7 plays no note; channels with notes: 1, 2, 3, 10"),
    ],
)
def test_a_part_that_the_file_does_not_have(part: int | str, message: str) -> None:
    with pytest.raises(MidiError) as caught:
        played(BAND, programs={part: "violin"})
    assert str(caught.value) == message
    options = RenderOptions(programs={part: "violin"}, skip_missing=True)
    score = read_midi(BAND, options)
    assert score.notes == read_midi(BAND).notes
    assert score.ignored == (f"program for {str(part)!r}: {message.partition(';')[0]}",)


@pytest.mark.parametrize("part", [0, 17, "-", " ", "100000000000"])
def test_parts_that_cannot_be(part: int | str) -> None:
    with pytest.raises((OptionError, MidiError)):
        played(BAND, programs={part: "violin"})


def test_an_object_has_no_channels_but_names() -> None:
    midi = pretty_midi.PrettyMIDI()
    part = pretty_midi.Instrument(0, name="right hand")
    part.notes = [pretty_midi.Note(90, 60, 0.0, 1.0)]
    midi.instruments = [part]
    score = as_score(midi, RenderOptions(programs={"right hand": "violin"}, tempo=2.0))
    assert (score.notes[0].program, score.notes[0].end) == (40, 0.5)
    with pytest.raises(MidiError, match="no channel 1 in this object"):
        as_score(midi, RenderOptions(programs={1: "violin"}))
    with pytest.raises(MidiError, match="counts no bars"):
        part_to_render(score, RenderOptions(bars="1"))


# --- drums, pitch, velocity, tempo ------------------------------------------------------------


def test_without_drums() -> None:
    assert [pitch for pitch, _ in played(BAND, drums=False)] == [50, 55, 60, 62]
    with pytest.raises(MidiError, match="no note is left without drums"):
        played(smf(notes(9, 36)), drums=False)


def test_transposing_leaves_drums_where_they_are() -> None:
    assert played(BAND, transpose=-2)[:3] == [(36, "drum"), (38, "drum"), (48, 48)]
    score = read_midi(smf(notes(0, 1, 60, 126)), RenderOptions(transpose=-2))
    assert [note.pitch for note in score.notes] == [58, 124]
    assert score.ignored == ("transposed beyond the 128 keys (1 note)",)
    with pytest.raises(MidiError, match="no note is left"):
        played(SINGLE, transpose=-127)


def test_velocities_end_at_127() -> None:
    data = smf(notes(0, 60, velocity=100) + notes(0, 62, velocity=50) + notes(0, 64, velocity=1))
    score = read_midi(data, RenderOptions(velocity=1.5))
    assert [note.velocity for note in score.notes] == [127, 75, 2]
    assert score.ignored == ("velocity above 127, lowered to that (1 note)",)
    assert [n.velocity for n in read_midi(data, RenderOptions(velocity=0.01)).notes] == [1, 1, 1]


def test_tempo() -> None:
    score = read_midi(BAND, RenderOptions(tempo=0.5))
    assert [note.end for note in score.notes] == [2 * note.end for note in read_midi(BAND).notes]
    assert score.duration == 2 * read_midi(BAND).duration
    assert score.meter is not None and list(score.meter.tempos()) == [(0.0, 60.0)]


@pytest.mark.parametrize(
    "options",
    [
        {"tempo": 0.0},
        {"tempo": float("nan")},
        {"tempo": 1e9},
        {"velocity": -1.0},
        {"velocity": float("inf")},
        {"transpose": 128},
        {"transpose": 0.5},
        {"programs": {1: "vioiln"}},
    ],
)
def test_values_that_are_impossible(options: dict[str, object]) -> None:
    with pytest.raises(OptionError):
        played(BAND, **options)


def test_a_score_that_was_read_is_not_changed_any_more() -> None:
    options = RenderOptions(transpose=2)
    score = read_midi(BAND, options)
    assert as_score(score, options) is as_score(score) is score
    with pytest.raises(OptionError, match="not changed any more"):
        as_score(score, RenderOptions(transpose=3))


# --- bars -------------------------------------------------------------------------------------


def times(data: bytes, bars: str, **others: float) -> tuple[float, float | None]:
    options = with_times(read_midi(data), RenderOptions(bars=bars, **others))  # type: ignore[arg-type]
    return options.start, options.duration


@pytest.mark.parametrize(
    ("bars", "expected"),
    [
        ("1", (0.0, 2.0)),
        ("2-3", (2.0, 4.0)),
        (" 2 - 3 ", (2.0, 4.0)),
        ("-2", (0.0, 4.0)),
        ("3-", (4.0, None)),
        ("2-4", (2.0, None)),  # to the last bar: the sound rings out
    ],
)
def test_bars(bars: str, expected: tuple[float, float | None]) -> None:
    assert times(SINGLE, bars) == expected


@pytest.mark.parametrize("bars", ["", "-", "a", "1-2-3", "1.5", "5-4", "99999999"])
def test_what_are_no_bars(bars: str) -> None:
    with pytest.raises(OptionError):
        times(SINGLE, bars)


def test_bars_that_the_music_does_not_have() -> None:
    for bars, number in (("0", 0), ("5", 5), ("3-9", 9)):
        with pytest.raises(MidiError) as caught:
            times(SINGLE, bars)
        expected = f"there is no bar {number}: the music has bars 1 to 4; choose others with --bars"
        assert str(caught.value) == expected
    with pytest.raises(OptionError, match="excludes"):
        times(SINGLE, "1", start=1.0)


def test_bars_follow_time_signatures_and_tempos() -> None:
    tempo = b"\x83\x00\xff\x51\x03\x0f\x42\x40"  # 60 a minute from the second bar on
    first = signature(0, 4, 2) + tempo + signature(0, 3, 2) + signature(3 * QUARTER, 6, 3)
    data = smf(first, notes(0, *range(60, 76)))
    assert [times(data, f"{bar}")[0] for bar in range(1, 5)] == [0.0, 2.0, 5.0, 8.0]
    meter = read_midi(data).meter
    assert meter is not None and (meter.first_bar, meter.last_bar) == (1, 5)


def test_a_short_first_bar_is_a_pickup() -> None:
    first = signature(0, 1, 2) + signature(QUARTER, 4, 2)
    data = smf(first, notes(0, *range(60, 69)))
    assert (times(data, "0"), times(data, "1")) == ((0.0, 0.5), (0.5, 2.0))
    assert read_midi(smf(signature(0, 3, 2), notes(0, 60))).meter.first_bar == 1  # type: ignore[union-attr]


def test_a_time_signature_within_a_bar_begins_one() -> None:
    first = signature(0, 4, 2) + signature(6 * QUARTER, 3, 2) + signature(QUARTER, 3, 2)
    data = smf(first, notes(0, *range(60, 76)))
    # Its repetition a quarter note later, in the middle of a bar, begins none.
    assert [times(data, f"{bar}")[0] for bar in range(1, 6)] == [0.0, 2.0, 3.0, 4.5, 6.0]


def test_bars_in_frames_of_a_film() -> None:
    film = smf(notes(0, 60), division=-(25 << 8) + 40)
    with pytest.raises(MidiError, match="counts no bars"):
        times(film, "1")


def test_impossible_time_signatures_are_passed_over() -> None:
    first = signature(0, 0, 2) + signature(0, 4, 200) + b"\0\xff\x58\x00"
    assert times(smf(first, notes(0, *range(60, 76))), "2") == (2.0, 2.0)


# --- mapping files ----------------------------------------------------------------------------

EXAMPLE = """\
tempo = 0.9
drums = "off"

[program]
1 = "violin"
"Lead" = 73

[files."quiet/*.mid"]
velocity = 0.5
bars = 3

[files."quiet/*.mid".program]
1 = "cello"
"""


def mapping_of(folder: Path, text: str | bytes) -> MappingFile:
    path = folder / "map.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_mapping(str(path))


def test_a_mapping_file(tmp_path: Path) -> None:
    mapping = mapping_of(tmp_path, EXAMPLE)
    loud = mapping.options_of("loud/a.mid", RenderOptions(seed=4), {})
    programs = {"1": "violin", "Lead": 73}
    assert loud == RenderOptions(seed=4, tempo=0.9, drums=False, programs=programs)  # type: ignore[arg-type]
    quiet = mapping.options_of("songs/quiet/a.mid", RenderOptions(), {})
    assert quiet.programs == {"1": "cello", "Lead": 73}
    assert (quiet.tempo, quiet.velocity, quiet.bars) == (0.9, 0.5, "3")
    assert mapping.unused(["loud/a.mid"]) == [
        f"{tmp_path / 'map.toml'}: no input matches 'quiet/*.mid'"
    ]
    assert mapping.unused(["quiet/a.mid"]) == []


def test_the_command_line_wins(tmp_path: Path) -> None:
    mapping = mapping_of(tmp_path, EXAMPLE)
    given = {"tempo": 1.0, "drums": True, "programs": {"Lead": "oboe"}}
    options = mapping.options_of("quiet/a.mid", RenderOptions(start=2.0), given)
    assert (options.tempo, options.drums, options.bars, options.start) == (1.0, True, None, 2.0)
    assert list(options.programs.items()) == [("1", "cello"), ("Lead", "oboe")]


def test_mapping_files_of_other_editors(tmp_path: Path) -> None:
    expected = mapping_of(tmp_path, EXAMPLE)
    assert mapping_of(tmp_path, EXAMPLE.replace("\n", "\r\n")) == expected
    assert mapping_of(tmp_path, b"\xef\xbb\xbf" + EXAMPLE.encode()) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("temp = 1", "map.toml: unknown key 'temp'; did you mean 'tempo'?"),
        ("[files.x]\nprogam = 1", "map.toml, files.'x': unknown key 'progam'; did you mean"),
        ("xyz = 1", "known are program, drums, transpose, tempo, velocity, bars, files"),
        ("[files.x.files]", "unknown key 'files'"),
        ("tempo = '0.9'", "map.toml: tempo is '0.9'; give a number"),
        ("tempo = true", "tempo is True; give a number"),
        ("tempo = nan", "map.toml: tempo is nan; give a number from 0.1 to 10"),
        ("transpose = 1.5", "whole number"),
        ("drums = 1", "drums is 1; give true or false"),
        ("drums = []", "give true or false"),
        ("bars = [1]", "bars is [1]"),
        ("bars = '5-4'", "end before they begin"),
        ("program = 3", "program is 3; give a table"),
        ("[program]\n1 = 'vioiln'", "map.toml: no instrument of General MIDI is called 'vioiln'"),
        ("[program]\n1 = true", "program.1 is True"),
        ("[program]\n17 = 1", "there is no channel 17"),
        ("files = 1", "files is 1; give a table of patterns"),
        ("[files]\nx = 1", "files.'x' is 1; give a table"),
        ("tempo = ", "is not TOML"),
        ("a = " + "[" * 5000, "is not TOML"),
        (b"\xff\xfe", "is not in UTF-8"),
    ],
)
def test_wrong_mapping_files(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(OptionError) as caught:
        mapping_of(tmp_path, text)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_mapping_files_that_cannot_be_read(tmp_path: Path) -> None:
    for name in (tmp_path / "gone.toml", tmp_path):
        with pytest.raises(OptionError, match="cannot be read"):
            read_mapping(str(name))


# --- the command ------------------------------------------------------------------------------

Run = Callable[..., tuple[int, list[dict[str, object]], str]]


@pytest.fixture
def run(
    tmp_path: Path,
    tiny_model: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Run:
    """Runs the command: exit code, records of `--json`, standard error."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, list[dict[str, object]], str]:
        capfd.readouterr()
        code = cli.run([*arguments, "--steps", "1", "--json", "--model", str(tiny_model)])
        out, err = capfd.readouterr()
        return code, [json.loads(line) for line in out.splitlines()], err

    return run


def test_options_of_the_command(run: Run, song: MakeSong, tmp_path: Path) -> None:
    song(seconds=4)  # two bars, with two drum hits
    code, (facts,), _ = run("song.mid", "-o", "a.wav", "--bars", "2", "--drums", "off", "--tail=0")
    assert (code, facts["notes"], facts["seconds"]) == (0, 6, 1.5)
    code, (facts,), _ = run("song.mid", "-o", "b.wav", "--tempo", "2", "--bars", "1")
    assert (code, facts["seconds"]) == (0, 1.0)
    Path("a.mid").write_bytes(BAND)
    same = ("a.mid", "--no-tags", "--transpose", "1", "--velocity", "0.5", "-o")
    run(*same, "c.wav", "--program", "Lead=violin")
    run(*same, "d.wav", "--program", "1=41")
    run(*same, "e.wav")
    assert Path("c.wav").read_bytes() == Path("d.wav").read_bytes() != Path("e.wav").read_bytes()
    assert sr.__version__  # the package under test is this one


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--program", "violin"], 2, "write --program CHANNEL=INSTRUMENT"),
        (["--program", "1=vioiln"], 2, "did you mean 'Violin'?"),
        (["--program", "17=1"], 2, "there is no channel 17"),
        (["--program", "Lead=1"], 1, "no track is called 'Lead'; give a channel"),
        (["--tempo", "0"], 2, "0 is not in the range 0.1<=x<=10"),
        (["--tempo", "nan"], 2, "nan is not in the range"),
        (["--velocity", "1e9"], 2, "is not in the range"),
        (["--transpose", "128"], 2, "--transpose"),
        (["--bars", "5-4"], 2, "end before they begin"),
        (["--bars", "9"], 1, "there is no bar 9: the music has bar 1"),
        (["--bars", "1", "--start", "1"], 2, "excludes"),
        (["--mapping", "gone.toml"], 2, "gone.toml cannot be read"),
    ],
)
def test_wrong_options_of_the_command(
    run: Run, song: MakeSong, arguments: list[str], code: int, message: str
) -> None:
    song()
    got, _, err = run("song.mid", *arguments)
    assert got == code and message in err and err.count("\n") == 1
    assert not Path("song.wav").exists()


def test_a_batch_with_a_mapping_file(run: Run, song: MakeSong, tmp_path: Path) -> None:
    """Songs without a part are rendered unchanged; a change renders again whom it concerns."""
    song("in/a.mid")
    (tmp_path / "in" / "b.mid").write_bytes(BAND)

    def statuses(text: str, *options: str) -> tuple[dict[str, object], str]:
        Path("map.toml").write_text(text)
        code, records, err = run("in", "-o", "out", "--mapping", "map.toml", *options)
        assert code == 0
        return {str(each["input"])[3:4]: each["status"] for each in records}, err

    got, err = statuses("[program]\nLead = 'violin'\n[files.'c.mid']\ntempo = 2\n")
    assert got == {"a": "rendered", "b": "rendered"}
    assert "ignored in 1 song: program for 'Lead': no track is called 'Lead' (1 song)" in err
    assert "map.toml: no input matches 'c.mid'" in err
    assert statuses("[program]\nLead = 41\n")[0] == {"a": "skipped", "b": "skipped"}
    again = "[program]\nLead = 41\n[files.'b.mid']\ntempo = 2\n"
    assert statuses(again)[0] == {"a": "skipped", "b": "rendered"}
    assert statuses(again, "--transpose", "1")[0] == {"a": "rendered", "b": "rendered"}
    before = {path.name: path.read_bytes() for path in Path("out").glob("*.wav")}
    statuses(again, "--transpose", "1", "--force", "--workers", "2")
    assert before == {path.name: path.read_bytes() for path in Path("out").glob("*.wav")}


def test_a_model_without_velocities(song: MakeSong) -> None:
    from tests.support.golden import PIPELINE

    renderer = sr.Renderer.load(PIPELINE, vocoder="griffin-lim", quiet=True)
    with pytest.raises(OptionError, match="knows no velocities"):
        renderer.begin(song(), velocity=0.5)


def test_info_lists_bars_tempos_and_classes(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    track = mido.MidiTrack()
    track.append(mido.MetaMessage("set_tempo", tempo=500_000))
    track.append(mido.MetaMessage("time_signature", numerator=1, denominator=4))
    track.append(mido.MetaMessage("time_signature", numerator=3, denominator=4, time=480))
    track.append(mido.Message("program_change", program=9))
    track.append(mido.Message("note_on", note=60))
    track.append(mido.MetaMessage("set_tempo", tempo=600_000, time=480))
    track.append(mido.Message("note_off", note=60, time=480))
    mido.MidiFile(ticks_per_beat=480, tracks=[track]).save(str(tmp_path / "bells.mid"))
    assert cli.run(["info", str(tmp_path / "bells.mid")]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[1:] == [
        "  bars 0 to 1 (0 is a pickup), 1/4, 3/4 from bar 1, 100 to 120 quarter notes a minute"
        " (1 change)",
        "   1        1 note  channel  1  Glockenspiel, C4 to C4",
        "  published models play Celesta for Glockenspiel (1 note)",
    ]
    assert cli.run(["info", "--json", str(tmp_path / "bells.mid")]) == 0
    facts = json.loads(capfd.readouterr().out)
    assert facts["time_signatures"] == [
        {"bar": 0, "signature": "1/4"},
        {"bar": 1, "signature": "3/4"},
    ]
    assert facts["tempos"] == [{"seconds": 0.0, "bpm": 120.0}, {"seconds": 1.0, "bpm": 100.0}]
