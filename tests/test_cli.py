"""The command line's contract: files, exit codes, exact lines, streams, interruption."""

import json
import os
import re
import resource
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from spectro_render.batch import history as resume
from spectro_render.checkpoints import find as registry
from spectro_render.checkpoints.manifest import ONNX
from spectro_render.cli import app as cli
from spectro_render.cli import render as main_command
from spectro_render.network import device as precision
from spectro_render.options import SAMPLERS
from spectro_render.render import renderer as render
from spectro_render.report import one_line
from tests.support.golden import PIPELINE
from tests.support.processes import (
    DEVNULL,
    LIMIT,
    PIPE,
    is_idle,
    run_on_terminal,
    run_program,
    start_program,
    wait_until,
)
from tests.support.songs import MakeSong

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(here: Path, tiny_model: Path, capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs the command line in this process: exit code, standard output, standard error."""

    def run(*arguments: str) -> tuple[int, str, str]:
        capfd.readouterr()
        code = cli.run([*arguments, "--model", str(tiny_model)])
        return code, *capfd.readouterr()

    return run


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "spectro_render", *arguments]


def files(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and path.name != resume.NAME
    )


# --- one file ---------------------------------------------------------------------------------


def test_a_song_is_rendered_beside_itself(run: Run, song: MakeSong, here: Path) -> None:
    song(seconds=3)
    code, out, err = run("song.mid", "--tail", "2.5")
    assert (code, out) == (0, "")
    assert err.startswith("spectro-render: song.mid -> song.wav: 5.50 s of sound in ")
    assert err.endswith(" times real time)\n") and err.count("\n") == 1
    sound, rate = soundfile.read("song.wav")
    assert rate == 16_000 and sound.shape == (88_000,)  # the music and its tail
    assert files(here) == ["song.mid", "song.wav"]


def test_an_explicit_output_is_replaced(run: Run, song: MakeSong, here: Path) -> None:
    song()
    (here / "out.flac").write_bytes(b"before")
    assert run("song.mid", "-o", "out.flac", "-q") == (0, "", "")
    assert soundfile.info("out.flac").format == "FLAC"


def test_a_song_beside_its_input_is_not_replaced(run: Run, song: MakeSong, here: Path) -> None:
    song()
    (here / "song.wav").write_bytes(b"before")
    assert run("song.mid") == (
        1,
        "",
        "spectro-render: song.mid: song.wav exists already, and it is not known how it was made;"
        " --force replaces it, --skip-existing keeps it, -o names another file\n",
    )
    assert (here / "song.wav").read_bytes() == b"before"
    assert run("song.mid", "--force", "-q") == (0, "", "")
    assert soundfile.info("song.wav").frames > 0


def test_a_folder_takes_one_file_too(run: Run, song: MakeSong, here: Path) -> None:
    song()
    (here / "out").mkdir()
    assert run("song.mid", "-o", "out", "-q")[0] == 0
    assert run("song.mid", "-o", "new/", "-q", "--format", "ogg")[0] == 0
    assert files(here) == ["new/song.ogg", "out/song.wav", "song.mid"]


def test_the_sound_is_what_the_library_renders(run: Run, song: MakeSong, tiny_model: Path) -> None:
    song(seconds=7)
    options = {"steps": 3, "guidance": 1.5, "seed": 5, "start": 1.0, "duration": 6.0}
    arguments = [word for name in options for word in (f"--{name}", str(options[name]))]
    code, _, _ = run("song.mid", *arguments, "--sampler", "ddim", "--gain", "3")
    renderer = render.Renderer.load(tiny_model)
    audio = renderer.render("song.mid", sampler="ddim", gain=3.0, **options)
    assert code == 0
    # Rounding and dither move a sample by up to two steps of 16 bits.
    np.testing.assert_allclose(soundfile.read("song.wav")[0], audio.samples[0], atol=2**-14)


def test_presets_of_steps(run: Run, song: MakeSong, here: Path) -> None:
    song()
    for name, options in {
        "fast": ["--fast"],
        "ten": ["--steps", "10", "--sampler", "dpm++"],
        "best": ["--best"],
        "ddpm": ["--steps", "1000", "--sampler", "ddpm"],
    }.items():
        assert run("song.mid", "-o", f"{name}.wav", "-q", "--no-tags", *options) == (0, "", "")
    fast, ten, best, ddpm = (Path(f"{n}.wav").read_bytes() for n in ("fast", "ten", "best", "ddpm"))
    assert fast == ten != best == ddpm


def test_the_vocoder_of_another_model(run: Run, song: MakeSong, here: Path) -> None:
    pytest.importorskip("onnxruntime")
    song()
    for name, vocoder in (("a", PIPELINE / ONNX), ("b", PIPELINE)):
        options = ("--vocoder", str(vocoder), "-q", "--no-tags")
        assert run("song.mid", "-o", f"{name}.wav", *options) == (0, "", "")
    assert run("song.mid", "-o", "c.wav", "-q", "--no-tags")[0] == 0
    first, same, other = ((here / f"{name}.wav").read_bytes() for name in "abc")
    assert first == same != other


def test_the_same_command_gives_the_same_bytes(run: Run, song: MakeSong, here: Path) -> None:
    song()
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert run("song.mid", "-o", f"{name}.wav", "--seed", seed)[0] == 0
    first, same, other = ((here / f"{name}.wav").read_bytes() for name in "abc")
    assert first == same != other


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (["-o", "a.wav", "--bit-depth", "24"], ("WAV", "PCM_24", 16_000)),
        (["-o", "a.wav", "--bit-depth", "float"], ("WAV", "FLOAT", 16_000)),
        (["-o", "a.flac", "--bit-depth", "24"], ("FLAC", "PCM_24", 16_000)),
        (["-o", "a.ogg", "--sample-rate", "48000"], ("OGG", "VORBIS", 48_000)),
        (["-o", "a.mp3", "--sample-rate", "44100"], ("MP3", "MPEG_LAYER_III", 44_100)),
        (["-o", "a.opus", "--quality", "7.5"], ("OGG", "OPUS", 16_000)),
        (["-o", "a.aif", "--bit-depth", "24"], ("AIFF", "PCM_24", 16_000)),
        (["-o", "a", "--format", "flac"], ("FLAC", "PCM_16", 16_000)),
    ],
)
def test_formats(run: Run, song: MakeSong, arguments: list[str], expected: tuple[object]) -> None:
    song()
    assert run("song.mid", *arguments)[0] == 0
    info = soundfile.info(arguments[1])
    assert (info.format, info.subtype, info.samplerate) == expected


def test_raw_samples(run: Run, song: MakeSong, here: Path) -> None:
    song()
    assert run("song.mid", "--raw")[0] == 0
    assert run("song.mid")[0] == 0
    samples = np.frombuffer((here / "song.raw").read_bytes(), "<i2")
    np.testing.assert_array_equal(samples, soundfile.read("song.wav", dtype="int16")[0])


# --- several files ----------------------------------------------------------------------------


def test_a_folder_is_mirrored_and_what_is_complete_is_skipped(
    run: Run, song: MakeSong, here: Path
) -> None:
    for name in ("in/a.mid", "in/deep/er/b.MIDI", "in/c.kar", "in/.hidden.mid", "in/.git/d.mid"):
        song(name, seconds=1)
    (here / "in/notes.txt").touch()
    assert run("in", "-o", "out", "--json")[0] == 0
    assert files(here / "out") == ["a.wav", "c.wav", "deep/er/b.wav"]

    (here / "out/c.wav").unlink()
    (here / "out/a.wav").write_bytes(b"of old")
    code, out, _ = run("in", "-o", "out", "--json")
    records = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert {(r["input"], r["output"], r["status"]) for r in records} == {
        ("in/a.mid", "out/a.wav", "skipped"),
        ("in/c.kar", "out/c.wav", "rendered"),
        ("in/deep/er/b.MIDI", "out/deep/er/b.wav", "skipped"),
    }
    assert (here / "out/a.wav").read_bytes() == b"of old"
    assert run("in", "-o", "out", "--force")[0] == 0
    assert (here / "out/a.wav").read_bytes() != b"of old"


def test_inputs_of_one_name_get_different_outputs(run: Run, song: MakeSong, here: Path) -> None:
    song("in/a.mid", seconds=1)
    song("in/a.kar", seconds=1)
    assert run("in", "-o", "out")[0] == 0
    assert files(here / "out") == ["a.kar.wav", "a.mid.wav"]


def test_one_bad_file_does_not_stop_the_others(run: Run, song: MakeSong, here: Path) -> None:
    (here / "bad.mid").write_bytes(b"<html>")
    (here / "empty").mkdir()
    song("good.mid", seconds=1)
    code, out, err = run("bad.mid", "empty", "gone.mid", "good.mid", "-q", "--json")
    lines = err.splitlines()
    assert code == 1
    assert len(lines) == 3
    assert lines[0].startswith("spectro-render: bad.mid: not a MIDI file")
    assert lines[1] == (
        "spectro-render: empty: no MIDI file (.mid, .midi, .kar, .rmi) in this folder"
    )
    assert lines[2].startswith("spectro-render: gone.mid: ")
    statuses = [json.loads(line)["status"] for line in out.splitlines()]
    assert statuses == ["failed", "failed", "failed", "rendered"]
    assert json.loads(out.splitlines()[1])["output"] is None
    assert files(here) == ["bad.mid", "good.mid", "good.wav"]


@pytest.mark.parametrize("output", ["new/deep/", "new"])
def test_a_bad_file_leaves_no_new_folder(run: Run, here: Path, output: str) -> None:
    """Neither a file nor a folder that was made for its output alone."""
    Path("in").mkdir()
    for name in ("in/bad.mid", "in/worse.mid"):
        Path(name).write_bytes(b"no MIDI at all")
    code, _, err = run("in" if output == "new" else "in/bad.mid", "-o", output)
    assert code == 1 and "in/bad.mid: not a MIDI file" in err
    assert os.listdir(here) == ["in"] and sorted(os.listdir("in")) == ["bad.mid", "worse.mid"]


@pytest.mark.parametrize("options", [["-o", "bad.wav"], ["--force"]])
def test_a_bad_file_leaves_an_older_output_as_it_is(
    run: Run, here: Path, options: list[str]
) -> None:
    Path("bad.mid").write_bytes(b"no MIDI at all")
    Path("bad.wav").write_bytes(b"older")
    assert run("bad.mid", *options)[0] == 1
    assert Path("bad.wav").read_bytes() == b"older"
    assert sorted(os.listdir(here)) == ["bad.mid", "bad.wav"]


def test_a_model_that_is_missing_ends_the_batch_with_one_line(
    song: MakeSong, here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    song("a.mid")
    song("b.mid")
    Path("broken").mkdir()
    Path("broken/model_index.json").write_text("{}")
    assert cli.run(["a.mid", "b.mid", "--model", "broken", "--json"]) == 1
    out, err = capfd.readouterr()
    assert err.startswith("spectro-render: broken/") and err.count("\n") == 1
    assert [json.loads(line)["status"] for line in out.splitlines()] == ["failed", "failed"]
    assert files(here) == ["a.mid", "b.mid", "broken/model_index.json"]


# --- what cannot be ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--fast"], "no input"),
        (["song.mid", "--steps", "0"], "Invalid value for '--steps'"),
        (["song.mid", "--steps", "many"], "Invalid value for '--steps'"),
        (
            ["song.mid", "--start", "-1"],
            "Invalid value for '--start'",
        ),
        (["song.mid", "--start", "nan"], "Invalid value for '--start'"),
        (["song.mid", "--duration", "0"], "Invalid value for '--duration': 0.0 is not above 0"),
        (["song.mid", "--gain", "nan"], "Invalid value for '--gain'"),
        (["song.mid", "--guidance", "inf"], "Invalid value for '--guidance'"),
        (["song.mid", "--seed", "-1"], "Invalid value for '--seed'"),
        (["song.mid", "--sampler", "magic"], "Invalid value for '--sampler'"),
        (["song.mid", "--device", "toaster"], "Invalid value for '--device'"),
        (["song.mid", "--vocoder", "kazoo"], "Invalid value for '--vocoder': 'kazoo' is none of"),
        (["song.mid", "--format", "au"], "Invalid value for '--format'"),
        (["song.mid", "--quality", "5"], "wav has no quality, as it loses nothing; use it for ogg"),
        (["song.mid", "--raw", "--format", "wav"], "--raw and --format exclude each other"),
        (["song.mid", "--fast", "--best"], "--fast and --best exclude each other; leave one out"),
        (["song.mid", "-o", "a.xyz"], "a.xyz: unknown audio suffix .xyz; use one of .wav, .flac"),
        (
            ["song.mid", "-o", "a"],
            "a: without a suffix the audio format is unknown; use one of .wav",
        ),
        (
            ["song.mid", "-o", "a.wav", "--format", "mp3"],
            "the suffix of a.wav contradicts --format mp3",
        ),
        (["song.mid", "-o", "a.ogg", "--bit-depth", "24"], "ogg cannot hold a bit depth of 24"),
        (["song.mid", "-o", "a.flac", "--bit-depth", "float"], "flac cannot hold a bit depth of"),
        (
            ["song.mid", "--sample-rate", "7"],
            "a sample rate of 7 Hz is not supported; use 8000",
        ),
        (["song.mid", "-o", "song.mid", "--format", "wav"], "the output song.mid is an input"),
        (["song.mid", "in", "-o", "-"], "standard output is for one song only"),
        (["in", "-o", "-"], "standard output is for one song only"),
        (["song.mid", "in", "-o", "all.wav"], "all.wav looks like a file; name a folder"),
        (["song.mid", "in", "-o", "song.mid"], "song.mid is a file; name a folder for several"),
        (
            ["in/song.mid", "song.mid", "-o", "out"],
            "in/song.mid and song.mid would have the same output",
        ),
        (["-", "-"], "standard input can be read only once"),
        (["-", "song.mid"], "no folder for the output of standard input; name one with -o"),
        ([""], "an input has an empty name"),
        (["song.mid", "--bogus"], "no such option: --bogus"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    song: MakeSong, here: Path, arguments: list[str], said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    song("song.mid")
    song("in/song.mid")
    assert cli.run(arguments) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith(f"spectro-render: {said}") and err.count("\n") == 1
    assert err.endswith("; see spectro-render --help\n")
    assert files(here) == ["in/song.mid", "song.mid"]


@pytest.mark.parametrize(
    "arguments, said",
    [
        (
            ["-o", "gone/a.wav"],
            "song.mid: gone/a.wav: cannot write: no such file or directory; make",
        ),
        (["-o", "song.mid/a.wav"], "song.mid: song.mid/a.wav: cannot write: not a directory"),
        (["-o", "song.mid/"], "song.mid: song.mid: cannot make the folder: "),
        (
            ["-o", "/dev/full", "--format", "wav"],
            "song.mid: /dev/full: cannot write: no space left",
        ),
        (["--start", "99"], "song.mid: no note sounds from 99 s to the end; the music lasts"),
        (["--vocoder", "onnx"], "{model} holds no vocoder 'onnx'; choose melgan or griffin-lim\n"),
        (
            ["--sampler", "diffusers", "--steps", "1001"],
            "song.mid: 1001 steps are more than the model's own 1000; ask for fewer\n",
        ),
        (["-o", f"{'a' * 300}.wav"], f"song.mid: {'a' * 300}.wav: cannot write: file name too"),
        (["-o", f"{'a' * 300}/"], f"song.mid: {'a' * 300}: cannot make the folder: file name too"),
        (["--device", "cuda:77"], "device 'cuda:77' cannot be used here"),
    ],
)
def test_what_is_found_out_later_is_one_line_and_exit_code_1(
    run: Run, song: MakeSong, here: Path, tiny_model: Path, arguments: list[str], said: str
) -> None:
    song()
    code, out, err = run("song.mid", *arguments)
    assert (code, out) == (1, "")
    assert err.startswith(f"spectro-render: {said.format(model=tiny_model)}")
    assert err.count("\n") == 1
    assert files(here) == ["song.mid"]


def test_an_input_whose_name_is_too_long(run: Run, song: MakeSong) -> None:
    song()
    code, _, err = run("a" * 300, "song.mid", "-q")
    assert (code, err) == (
        1,
        f"spectro-render: {'a' * 300}: cannot be opened (File name too long); check the path\n",
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_folders_that_cannot_be_read(run: Run, song: MakeSong, here: Path) -> None:
    song("in/a.mid", seconds=1)
    song("in/closed/b.mid", seconds=1)
    (here / "in/closed").chmod(0)
    refused = "spectro-render: in/closed: cannot read the folder: permission denied\n"
    assert run("in", "-o", "out", "-q") == (1, "", refused)
    assert run("in/closed", "-o", "out", "-q") == (1, "", refused)
    _, _, err = run("in/closed/b.mid", "-q")
    assert err.startswith("spectro-render: in/closed/b.mid: cannot be opened (Permission denied)")
    (here / "in/closed").chmod(0o700)
    assert files(here / "out") == ["a.wav"]


def test_a_bug_keeps_its_traceback_and_a_batch_goes_on(
    run: Run, song: MakeSong, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    song("a.mid", seconds=1)
    song("b.mid", seconds=1)
    whole = render.Renderer.begin

    def stumble(self: render.Renderer, score: object, *rest: object, **options: object) -> object:
        if not (here / "b.wav").exists() and (here / "once").exists():
            (here / "once").unlink()
            raise ZeroDivisionError("a bug")
        return whole(self, score, *rest, **options)

    monkeypatch.setattr(render.Renderer, "begin", stumble)
    (here / "once").touch()
    with pytest.raises(ZeroDivisionError):
        run("a.mid")
    (here / "once").touch()
    code, _, err = run("a.mid", "b.mid", "-q")
    assert code == 1
    assert "Traceback" in err and "spectro-render: a.mid: ZeroDivisionError: a bug\n" in err
    assert files(here) == ["a.mid", "b.mid", "b.wav"]


# --- words ------------------------------------------------------------------------------------


def test_what_is_not_heard_is_said_once_and_not_with_quiet(
    run: Run, here: Path, song: MakeSong
) -> None:
    import mido

    path = song()
    file = mido.MidiFile(str(path))
    file.tracks[0].insert(0, mido.Message("aftertouch", value=100))
    file.save(str(path))
    _, _, err = run("song.mid", "--force")
    assert err.splitlines()[0].startswith("spectro-render: song.mid: ignored: channel pressure")
    assert run("song.mid", "--force", "-q") == (0, "", "")


def test_what_is_too_dense_is_said(run: Run, here: Path) -> None:
    import mido

    keys = [(channel, note) for channel in range(9) for note in range(128)]
    messages = [
        *(mido.Message("program_change", channel=channel, program=channel) for channel in range(9)),
        *(mido.Message("note_on", channel=c, note=n, velocity=1 + (n + c) % 127) for c, n in keys),
        mido.Message("note_off", note=0, time=480),
        *(mido.Message("note_off", channel=channel, note=note) for channel, note in keys),
    ]
    mido.MidiFile(tracks=[mido.MidiTrack(messages)]).save("song.mid")
    code, _, err = run("song.mid", "--start", "0.01")
    lines = [line for line in err.splitlines() if "too dense" in line]
    assert code == 0 and len(lines) == 1
    assert re.fullmatch(
        r"spectro-render: song\.mid: too dense at 0\.01 s: \d+ notes left out", lines[0]
    )


def test_json_says_what_was_made(run: Run, song: MakeSong) -> None:
    song(seconds=2)
    code, out, err = run("song.mid", "--json", "-q")
    record = json.loads(out)
    assert (code, err, out.count("\n")) == (0, "", 1)
    assert record.pop("real_time_factor") == pytest.approx(
        4.5 / record.pop("wall_seconds"), rel=0.1
    )
    assert record == {
        "status": "rendered",
        "input": "song.mid",
        "output": "song.wav",
        "seconds": 4.5,
        "notes": 4,
        "ignored": [],
        "repairs": [],
        "model": "tiny",
        "device": "cpu",
        "format": "wav",
        "sample_rate": 16_000,
    }


def test_control_characters_do_not_reach_the_terminal(run: Run, here: Path) -> None:
    (here / "a\n\x1b[31m.mid").write_bytes(b"no")
    _, _, err = run("a\n\x1b[31m.mid")
    assert err.startswith("spectro-render: a\\x0a\\x1b[31m.mid: not a MIDI file")


def test_version_and_help(capfd: pytest.CaptureFixture[str]) -> None:
    for option in ("--version", "-V"):
        assert cli.run([option]) == 0
        assert capfd.readouterr() == ("spectro-render 0.1.0\n", "")
    assert cli.run(["--help"]) == 0
    out, err = capfd.readouterr()
    assert err == "" and "--steps" in out and "Exit codes" in out


def test_choices_are_those_of_the_library() -> None:
    assert main_command.Sampler.__args__ == SAMPLERS
    assert set(main_command.NumberFormat.__args__) == {"auto", *precision.DTYPES}


# --- sub-commands -----------------------------------------------------------------------------


def test_info(
    song: MakeSong, here: Path, tiny_model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    song(seconds=6)
    assert cli.run(["info", "song.mid", "gone.mid", "--model", str(tiny_model)]) == 1
    out, err = capfd.readouterr()
    lines = out.splitlines()
    assert lines[0] == "song.mid: 0:06.00, 2 windows of 5.12 s, 12 notes"
    assert lines[1:] == [
        "  bars 1 to 3, 4/4, 120 quarter notes a minute",
        "   1       3 notes  channel  1  Acoustic Grand Piano, C3 to G#3",
        "   2       3 notes  channel  2  Electric Bass (finger), C#3 to A3",
        "   3       3 notes  channel  3  String Ensemble 1, D3 to A#3",
        "   4       3 notes  channel 10  Drums",
    ]
    assert err.startswith("spectro-render: gone.mid: ")


def test_info_json(song: MakeSong, here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    song()
    assert cli.run(["info", "song.mid", "--json"]) == 0
    facts = json.loads(capfd.readouterr().out)
    assert (facts["seconds"], facts["windows"], facts["notes"]) == (2.0, 1, 4)
    bass = next(track for track in facts["tracks"] if track["program"] == 33)
    assert bass == {
        "part": 2,
        "name": "",
        "channel": 2,
        "instrument": "Electric Bass (finger)",
        "program": 33,
        "notes": 1,
        "lowest": 49,
        "highest": 49,
        "published_models_play": None,
    }
    assert (facts["first_bar"], facts["last_bar"]) == (1, 1)
    assert facts["tempos"] == [{"seconds": 0.0, "bpm": 120.0}]


def test_info_tells_what_the_model_would_do(
    song: MakeSong,
    here: Path,
    tiny_model: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    song(seconds=3)
    windows = {str(tiny_model): "2 windows", str(PIPELINE): "1 window"}  # with and without a tail
    for model, expected in windows.items():
        assert cli.run(["info", "song.mid", "--model", model]) == 0
        first = capfd.readouterr().out.splitlines()[0]
        assert first == f"song.mid: 0:03.00, {expected} of 5.12 s, 6 notes"
    monkeypatch.setattr(registry, "MODEL_FOLDERS", ())
    assert cli.run(["info", "song.mid"]) == 0
    assert "1 window of" in capfd.readouterr().out
    assert cli.run(["info", "song.mid", "--model", "nonesuch"]) == 2
    assert "'--model': no model 'nonesuch'" in capfd.readouterr().err


def test_info_shows_names_without_control_characters(
    here: Path, tiny_model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import mido

    name = mido.MetaMessage("track_name", name="a\x1b[31m\nb")
    note = mido.Message("note_on", note=60), mido.Message("note_off", note=60, time=480)
    mido.MidiFile(tracks=[mido.MidiTrack([name, *note])]).save("a\x1b.mid")
    assert cli.run(["info", "a\x1b.mid", "--model", str(tiny_model)]) == 0
    out = capfd.readouterr().out
    assert "\x1b" not in out and out.count("\n") == 3
    assert out.startswith("a\\x1b.mid: ") and '"a\\x1b[31m\\x0ab"' in out


@pytest.mark.parametrize(
    "arguments", [["info", "--xyz"], ["models", "verify", "--xyz"], ["train", "--xyz"]]
)
def test_wrong_usage_of_a_sub_command(
    arguments: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(arguments) == 2
    err = capfd.readouterr().err
    assert err == (
        f"spectro-render: no such option: --xyz; see spectro-render {arguments[0]} --help\n"
    )


def test_models_without_checksums(
    here: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "empty").mkdir()
    assert cli.run(["models", "verify", str(PIPELINE), "empty"]) == 1
    out, err = capfd.readouterr()
    assert out == f"{PIPELINE}: has no checksums\n"
    assert err == (
        "spectro-render: empty: empty/model_index.json is missing; get the model again\n"
    )
    monkeypatch.setattr(registry, "MODEL_FOLDERS", (here,))
    assert cli.run(["models", "verify"]) == 1
    assert (
        capfd.readouterr().err
        == f"spectro-render: no model in {here}; name the directory of a model\n"
    )


def test_models(tiny_model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["models", "verify", str(tiny_model), "nonesuch"]) == 1
    out, err = capfd.readouterr()
    assert out == f"{tiny_model}: all files match their checksums\n"
    assert err.startswith("spectro-render: nonesuch: no model 'nonesuch'")
    assert cli.run(["models"]) == cli.run(["models", "list"]) == 0
    listed = [line.split("\t") for line in capfd.readouterr().out.splitlines()]
    bundled = [[name, str(path)] for name, path in registry.available_models().items()]
    assert [[line[0], line[3]] for line in listed if line[1] == "bundled"] == bundled * 2


# --- processes --------------------------------------------------------------------------------


def test_a_pipeline_with_a_terminal_to_talk_to(
    song: MakeSong, here: Path, tiny_model: Path
) -> None:
    song(seconds=6)
    arguments = command("-", "--model", str(tiny_model), "--json", "--steps", "200")
    with open("song.mid", "rb") as midi, open("out.wav", "wb") as wav:
        code, said = run_on_terminal(arguments, ("stderr",), stdin=midi, stdout=wav)
    assert code == 0
    shown = said.replace("\r", "").splitlines()
    assert json.loads(shown[-1])["output"] == "-"  # standard output is taken
    bars, _, rest = "\n".join(shown).partition("standard input -> standard output: 8.50 s of sound")
    assert rest and "window 2/2" in bars and "x real time" in bars
    sound, rate = soundfile.read("out.wav")
    assert (rate, sound.size) == (16_000, 8.5 * 16_000)


def test_songs_have_bars_of_their_own_below_that_of_all(
    song: MakeSong, here: Path, tiny_model: Path
) -> None:
    for number in range(3):
        song(f"in/{number}.mid", seconds=6 + 5 * number)
    arguments = command("in", "-o", "out", "--model", str(tiny_model), "--json", "--steps", "100")
    code, shown = run_on_terminal(arguments, ("stdout", "stderr"))
    assert code == 0
    lines = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line) for line in re.split(r"[\r\n]+", shown)]
    assert any(line.startswith("songs ") and "1 of 3" in line for line in lines)
    for number in range(3):
        assert any(line.startswith(f"in/{number}.mid ") and "window" in line for line in lines)
    made = [json.loads(line)["output"] for line in lines if line.startswith("{")]
    assert sorted(made) == ["out/0.wav", "out/1.wav", "out/2.wav"]


def test_a_terminal_gets_a_table_of_what_failed(
    song: MakeSong, here: Path, tiny_model: Path
) -> None:
    song("in/good.mid")
    for number in range(12):
        (here / f"in/{number:02d}.mid").write_bytes(b"no MIDI at all")
    arguments = command("in", "-o", "out", "--model", str(tiny_model))
    code, shown = run_on_terminal(arguments, ("stderr",), stdout=DEVNULL)
    assert code == 1
    lines = [line.rstrip() for line in shown.splitlines()]
    assert lines[-1].startswith("spectro-render: 1 rendered, 12 failed: 4.5 s of sound in ")
    assert lines[-1].endswith("; the reasons are in out/.spectro-render.jsonl")
    assert lines[-14].endswith("rendered   1") and lines[-13] == "failed    12"
    assert [line.split()[0] for line in lines[-12:-2]] == [f"in/{k:02d}.mid:" for k in range(10)]
    assert lines[-2].strip() == "and 2 more"


def test_a_terminal_is_spared_the_sound(song: MakeSong, here: Path) -> None:
    song()
    with open("said", "wb") as stderr:
        result = run_on_terminal(command("song.mid", "-o", "-"), ("stdout",), stderr=stderr)
    assert result == (2, "")
    said = Path("said").read_text()
    assert said.startswith("spectro-render: sound cannot be written to a terminal; name a file")


def test_a_reader_that_goes_away_is_no_error(song: MakeSong, here: Path, tiny_model: Path) -> None:
    song(seconds=12)
    line = shlex.join(command("-", "-o", "-", "-q", "--model", str(tiny_model)))
    done = run_program(
        ["bash", "-c", f"{line} < song.mid | head -c 1000 | wc -c; echo ${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["1000", "141"]
    assert done.stderr == ""


@pytest.mark.parametrize(
    "number, expected",
    [
        (signal.SIGTERM, (143, "")),
        (signal.SIGHUP, (129, "")),
        (signal.SIGINT, (130, "spectro-render: interrupted\n")),
    ],
)
def test_a_run_that_is_ended_leaves_no_half_file(
    song: MakeSong, here: Path, tiny_model: Path, number: int, expected: tuple[int, str]
) -> None:
    song(seconds=600)
    arguments = command("song.mid", "--steps", "1000", "--model", str(tiny_model))
    with start_program(arguments, stderr=PIPE, text=True) as process:
        wait_until(lambda: list(here.glob(".*.part")), process)
        process.send_signal(number)
        _, err = process.communicate(timeout=LIMIT)
    assert (process.returncode, err) == expected
    assert files(here) == ["song.mid"]


SITE = """
import os, signal, sys

class LosesExceptions:
    def __del__(self):
        {signal}

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "{module}":
            sys.meta_path.remove(self)
            {when}

sys.meta_path.insert(0, Finder())
"""
SEND = "os.kill(os.getpid(), signal.{}); pass"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    "module, when",
    [
        ("typer", "{signal}"),
        ("spectro_render.batch.batch", "{signal}"),
        ("torch", "{signal}"),
        ("torch.nn", "exec({signal!r})"),  # as in dataclasses
        ("soundfile", "{signal}"),
        ("soundfile", "LosesExceptions()"),
    ],
)
def test_a_run_that_is_ended_while_it_starts(
    song: MakeSong, here: Path, tiny_model: Path, module: str, when: str, number: signal.Signals
) -> None:
    song(seconds=600)
    (here / "site").mkdir()
    send = SEND.format(number.name)
    text = SITE.format(module=module, signal=send, when=when.format(signal=send))
    (here / "site" / "sitecustomize.py").write_text(text)
    arguments = command("song.mid", "-o", "a.flac", "--model", str(tiny_model))
    environment = {**os.environ, "PYTHONPATH": "site", "PYTHONDONTWRITEBYTECODE": "1"}
    done = run_program(arguments, env=environment, stderr=PIPE, text=True)
    code = done.returncode if done.returncode >= 0 else 128 - done.returncode  # as in a shell
    said = "spectro-render: interrupted\n" if number == signal.SIGINT else ""
    assert (code, done.stderr) == (128 + number, said)
    assert done.returncode > 0 or number == signal.SIGTERM  # which by default ends Python at once
    assert files(here) == ["site/sitecustomize.py", "song.mid"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_no_exception_of_a_signal_reaches_an_import(
    song: MakeSong, here: Path, tiny_model: Path, number: signal.Signals
) -> None:
    """torch imports modules from C++, which aborts at any exception; so the import goes on."""
    song(seconds=600)
    (here / "site").mkdir()
    when = f"{SEND.format(number.name)}; open('went_on', 'w').close()"
    text = SITE.format(module="torch.nn", signal="pass", when=when)
    (here / "site" / "sitecustomize.py").write_text(text)
    arguments = command("song.mid", "-o", "a.flac", "--model", str(tiny_model))
    environment = {**os.environ, "PYTHONPATH": "site", "PYTHONDONTWRITEBYTECODE": "1"}
    done = run_program(arguments, env=environment, stderr=PIPE, text=True)
    said = "spectro-render: interrupted\n" if number == signal.SIGINT else ""
    assert (done.returncode, done.stderr) == (128 + number, said)
    assert files(here) == ["site/sitecustomize.py", "song.mid", "went_on"]


def test_a_signal_decides_the_exit_code_even_if_its_exception_was_replaced() -> None:
    """Some functions written in C raise an error of their own in place of the signal's."""
    code = """
import os, signal, sys
from spectro_render.cli import app

def run(arguments):
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except SystemExit:
        raise ValueError("could not determine the shape") from None

app.run = run
app.main()
"""
    done = run_program([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "spectro-render: interrupted\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("format", ["wav", "flac", "ogg", "opus", "mp3"])
def test_a_stream_that_is_ended_does_not_wait_for_its_reader(
    song: MakeSong, here: Path, tiny_model: Path, format: str, number: signal.Signals
) -> None:
    """The reader takes a few bytes and then nothing, so the pipe is full when the signal comes."""
    song(seconds=120)
    arguments = command("song.mid", "-o", "-", "--format", format, "-q", "--steps", "1")
    arguments += ["--model", str(tiny_model)]
    with start_program(arguments, stdout=PIPE, stderr=PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        os.read(process.stdout.fileno(), 100)
        wait_until(lambda: is_idle(process.pid), process)
        process.send_signal(number)
        process.wait(LIMIT)
        err = process.stderr.read().decode()
    said = "spectro-render: interrupted\n" if number == signal.SIGINT else ""
    assert (process.returncode, err) == (128 + number, said)


def test_names_cannot_end_or_reverse_a_line() -> None:
    name = "a\nb\x1b\u202e\u2028\u2066\x85\u00e9.mid"
    assert one_line(name) == r"a\x0ab\x1b\u202e\u2028\u2066\x85" + "\u00e9.mid"


def shell(line: str, **options: Any) -> tuple[int, str, str]:
    """What a line does in a shell; `run` is the program."""
    script = f'run() {{ {shlex.join(command())} "$@"; }}; {line}'
    done = run_program(["sh", "-c", script], capture_output=True, text=True, **options)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    "line, code, said",
    [
        ("run --version >&-", 1, "standard output: bad file descriptor"),
        ("run --version >/dev/full", 1, "standard output: no space left on device"),
        ("run info song.mid >/dev/full", 1, "standard output: no space left on device"),
        ("run info - <&-", 1, "-: cannot be opened (Bad file descriptor); check the path"),
        ("run info - <&- 2>&-", 1, ""),
        ("run gone.mid 2>/dev/full", 1, ""),
        ("run --version 2>&-", 0, ""),
    ],
)
def test_broken_standard_streams(
    song: MakeSong, here: Path, line: str, code: int, said: str
) -> None:
    song()
    returned, _, err = shell(line)
    assert (returned, err) == (code, f"spectro-render: {said}\n" if said else "")


def test_rendering_needs_no_standard_stream(song: MakeSong, here: Path, tiny_model: Path) -> None:
    song(seconds=1)
    assert shell(f"run song.mid --model {shlex.quote(str(tiny_model))} <&- >&- 2>&-") == (0, "", "")
    assert soundfile.info("song.wav").duration == 3.5


def test_records_that_are_lost(song: MakeSong, here: Path, tiny_model: Path) -> None:
    song("in/a.mid", seconds=1)
    song("in/b.mid", seconds=1)
    said = "spectro-render: the records are cut off: no space left on device\n"
    assert shell(f"run in --json -q --model {shlex.quote(str(tiny_model))} >/dev/full") == (
        1,
        "",
        said,
    )
    assert files(here) == ["in/a.mid", "in/a.wav", "in/b.mid", "in/b.wav"]


def test_sound_that_is_lost(song: MakeSong, here: Path, tiny_model: Path) -> None:
    song(seconds=1)
    code, _, err = shell(f"run song.mid -o - -q --model {shlex.quote(str(tiny_model))} >/dev/full")
    said = "spectro-render: song.mid: the output stream: cannot write: no space left on device"
    assert code == 1 and err.startswith(said) and err.count("\n") == 1


def test_names_that_the_terminal_cannot_show(song: MakeSong, here: Path) -> None:
    song("é.mid")
    code, out, err = shell("run info é.mid", env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert (code, err) == (0, "")
    assert out.startswith("\\xe9.mid: 0:02.00, ")


def test_a_full_disk_is_one_line_and_leaves_no_half_file(
    run: Run, song: MakeSong, here: Path
) -> None:
    song(seconds=6)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        result = run("song.mid")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert result == (
        1,
        "",
        "spectro-render: song.mid: song.wav: cannot write: file too large;"
        " raise the limit on file sizes, or use a compressed format\n",
    )
    assert files(here) == ["song.mid"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--steps", "1000000000"), "1000000000 is more than 100000;"),
        (("--guidance", "1e308"), "1e308 is more than 100;"),
        (("--workers", "1000000"), "1000000 is more than 256;"),
    ],
)
def test_numbers_beyond_all_use_are_refused(
    song: MakeSong, run: Run, options: tuple[str, ...], words: str
) -> None:
    code, out, err = run(str(song()), *options)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert words in err


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not limit address space")
@pytest.mark.parametrize("kilobytes", [300_000, 600_000])
def test_too_little_address_space_is_one_line(song: MakeSong, here: Path, kilobytes: int) -> None:
    line = f"ulimit -v {kilobytes}; exec {shlex.join(command(str(song())))}"
    done = run_program(["sh", "-c", line], capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert "the limit on address space is " in done.stderr
    assert files(here) == ["song.mid"]


def test_a_working_folder_that_is_gone_is_one_line(song: MakeSong, here: Path) -> None:
    path = song()
    (here / "gone").mkdir()
    entry = "from spectro_render.__main__ import main; import os; os.rmdir(os.getcwd()); main()"
    program = [sys.executable, "-c", entry, str(path)]
    done = run_program(program, cwd=here / "gone", capture_output=True, text=True)
    assert done.returncode == 1
    words = "the working folder does not exist any more; change to another folder"
    assert done.stderr == f"spectro-render: {words}\n"
    assert files(here) == ["song.mid"]
