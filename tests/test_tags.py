"""Tags of audio files, and files that are rendered again from them."""

import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import mido
import numpy as np
import pytest
import soundfile

from spectro_render.audio.audio import AudioWriter
from spectro_render.audio.tags import Tags
from spectro_render.batch.recipe import read_recipe
from spectro_render.cli import app as cli
from spectro_render.midi.read import read_midi
from spectro_render.midi.score import About
from tests.support.processes import PIPE, run_program
from tests.support.smf_writer import smf
from tests.support.songs import MakeSong

FORMATS = ("wav", "flac", "ogg", "mp3", "opus", "aiff")
TAGS = Tags("Títle 日本", "Ärt", "© X", "spectro-render", json.dumps({"odd": "x" * 901}))


def encoded(format: str, tags: Tags | None, seconds: float = 1.0) -> bytes:
    file = io.BytesIO()
    sound = np.random.default_rng(0).standard_normal(round(16_000 * seconds)) * 0.1
    with AudioWriter(file, format=format, tags=tags) as writer:
        for begin in range(0, len(sound), 5000):
            writer.write(sound[begin : begin + 5000].astype(np.float32))
    return file.getvalue()


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_holds_tags(format: str, tmp_path: Path) -> None:
    data = encoded(format, TAGS)
    assert data == encoded(format, TAGS)  # no date, and no number of this run
    with soundfile.SoundFile(io.BytesIO(data)) as file:
        found = file.copy_metadata()
        tagged = file.read()
    assert found.pop("software", "spectro-render").startswith("spectro-render")  # not in AIFF
    if format == "aiff":  # whose copyright libsndfile reads as ASCII
        found["copyright"] = found["copyright"].replace("..", "©")
    expected = {name: text for name, text in TAGS.fields().items() if name != "software"}
    assert {name: found[name] for name in expected} == expected
    plain = soundfile.read(io.BytesIO(encoded(format, None)))[0]
    np.testing.assert_allclose(tagged, plain, atol=1e-5)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.skipif(not shutil.which("ffprobe"), reason="needs FFmpeg")
