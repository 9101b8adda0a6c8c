"""What a terminal shows while songs are rendered, at several widths and after Ctrl-C."""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from spectro_render.cli import app as cli
from tests.support.processes import run_on_terminal
from tests.support.screen import screen
from tests.support.songs import MakeSong

LONG = "Grieg, Edvard - Peer Gynt Suite No. 1, Op. 46 - IV. In the Hall of the Mountain King.mid"


@pytest.fixture
def render(song: MakeSong, tmp_path: Path, tiny_model: Path) -> Callable[..., tuple[int, str]]:
    """Renders two long songs with long names on a terminal."""
    for name in ("a.mid", LONG):
        song(f"in/albums/{name}", seconds=60)
    program = [sys.executable, "-m", "spectro_render", "in", "-o", "out"]
    program += ["--model", str(tiny_model), "--steps", "300"]

    def run(columns: int, **options: str) -> tuple[int, str]:
        return run_on_terminal(program, ("stderr",), columns, cwd=str(tmp_path), **options)

    return run


@pytest.mark.parametrize("columns", [60, 80, 100])
def test_bars_have_room_and_leave_nothing_after_ctrl_c(
    render: Callable[..., tuple[int, str]], columns: int
) -> None:
    code, written = render(columns, interrupt_at="2/1")
    assert code == 130
    assert screen(written, columns)[-1] == "spectro-render: interrupted"
    assert written.startswith("spectro-render: loading the model ...\r\x1b[2K")
    assert [line for line in screen(written, columns) if "loading" in line] == []
    assert [line for line in screen(written, columns) if "left" in line or "━" in line] == []

    before = written.partition("^C")[0]
    shown = re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", before))
    song = next(line for line in reversed(shown) if "2/1" in line)
    assert len(song.rstrip()) <= columns - 4
    assert re.match(r"(Grieg, .*… ?\w*.*King|in/albums/a)\.mid +[━╸]", song)
    assert song.count("━") + song.count("╸") + song.count("╺") >= 8
    assert re.search(r"(window )?2/1\d +(\d:\d\d:\d\d|-:--:--)", song)
    assert ("real time" in song) == (columns >= 100) and ("x" in song.split("/1")[-1]) == (
        columns >= 80
    )


def test_what_is_ignored_is_summed_up_for_several_songs(
    song: MakeSong,
    tmp_path: Path,
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    import mido

    monkeypatch.chdir(tmp_path)
    for name, controllers in (("a", (74, 91)), ("b", (74,)), ("c", ())):
        path = song(f"in/{name}.mid", seconds=1)
        file = mido.MidiFile(str(path))
        for number in controllers:
            file.tracks[0].insert(0, mido.Message("control_change", control=number, value=9))
        file.save(str(path))
    assert cli.run(["in", "-o", "out", "--model", str(tiny_model)]) == 0
    lines = [line for line in capfd.readouterr().err.splitlines() if "ignored" in line]
    assert lines == [
        "spectro-render: ignored in 2 songs: brightness (2 songs), reverb (1 song);"
        " --json shows it for each"
    ]
