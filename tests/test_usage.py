"""Wrong usage: one line that names what is wrong and what may be meant, and nothing is rendered."""

import os
import sys
from pathlib import Path

import pytest
import soundfile
import typer

from spectro_render.cli import app as cli
from spectro_render.cli.completion import SUB_COMMANDS
from spectro_render.cli.help import _GROUP_OF
from spectro_render.cli.render import rendering
from spectro_render.cli.values import hertz, seconds
from spectro_render.errors import install_hint
from tests.support.songs import MakeSong


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("song.mid song.wav", "song.wav is sound, not MIDI; to name the output: -o song.wav;"),
        ("song.mid new.opus", "new.opus is sound, not MIDI; to name the output: -o new.opus;"),
        ("song.wav", "song.wav is sound, not MIDI"),
        ("render song.mid", "'render' is neither a file nor a command; rendering needs no command"),
        ("help", "'help' is neither a file nor a command;"),
        ("modles", "'modles' is neither a file nor a command; did you mean models?"),
        ("-q info song.mid", "the command info comes first; spectro-render info INPUT;"),
        ("song.mid --overwrite", "no such option: --overwrite; did you mean --force?"),
        ("song.mid --outdir x", "no such option: --outdir; did you mean --output?"),
        ("song.mid --stereo", "no such option: --stereo; did you mean --channels?"),
        ("song.mid --quite", "no such option: --quite; did you mean --quiet?"),
        ("song.mid -f", "no such option: -f; did you mean --force?"),
        ("song.mid --zzz", "no such option: --zzz;"),
        ("song.mid --steps 0", "Invalid value for '--steps': 0 is less than 1;"),
        ("song.mid --steps abc", "Invalid value for '--steps': 'abc' is not a whole number;"),
        ("song.mid --steps 1.5", "Invalid value for '--steps': '1.5' is not a whole number;"),
        ("song.mid --gain loud", "Invalid value for '--gain': 'loud' is not a number;"),
        (
            "song.mid --format wave",
            "Invalid value for '--format': 'wave' is none of wav, flac, aiff, ogg, opus, mp3; did",
        ),
        ("song.mid --sampler zzz", "Invalid value for '--sampler': 'zzz' is none of ddpm, ddpm-"),
        (
            "song.mid --model defualt",
            "Invalid value for '--model': no model 'defualt', and no",
        ),
        ("song.mid --model empty", "Invalid value for '--model': empty is no model directory, as"),
        ("song.mid --mapping no.toml", "no.toml cannot be read: no such file or directory;"),
        ("song.mid --fast --steps 7", "--fast and --steps both set the number of steps;"),
        ("song.mid --best --steps 7", "--best and --steps both set the number of steps;"),
        ("song.mid --gain 3 --normalize peak", "--gain and --normalize both set the level;"),
        ("song.mid --stems-by bus", "--stems-by is for --stems, --solo and --mute;"),
        ("song.mid --force --skip-existing", "--force and --skip-existing exclude each other"),
        ("models pul x", "No such command 'pul'. Did you mean 'pull'?"),
    ],
)
def test_what_is_meant(
    song: MakeSong,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    arguments: str,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    song()
    Path("song.wav").write_bytes(b"RIFF1234WAVEfmt ")
    Path("empty").mkdir()
    assert cli.run(arguments.split()) == 2
    out, err = capfd.readouterr()
    assert out == "" and err.startswith(f"spectro-render: {message}")
    assert err.count("\n") == 1 and err.endswith("--help\n")
    assert sorted(os.listdir()) == ["empty", "song.mid", "song.wav"]


def test_a_midi_file_may_have_the_suffix_of_sound(
    song: MakeSong, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    song().rename("song.aac")
    assert cli.run(["song.aac", "-q", "--model", str(tiny_model)]) == 0
    assert Path("song.wav").exists()


@pytest.mark.parametrize("word", ["albums", "renders", "info"])
def test_a_word_that_is_a_file_is_an_input(
    song: MakeSong, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    monkeypatch.chdir(tmp_path)
    song().rename(word)
    assert cli.run([f"./{word}", "-q", "--model", str(tiny_model)]) == 0
    assert Path(f"{word}.wav").exists()


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        *(("90", 90.0), ("1:30", 90.0), ("1:02:30.5", 3750.5), ("10s", 10.0), ("500ms", 0.5)),
        *(("1.5 min", 90.0), ("2h", 7200.0), (".5", 0.5), ("1e1", 10.0), (2.5, 2.5), ("0:05", 5.0)),
    ],
)
def test_times(written: str | float, expected: float) -> None:
    assert seconds(written) == pytest.approx(expected)


@pytest.mark.parametrize("written", ["", "1:60", "1:2:3:4", "ten", "5 days", "-1", "nan", "1:-3"])
def test_what_is_no_time(written: str) -> None:
    with pytest.raises(ValueError, match=r"is no time|is less than 0"):
        seconds(written)


def test_sample_rates() -> None:
    rates = {"44100": 44_100, "44.1k": 44_100, "48kHz": 48_000, "22.05 khz": 22_050, "8000Hz": 8000}
    assert {written: hertz(written) for written in rates} == rates
    for written in ("fast", "44.1", "44.1m", "", "nan"):
        with pytest.raises(ValueError, match="is no sample rate"):
            hertz(written)


def test_a_time_and_a_rate_on_the_command_line(
    song: MakeSong, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    song(seconds=4)
    options = ["--start", "0:01", "--duration", "1500ms", "--sample-rate", "44.1k"]
    assert cli.run(["song.mid", *options, "-q", "--model", str(tiny_model)]) == 0
    info = soundfile.info("song.wav")
    assert (info.samplerate, info.duration) == (44_100, 1.5)


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_the_help_has_groups_examples_and_commands(
    capfd: pytest.CaptureFixture[str], option: str
) -> None:
    assert cli.run([option]) == 0
    out = capfd.readouterr().out
    headings = [line[:-1] for line in out.splitlines() if line.endswith(":") and line[0] != " "]
    groups = ["Input and output", "Sound", "Music", "Playing and watching", "Model and device"]
    groups += ["Many files", "Ray cluster"]
    assert headings == ["Arguments", *groups, "Other options", "Examples", "Commands"]
    examples = out.partition("\nExamples:\n")[2].partition("\n\n")[0]
    assert examples.count("spectro-render ") == 4
    assert {name for name in SUB_COMMANDS if f"\n  {name} " in out} == set(SUB_COMMANDS)
    assert cli.run(["info", option]) == 0


def test_without_arguments_there_is_a_short_help(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.run([]) == 2
    out, err = capfd.readouterr()
    lines = err.splitlines()
    assert out == "" and lines[0] == "Usage: spectro-render INPUT... [-o OUT] [options]"
    assert sum(line.startswith("  spectro-render ") for line in lines) == 4
    assert "'spectro-render --help' lists all options" in lines[-1]
    assert all(len(line) <= 100 for line in lines)


def test_every_option_of_a_group_exists() -> None:
    assert set(_GROUP_OF) <= {each.name for each in typer.main.get_command(rendering).params}


def test_hints_name_packages_that_an_index_has() -> None:
    assert install_hint("hub") == "pip install 'huggingface-hub>=0.34' 'onnxruntime>=1.17'"
    assert "'mir-eval>=0.7' 'onnxruntime>=1.17'" in install_hint("evaluate")
    assert install_hint("nonesuch") == "pip install '.[nonesuch]'"


def test_a_sub_command_names_the_package_that_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "mir_eval.util", None)
    for module in ("drums", "files", "session"):
        monkeypatch.delitem(sys.modules, f"spectro_render.evaluation.{module}", raising=False)
    assert cli.run(["evaluate", str(tmp_path)]) == 1
    err = capfd.readouterr().err
    assert err.startswith("spectro-render: the command evaluate needs the package mir_eval")
    assert err.count("\n") == 1 and "; pip install 'mir-eval>=0.7'" in err