def test_other_programs_read_the_tags(format: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{format}"
    path.write_bytes(encoded(format, TAGS, seconds=12.0))  # several pages of Ogg
    command = ["ffprobe", "-v", "error", "-show_entries", "format_tags:stream_tags", "-of", "json"]
    done = run_program([*command, str(path)], stdout=PIPE, stderr=PIPE)
    facts = json.loads(done.stdout)
    tags = {**facts["format"].get("tags", {}), **facts["streams"][0].get("tags", {})}
    found = {name.lower(): text for name, text in tags.items()}
    assert (found["title"], found.get("artist") or found["author"], done.stderr) == (
        TAGS.title,
        TAGS.artist,
        b"",
    )
    decode = ["ffmpeg", "-v", "error", "-i", str(path), "-f", "null", "-"]
    assert run_program(decode, stdout=PIPE, stderr=PIPE).stderr == b""  # checksums of pages, too


def about(*tracks: bytes) -> About:
    return read_midi(smf(*tracks)).about


def meta(kind: int, text: str) -> bytes:
    return bytes([0, 0xFF, kind, len(text.encode())]) + text.encode()


NOTE = b"\0\x90\x3c\x40\x60\x80\x3c\0"


def test_what_a_file_says_about_its_music() -> None:
    said = meta(3, "Sonata") + meta(1, "Composer:  W. A. Mozart") + meta(2, "(C) 1788")
    assert about(said, meta(3, "Piano") + NOTE) == About("Sonata", "W. A. Mozart", "(C) 1788")
    assert about(meta(3, "Sonata") + meta(1, "by Bach") + NOTE) == About("Sonata", "Bach")
    assert about(meta(3, "right") + NOTE, meta(3, "left") + NOTE) == About()
    karaoke = meta(3, "Words") + meta(1, "@KMIDI") + meta(1, "@TMy Song") + meta(1, "@TThe Band")
    assert about(karaoke, NOTE) == About("My Song", "The Band")
    assert about(meta(1, "bystander") + NOTE, NOTE).artist == ""


Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(
    song: MakeSong,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Run:
    """Runs the command in a folder with a song: exit code and standard error."""
    monkeypatch.chdir(tmp_path)
    song()

    def run(*arguments: str) -> tuple[int, str]:
        capfd.readouterr()
        code = cli.run(list(arguments))
        return code, capfd.readouterr().err

    return run


@pytest.mark.parametrize("format", FORMATS)
def test_a_file_is_rendered_again(run: Run, tiny_model: Path, format: str) -> None:
    shutil.move("song.mid", "a song.mid")
    name = f"take.{format}"
    options = ["--seed", "7", "--steps", "1", "--tempo", "1.1", "--program", "1=violin"]
    options += ["--normalize", "peak:-2", "--drums", "off", "--no-dither", "--duration", "1.3"]
    model = ["--model", str(tiny_model)]
    assert run("a song.mid", "-o", name, *options, *model)[0] == 0
    code, err = run("again", name)
    assert code == 0 and err.endswith(f"take-again.{format}: the same bytes as {name}\n")
    assert Path(name).read_bytes() == Path(f"take-again.{format}").read_bytes()


def test_songs_of_a_batch_are_rendered_again(run: Run, tiny_model: Path) -> None:
    Path("in").mkdir()
    shutil.move("song.mid", "in/song.mid")
    Path("map.toml").write_text("[program]\nLead = 41\n[files.'song.mid']\ntranspose = -2\n")
    arguments = ["in", "-o", "out", "--mapping", "map.toml", "--fast"]
    assert run(*arguments, "--model", str(tiny_model), "--workers", "2")[0] == 0
    code, err = run("again", "out/song.wav", "--midi", "in", "-o", "copy.wav")
    assert code == 0 and "copy.wav: the same bytes as out/song.wav" in err
    code, err = run("again", "out/song.wav")
    assert code == 1 and "no MIDI file in out has the SHA-256" in err


def test_what_cannot_be_rendered_again(run: Run, tiny_model: Path) -> None:
    model = ["--steps", "1", "--model", str(tiny_model)]
    for name, options in (
        ("a.wav", []),
        ("b.wav", ["--no-tags"]),
        ("c.wav", ["--normalize=album"]),
    ):
        assert run("song.mid", "-o", name, *options, *model)[0] == 0
    mido.MidiFile(tracks=[mido.MidiTrack()]).save("other.mid")
    for arguments, message in (
        (["b.wav"], "b.wav does not say how it was made"),
        (["c.wav"], "it is part of an album"),
        (["gone.wav"], "gone.wav cannot be read"),
        (["song.mid"], "song.mid is no audio file"),
        (["a.wav", "-o", "a.wav"], "a.wav is the file itself"),
        (["a.wav", "--midi", "other.mid"], "other.mid is not the MIDI file"),
        (["a.wav", "--midi", "gone.mid"], "gone.mid: cannot be opened"),
    ):
        code, err = run("again", *arguments)
        assert code in (1, 2) and message in err and err.count("\n") == 1
    recipe = read_recipe(Path("a.wav"))
    assert recipe.model == str(tiny_model) and recipe.settings["steps"] == 1


def test_another_model_or_version(run: Run, tiny_model: Path, tmp_path: Path) -> None:
    own = tmp_path / "model"
    shutil.copytree(tiny_model, own)
    assert run("song.mid", "-o", "a.wav", "--steps", "1", "--model", str(own))[0] == 0
    data = Path("a.wav").read_bytes()
    sha256 = read_recipe(Path("a.wav")).model_sha256
    other = data.replace(sha256.encode(), b"0" * len(sha256))
    Path("b.wav").write_bytes(
        other.replace(b'"spectro-render":"0.1.0"', b'"spectro-render":"9.9.9"')
    )
    code, err = run("again", "b.wav")
    assert code == 1 and "is not the one that b.wav was made with" in err
    code, err = run("again", "b.wav", "--any-model")
    assert code == 0 and "b.wav was made by spectro-render 9.9.9, this is" in err
    assert "b-again.wav: other bytes than b.wav" in err


def test_settings_that_are_no_settings(run: Run, tiny_model: Path) -> None:
    """A file of a stranger can name options only, which the command checks."""
    assert run("song.mid", "-o", "a.wav", "--steps", "1", "--model", str(tiny_model))[0] == 0
    data = Path("a.wav").read_bytes()
    for odd in (b'"steps":-1', b'"stepX":-1', b'"steps":[]'):
        text = odd.ljust(len(b'"steps":1')) if len(odd) <= 9 else odd
        Path("b.wav").write_bytes(encoded_comment(data, b'"steps":1', text))
        code, err = run("again", "b.wav")
        assert code == 2 and err.count("\n") == 1
    assert not Path("b-again.wav").exists()


def encoded_comment(wav: bytes, old: bytes, new: bytes) -> bytes:
    """A WAV file with another comment."""
    with soundfile.SoundFile(io.BytesIO(wav)) as file:
        comment = file.copy_metadata()["comment"].encode()
    return encoded("wav", Tags(comment=comment.replace(old, new).decode()))


def test_no_leak_is_reported_at_the_end(song: MakeSong, tmp_path: Path, tiny_model: Path) -> None:
    song()
    arguments = ["song.mid", "-o", "a.ogg", "--normalize", "lufs", "--sample-rate", "22050"]
    arguments += ["--model", str(tiny_model)]
    command = [sys.executable, "-m", "spectro_render", *arguments, "--steps", "1", "-q"]
    done = run_program(command, cwd=tmp_path, stdout=PIPE, stderr=PIPE)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
