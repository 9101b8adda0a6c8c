"""Parts of a song as files of their own: names, choices, sums, and folders of them."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from spectro_render.atomic import NewFile
from spectro_render.cli import run as run_command
from spectro_render.errors import MidiError, OptionError
from spectro_render.midi.parts import Parts, choose, parts_of
from spectro_render.midi.read import read_midi
from spectro_render.render.renderer import Renderer, Stems
from tests.support.smf_writer import smf, track
from tests.support.songs import MakeSong

Run = Callable[..., tuple[int, str, str]]


def part_of_track(channel: int, program: int, name: str, *more: tuple[int, str]) -> bytes:
    """A track with a name, an instrument and two notes."""
    text = name.encode().hex()
    events = [(0, f"ff03{len(name.encode()):02x}{text}"), (0, f"c{channel:x}{program:02x}")]
    for begin, pitch in ((0, 60 + channel), (100, 64 + channel)):
        events += [
            (begin, f"9{channel:x}{pitch:02x}50"),
            (begin + 90, f"8{channel:x}{pitch:02x}00"),
        ]
    return track(*events, *more)


BAND = smf(
    part_of_track(0, 40, "Fiddle", (0, "b00a14"), (50, "e00060")),
    part_of_track(1, 40, "Fiddle"),
    part_of_track(2, 0, "../\x07a: *piano*?", (0, "b20a64")),
    part_of_track(9, 0, ""),
    division=100,
)


@pytest.fixture(scope="module")
def renderer(tiny_model: Path) -> Renderer:
    return Renderer.load(tiny_model, device="cpu")


@pytest.fixture
def run(
    tmp_path: Path,
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Run:
    """Runs the command line in a folder that has `band.mid`."""
    monkeypatch.chdir(tmp_path)
    Path("band.mid").write_bytes(BAND)

    def run(*arguments: str) -> tuple[int, str, str]:
        capfd.readouterr()
        code = run_command([*arguments, "--model", str(tiny_model)])
        return code, *capfd.readouterr()

    return run


def file_names(folder: str) -> list[str]:
    return sorted(os.listdir(folder))


FILES = ["01 Fiddle.wav", "02 Fiddle.wav", "03 a piano.wav", "04 Drums.wav", "stems.json"]


# --- which parts


@pytest.mark.parametrize(
    ("by", "names"),
    [
        ("track", ["01 Fiddle", "02 Fiddle", "03 a piano", "04 Drums"]),
        ("channel", ["01 Fiddle", "02 Fiddle", "03 a piano", "04 Drums"]),
        ("program", ["01 Acoustic Grand Piano", "02 Violin", "03 Drums"]),
        ("bus", ["01 Several instruments", "02 Acoustic Grand Piano", "03 Violin"]),
    ],
)
def test_parts_have_safe_names(by: str, names: list[str]) -> None:
    parts = parts_of(read_midi(BAND), by)
    assert [part.file_name for part in parts.parts] == names
    assert sum(part.n_notes for part in parts.parts) == len(parts.numbers) == 8


def chosen(*solo: str, mute: tuple[str, ...] = ()) -> list[int]:
    parts: Parts = choose(parts_of(read_midi(BAND), "track"), solo, mute)
    assert {note.channel for note in parts.score.notes} == {
        channel for part in parts.parts for channel in part.channels
    }
    return [part.number for part in parts.parts]


def test_parts_are_chosen_by_number_name_and_instrument() -> None:
    assert chosen() == [1, 2, 3, 4]
    assert chosen("3") == [3]
    assert chosen("fiddle") == chosen("VIOLIN") == [1, 2]
    assert chosen("grand", "drums") == [3, 4]
    assert chosen(mute=("Violin", "4")) == [3]
    assert chosen("fiddle", mute=("2",)) == [1]


def test_unknown_parts_are_refused_with_a_suggestion() -> None:
    with pytest.raises(OptionError, match="'Violine'; did you mean Violin"):
        chosen("Violine")
    with pytest.raises(OptionError, match="'9'; the song has 1 Fiddle, 2 Fiddle, 3 "):
        chosen(mute=("9",))
    with pytest.raises(OptionError, match="every part is muted"):
        chosen("3", mute=("piano",))
    with pytest.raises(OptionError, match="stems_by is 'colour'"):
        parts_of(read_midi(BAND), "colour")


def test_a_song_of_too_many_parts_is_refused() -> None:
    tracks = [part_of_track(0, 0, f"Part {number}") for number in range(70)]
    with pytest.raises(OptionError, match="70 parts by track"):
        parts_of(read_midi(smf(*tracks)), "track")


def test_numbers_are_those_of_the_whole_song(renderer: Renderer) -> None:
    late = track((300, "933c50"), (390, "833c00"))
    song = smf(part_of_track(0, 40, "Early"), late, division=100)
    stems = renderer.render_stems(song, start=1.0)
    assert [part.number for part in stems.stems] == [2]
    assert renderer.render(song, start=1.0, solo=("2",)).seconds == stems.mix.seconds
    with pytest.raises(MidiError, match="no note of these parts"):
        renderer.render(song, start=1.0, solo=("1",))


# --- their sound


def total(stems: Stems) -> np.ndarray:
    return sum(sound.samples for sound in stems.stems.values()) / 10 ** (stems.gain / 20)


@pytest.mark.parametrize("by", ["track", "program", "bus"])
def test_stems_add_up_to_the_mix_before_the_limiter(renderer: Renderer, by: str) -> None:
    stems = renderer.render_stems(BAND, stems_by=by, gain=-20.0)
    mix = stems.mix.samples
    assert stems.gain == 0 and mix.shape[0] == 2
    assert {sound.samples.shape for sound in stems.stems.values()} == {mix.shape}
    assert np.abs(mix).max() > 1e-3
    np.testing.assert_allclose(total(stems), mix, rtol=0, atol=1e-6)


def test_loud_stems_share_one_gain(renderer: Renderer) -> None:
    soft, loud = (renderer.render_stems(BAND, gain=gain) for gain in (-20.0, 40.0))
    assert loud.gain < -10
    peak = max(np.abs(sound.samples).max() for sound in loud.stems.values())
    assert peak == pytest.approx(0.98, abs=1e-3)
    difference = total(loud) / 1000 - total(soft)
    power = np.square(difference).mean() / np.square(total(soft)).mean()
    assert 10 * np.log10(power) < -60


def test_a_part_alone_is_its_stem(renderer: Renderer) -> None:
    stems = renderer.render_stems(BAND, gain=-20.0, tail=1.0)
    alone = renderer.render(BAND, gain=-20.0, tail=1.0, solo=("1",))
    np.testing.assert_allclose(next(iter(stems.stems.values())).samples, alone.samples, atol=1e-4)


# --- files


def test_files_beside_the_mix(run: Run) -> None:
    code, out, _ = run("band.mid", "--stems", "--json", "--gain", "-10", "--bit-depth", "24")
    assert code == 0
    record = json.loads(out)
    assert (record["output"], record["stems"]) == ("band.wav", "band")
    assert file_names("band") == FILES
    mix, _ = soundfile.read("band.wav")
    sounds = [soundfile.read(f"band/{name}")[0] for name in FILES[:-1]]
    assert {sound.shape for sound in sounds} == {mix.shape}
    index = json.loads(Path("band/stems.json").read_text())
    assert index["mix"] == "band.wav" and [s["file"] for s in index["stems"]] == FILES[:-1]
    assert index["stems"][0]["instrument"] == "Violin"
    residual = sum(sounds) / 10 ** (index["gain_db"] / 20) - mix
    assert 10 * np.log10(np.square(residual).mean() / np.square(mix).mean()) < -60


@pytest.mark.parametrize("suffix", ["flac", "ogg", "mp3", "raw"])
def test_stems_of_every_format(run: Run, suffix: str) -> None:
    options = ("--sample-rate", "22050", "--tail", "1")
    assert run("band.mid", "-o", f"x.{suffix}", "--stems", "-q", *options) == (0, "", "")
    names = file_names("x")
    assert len(names) == 5 and names[0] == f"01 Fiddle.{suffix}"
    if suffix == "raw":
        assert {os.path.getsize(f"x/{name}") for name in names[:-1]} == {os.path.getsize("x.raw")}
        return
    every = [soundfile.info(f"x/{name}") for name in names[:-1]] + [soundfile.info(f"x.{suffix}")]
    assert {(info.samplerate, info.channels) for info in every} == {(22050, 2)}
    lengths = [info.frames for info in every]
    assert max(lengths) - min(lengths) <= (2 * 1152 if suffix == "mp3" else 0)


def test_stems_of_an_earlier_run_are_replaced_and_nothing_else(run: Run) -> None:
    assert run("band.mid", "--stems", "-q")[0] == 0
    Path("band/mine.txt").write_text("keep")
    assert run("band.mid", "--stems", "--stems-by", "program", "--force", "-q")[0] == 0
    names = ["01 Acoustic Grand Piano.wav", "02 Violin.wav", "03 Drums.wav"]
    assert file_names("band") == [*names, "mine.txt", "stems.json"]


def test_files_of_the_user_stay(run: Run) -> None:
    Path("band").mkdir()
    Path("band/02 Fiddle.wav").write_text("mine")
    code, _, err = run("band.mid", "--stems")
    assert code == 1 and "02 Fiddle.wav is no stem of an earlier run; move it away" in err
    assert Path("band/02 Fiddle.wav").read_text() == "mine"
    assert sorted(os.listdir()) == ["band", "band.mid"]
    Path("taken").write_text("")
    code, _, err = run("band.mid", "--stems", "-o", "taken.wav")
    assert code == 1 and "taken is in the way" in err
    os.mkfifo("pipe.wav")
    code, _, err = run("band.mid", "--stems", "-o", "pipe.wav")
    assert code == 1 and "pipe.wav is no file" in err
    assert run("band.mid", "--stems", "-o", "-")[0] == 2


def test_an_index_cannot_name_files_elsewhere(run: Run) -> None:
    Path("band").mkdir()
    Path("victim.txt").write_text("keep")
    stems = [{"file": "../victim.txt"}, {"file": 7}, {"file": "gone.wav"}]
    Path("band/stems.json").write_text(json.dumps({"stems": stems}))
    assert run("band.mid", "--stems", "-q")[0] == 0
    assert Path("victim.txt").read_text() == "keep"


def test_nothing_is_left_of_a_run_that_fails_at_its_end(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: NewFile) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(NewFile, "commit", refuse)
    code, _, err = run("band.mid", "--stems")
    assert code == 1 and "No space left" in err.replace("no space", "No space")
    assert [str(p) for p in Path().rglob("*") if p.is_file()] == ["band.mid"]


def test_a_folder_of_songs_is_continued(run: Run, song: MakeSong, tmp_path: Path) -> None:
    for name in ("in/a.mid", "in/b.mid"):
        song(name)

    def status(*options: str) -> list[str]:
        code, out, _ = run("in", "-o", "out", "--stems", "--json", "-q", *options)
        assert code == 0
        return [json.loads(line)["status"] for line in out.splitlines()]

    assert status() == ["rendered"] * 2
    assert status() == ["skipped"] * 2
    assert status("--mute", "1") == ["rendered"] * 2
    (tmp_path / "out/a/stems.json").unlink()
    for stem in (tmp_path / "out/a").glob("*.wav"):
        stem.unlink()
    assert sorted(status("--mute", "1")) == ["rendered", "skipped"]


@pytest.mark.parametrize("options", [("--workers", "2"), ("--batch-size", "1")])
def test_other_processes_make_the_same_files(
    run: Run, song: MakeSong, options: tuple[str, ...]
) -> None:
    for name in ("in/a.mid", "in/b.mid", "in/c.mid"):
        song(name, seconds=1.0)
    Path("in/band.mid").write_bytes(BAND)
    assert run("in", "-o", "here", "--stems", "-q")[0] == 0
    assert run("in", "-o", "there", "--stems", "-q", *options)[0] == 0
    names = sorted(str(path.relative_to("here")) for path in Path("here").rglob("*.wav"))
    assert len(names) == 4 + 4 + 3 * 2
    for name in names:
        ours, theirs = (soundfile.read(Path(folder, name))[0] for folder in ("here", "there"))
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2.01 / 32768)
