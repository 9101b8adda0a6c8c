"""Wrong usage: one line that names what is wrong and what may be meant, and nothing is rendered."""

import os
from pathlib import Path

import pytest

from spectro_render.cli import app as cli
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
        ("song.mid --quite", "no such option: --quite; did you mean --quiet?"),
        ("song.mid -f", "no such option: -f; did you mean --force?"),
        ("song.mid --zzz", "no such option: --zzz;"),
        ("song.mid --steps 0", "Invalid value for '--steps': 0 is less than 1;"),
        ("song.mid --steps abc", "Invalid value for '--steps': 'abc' is not a whole number;"),
        ("song.mid --steps 1.5", "Invalid value for '--steps': '1.5' is not a whole number;"),
        ("song.mid --gain loud", "Invalid value for '--gain': 'loud' is not a number;"),
        (
            "song.mid --format wave",
            "Invalid value for '--format': 'wave' is none of wav, flac, ogg, mp3; did you mean wav",
        ),
        ("song.mid --sampler zzz", "Invalid value for '--sampler': 'zzz' is none of ddpm, ddpm-"),
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
    assert cli.run(arguments.split()) == 2
    out, err = capfd.readouterr()
    assert out == "" and err.startswith(f"spectro-render: {message}")
    assert err.count("\n") == 1 and err.endswith("--help\n")
    assert sorted(os.listdir()) == ["song.mid", "song.wav"]


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
