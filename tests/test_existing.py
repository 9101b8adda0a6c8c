"""Outputs that exist already, and inputs that do not: what is made again, kept or refused."""

import json
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from spectro_render.batch.outputs import Outputs, user_folder
from spectro_render.cli import app as cli
from tests.support.songs import MakeSong

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(
    tmp_path: Path,
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Run:
    """Runs the command line in a folder of its own: exit code, and standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))

    def run(*arguments: str) -> tuple[int, str]:
        code = cli.run([*arguments, "--model", str(tiny_model)])
        return code, capfd.readouterr().err

    return run


def test_a_single_output_is_made_again_with_other_settings(run: Run, song: MakeSong) -> None:
    song()
    assert run("song.mid", "-q") == (0, "")
    first = Path("song.wav").read_bytes()
    assert run("song.mid") == (
        0,
        "spectro-render: song.mid: song.wav is up to date; --force renders it again\n",
    )
    assert run("song.mid", "--seed", "5", "-q") == (0, "")
    assert Path("song.wav").read_bytes() != first
    assert "is up to date" in run("song.mid", "--seed", "5")[1]
    song(seconds=3)  # another song of that name
    assert run("song.mid", "--seed", "5", "-q") == (0, "")
    assert sorted(os.listdir()) == ["song.mid", "song.wav", "state"]


def test_an_output_that_was_replaced_is_the_users(run: Run, song: MakeSong) -> None:
    song()
    run("song.mid", "-q")
    Path("song.wav").write_bytes(b"a recording")
    code, err = run("song.mid")
    assert code == 1 and "song.wav exists already, and it is not known how it was made" in err
    assert Path("song.wav").read_bytes() == b"a recording"


@pytest.mark.parametrize("arguments", [["song.mid"], ["song.mid", "-o", "song.wav"], ["."]])
def test_existing_outputs_are_kept_if_that_is_wanted(
    run: Run, song: MakeSong, arguments: list[str]
) -> None:
    song()
    Path("song.wav").write_bytes(b"a recording")
    for option in ("--skip-existing", "--no-clobber"):
        code, err = run(*arguments, option, "--seed", "3")
        assert code == 0 and err.endswith("song.mid: song.wav exists already\n")
    assert Path("song.wav").read_bytes() == b"a recording"


def test_a_music_folder_holds_nothing_but_music(run: Run, song: MakeSong) -> None:
    song("in/a.mid")
    song("in/deep/b.mid")
    assert run("in", "-q") == (0, "")
    assert sorted(os.listdir("in")) == ["a.mid", "a.wav", "deep"]
    assert run("in")[1].endswith("spectro-render: 2 skipped\n")
    assert run("in", "--seed", "3")[1].splitlines()[-1].startswith("spectro-render: 2 rendered")
    assert "is up to date" in run("in/deep/b.mid", "--seed", "3")[1]


def test_of_several_outputs_the_users_own_are_skipped(run: Run, song: MakeSong) -> None:
    song("a.mid")
    song("b.mid")
    Path("a.wav").write_bytes(b"a recording")
    code, err = run("a.mid", "b.mid")
    assert code == 0 and "a.wav exists already, and it is not known" in err
    assert Path("a.wav").read_bytes() == b"a recording"


@pytest.mark.parametrize("damage", ["folder", "bytes"])
def test_a_memory_that_cannot_be_used_is_none(run: Run, song: MakeSong, damage: str) -> None:
    song()
    path = Path("state/spectro-render/outputs.sqlite")
    path.parent.mkdir(parents=True)
    path.mkdir() if damage == "folder" else path.write_bytes(b"no database" * 500)
    assert run("song.mid", "-q") == (0, "")
    code, err = run("song.mid")
    assert code == 1 and "it is not known how it was made; --force" in err


def test_the_oldest_outputs_are_forgotten(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spectro_render.batch.outputs._MOST", 3)
    memory = Outputs({}, lambda: "model")
    for number in range(5):
        Path(f"{number}.wav").touch()
        memory.add(Path(f"{number}.wav"), "1" * 64, {})
    memory.close()
    assert [memory.knows(Path(f"{number}.wav")) for number in range(5)] == [False] * 2 + [True] * 3
    database = sqlite3.connect(memory.path)
    assert database.execute("SELECT count(*) FROM outputs").fetchone() == (3,)
    database.close()


def test_user_folders_follow_the_desktop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("XDG_STATE_HOME", "not/absolute")  # which the specification says to ignore
    assert user_folder("state") == Path("/home/me/.local/state/spectro-render")
    assert user_folder("config") == Path("/home/me/.config/spectro-render")


# --- inputs that do not exist -----------------------------------------------------------------


def test_a_missing_input_is_reported_before_its_output(run: Run, song: MakeSong) -> None:
    song()
    run("song.mid", "-q")
    assert run("song.mi", "-o", "song.wav", "--skip-existing") == (
        1,
        "spectro-render: song.mi: no such file; did you mean song.mid?\n",
    )
    Path("tune.wav").touch()
    Path("tune.wav").write_bytes(b"sound")
    err = "spectro-render: tune.mid: no such file; check the path\n"
    assert run("tune.mid") == run("tune.mid", "--skip-existing") == (1, err)
    Path("link.mid").symlink_to("nowhere")
    assert "is a link to a file that does not exist" in run("link.mid")[1]


def test_a_score_is_no_midi_file(run: Run) -> None:
    Path("song.mscz").write_bytes(b"PK")
    code, err = run("song.mscz")
    assert code == 1 and "is a score, not MIDI; export MIDI" in err and "song.mscz\n" in err


def test_json_tells_why_a_song_was_skipped(
    run: Run, song: MakeSong, tiny_model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    song()
    run("song.mid", "-q")
    assert cli.run(["song.mid", "--json", "-q", "--model", str(tiny_model)]) == 0
    record = json.loads(capfd.readouterr().out)
    assert record["reason"] == "song.wav is up to date; --force renders it again"
    assert cli.run(["zzz.mid", "--json", "-q", "--model", str(tiny_model)]) == 1
    record = json.loads(capfd.readouterr().out)
    assert (record["error"], record["kind"]) == ("no such file; check the path", "MidiError")
