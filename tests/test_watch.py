"""Songs that are rendered again when they are saved."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from spectro_render.cli import app as cli
from tests.support.processes import PIPE, Popen, start_program
from tests.support.songs import MakeSong
from tests.support.sound_device import Device, require_portaudio

PROGRAM = [sys.executable, "-m", "spectro_render"]


@pytest.fixture
def watching(tiny_model: Path, tmp_path: Path) -> Callable[..., object]:
    """Starts the command with --watch in the folder of the test."""
    pytest.importorskip("watchfiles")

    @contextmanager
    def watching(*arguments: str, **options: object) -> Iterator[Popen]:
        command = [*PROGRAM, *arguments, "--watch", "--model", str(tiny_model)]
        with start_program(command, cwd=tmp_path, stderr=PIPE, text=True, **options) as process:
            yield process

    return watching


def lines_until(process: Popen, text: str) -> list[str]:
    """The lines of standard error up to the first that has a text, without the program's name."""
    assert process.stderr is not None
    lines: list[str] = []
    while not lines or text not in lines[-1]:
        line = process.stderr.readline()
        assert line, lines
        lines.append(line.rstrip().removeprefix("spectro-render: "))
    return lines


def interrupt(process: Popen) -> str:
    """Press Ctrl-C; returns what is printed after that."""
    process.send_signal(2)
    assert process.wait() == 130
    return str(process.stderr and process.stderr.read())


def test_a_song_is_rendered_whenever_it_is_saved(
    watching: Callable[..., object], song: MakeSong, tmp_path: Path
) -> None:
    path, sound = song(seconds=1), tmp_path / "song.wav"
    with watching("song.mid", "--tail", "1") as process:
        lines = lines_until(process, "watching")
        assert "song.mid -> song.wav: " in lines[0]
        assert lines[-1] == "watching song.mid; Ctrl-C ends this"
        sizes = [sound.stat().st_size]

        longer = song("new.mid", seconds=3).read_bytes()
        os.replace(tmp_path / "new.mid", path)  # as editors save
        assert len(lines_until(process, "song.mid -> song.wav")) == 1
        sizes.append(sound.stat().st_size)

        with open(path, "wb") as file:  # in several steps
            for start in range(0, len(longer), 64):
                file.write(longer[start : start + 64])
                file.flush()
        assert lines_until(process, "song.wav")[0].startswith("song.mid: song.wav is up to date")

        path.write_bytes(longer[:30])
        assert lines_until(process, "song.mid: ")[0].startswith("song.mid: ")
        assert sound.stat().st_size == sizes[-1]

        song(seconds=2)
        assert lines_until(process, "song.mid -> song.wav")[-1]
        sizes.append(sound.stat().st_size)
        assert interrupt(process) == "spectro-render: interrupted\n"
    assert sizes[1] - sizes[0] == 2 * (sizes[1] - sizes[2]) == 2 * 2 * 16_000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["song.mid", "song.wav"]


def test_new_songs_of_a_folder_are_rendered_and_others_are_not_named(
    watching: Callable[..., object], song: MakeSong, tmp_path: Path
) -> None:
    song("in/a.mid", seconds=1)
    with watching("in", "-o", "out/{stem}.{format}") as process:
        lines_until(process, "watching in;")
        (tmp_path / "in" / "notes.txt").write_text("not a song")
        song("in/below/b.mid", seconds=1)
        (line,) = lines_until(process, " -> ")
        assert line.startswith("in/below/b.mid -> out/b.wav: ")
        interrupt(process)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.wav", "b.wav"]


def test_a_song_that_is_saved_while_it_is_played_begins_anew(
    watching: Callable[..., object], song: MakeSong, tmp_path: Path
) -> None:
    require_portaudio()
    device = Device(tmp_path / "device", bytes_per_second=16_000 * 2 * 4)
    song(seconds=40)
    with watching("song.mid", "--play", "--tail", "1", env=device.variables) as process:
        lines_until(process, "song.mid: 41.00 s of sound")
        song(seconds=1)
        begun = time.monotonic()
        lines_until(process, "song.mid: 2.00 s of sound")
        assert time.monotonic() - begun < 35
        interrupt(process)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ("-", 2, "--watch cannot watch standard input"),
        ("--files-from -", 2, "--watch cannot watch standard input"),
        ("/dev/null", 2, "--watch cannot watch /dev/null"),
        ("song.mid -o -", 2, "--watch cannot write to standard output"),
        ("song.mid --dry-run", 2, "--watch and --dry-run exclude each other; leave one out;"),
        ("song.mid --skip-existing", 2, "--watch and --skip-existing exclude each other"),
        ("song.mid --workers 2", 2, "--watch and --workers exclude each other"),
        ("song.mid --normalize album", 2, "--watch and --normalize album exclude each other"),
        ("song.mi", 1, "song.mi: no such file; did you mean song.mid?"),
        ("song.mid --device cuda:77", 1, "cuda"),
    ],
)
def test_what_cannot_be_watched(
    song: MakeSong,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    arguments: str,
    code: int,
    words: str,
) -> None:
    pytest.importorskip("watchfiles")
    monkeypatch.chdir(tmp_path)
    song()
    assert cli.run([*arguments.split(), "--watch"]) == code
    (line,) = capfd.readouterr().err.splitlines()
    assert words in line


def test_the_package_that_is_missing_is_named(
    song: MakeSong,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    song()
    assert cli.run(["song.mid", "--watch"]) == 1
    assert "--watch needs the package watchfiles; pip install '" in capfd.readouterr().err
