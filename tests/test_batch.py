"""Songs side by side: the same sound as one by one, and nobody suffers for another."""

import itertools
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from spectro_render.audio.audio import Audio
from spectro_render.batch import history as resume
from spectro_render.cli.app import run
from spectro_render.midi.score import Note, Score
from spectro_render.options import RenderOptions
from spectro_render.render.renderer import Renderer
from spectro_render.render.song import Song
from spectro_render.render.voice import WindowCursor
from tests.support.golden import PIPELINE
from tests.support.processes import LIMIT, PIPE, start_program
from tests.support.songs import MakeSong
from tests.support.tolerances import STEPS_OF_16_BIT

SECONDS = (1.0, 13.0, 3.0, 8.0, 6.0)  # of five songs: they end at different windows


@pytest.fixture
def songs(song: MakeSong, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    monkeypatch.chdir(tmp_path)
    return [song(f"in/{k}.mid", seconds=seconds) for k, seconds in enumerate(SECONDS)]


def render(model: Path, out: str, *options: str) -> dict[str, np.ndarray]:
    assert run(["in", "-o", out, "-q", "--model", str(model), *options]) == 0
    return {Path(name).stem: soundfile.read(Path(out, name))[0] for name in names(out)}


def names(folder: str) -> list[str]:
    """Of what was made; beside it lies what a later run needs to know."""
    return sorted(name for name in os.listdir(folder) if name != resume.NAME)


def made_up(seconds: float, pitch: int) -> Score:
    notes = [Note(k / 2, k / 2 + 0.4, pitch + k % 5, 90, 0, False) for k in range(int(2 * seconds))]
    return Score(tuple(notes), seconds)


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets how many cores are used; the tests have one otherwise."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize(("size", "cores"), [("2", 1), ("3", 1), ("3", 2), ("8", 3)])
def test_the_same_sound_as_one_by_one(
    songs: list[Path], tiny_model: Path, size: str, cores: int, threads: Callable[[int], None]
) -> None:
    alone = render(tiny_model, "alone", "--batch-size", "1")
    threads(cores)
    together = render(tiny_model, "together", "--batch-size", size)
    assert alone.keys() == together.keys() == {path.stem for path in songs}
    for name, samples in alone.items():
        np.testing.assert_allclose(together[name], samples, rtol=0, atol=STEPS_OF_16_BIT)


def test_one_at_a_time_is_bit_for_bit_what_a_single_rendering_gives(
    songs: list[Path], tiny_model: Path
) -> None:
    render(tiny_model, "together", "--batch-size", "1")
    for path in songs:
        out = Path("single", path.stem).with_suffix(".wav")
        out.parent.mkdir(exist_ok=True)
        assert run([str(path), "-o", str(out), "-q", "--model", str(tiny_model)]) == 0
        assert out.read_bytes() == Path("together", out.name).read_bytes()


def test_mels_of_token_models_too() -> None:
    """Whose windows have different numbers of ids, so some of each batch are padded."""
    renderer = Renderer.load(PIPELINE, device="cpu")
    options = RenderOptions(sampler="dpm++", steps=2, guidance=1.5)
    scores = [made_up(2.0, 60), made_up(9.0, 50), Score((Note(0, 7, 40, 80, 30, False),), 7.0)]
    songs = [renderer.begin(score, options) for score in scores]
    mels: list[list[torch.Tensor]] = [[] for _ in songs]
    while any(not song.is_over for song in songs):
        renderer.advance([song for song in songs if not song.is_over])
        for song, made in zip(songs, mels, strict=True):
            if len(made) < song.done:
                made.append(song.voices[0].cursor.previous_mel)
    for score, made in zip(scores, mels, strict=True):
        alone = list(renderer.mels(renderer.windows(score), options))
        difference = (torch.stack(made) - torch.stack(alone)).abs()
        assert difference[0].max() < 1e-4
        # Random weights that predict noise magnify rounding where there is nothing but noise.
        assert difference[1:].numel() == 0 or difference[1:].mean() < 1e-2


def test_windows_share_a_batch(
    songs: list[Path],
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    threads: Callable[[int], None],
) -> None:
    """A song that ends hands its slot on: 1, 3, 2 and 2 + 2 windows in three slots."""
    threads(1)
    from spectro_render.network import model

    sizes: list[int] = []
    forward = model.Decoder.forward

    def counting(self: object, noisy: object, *rest: object) -> object:
        sizes.append(len(noisy))  # type: ignore[arg-type]
        return forward(self, noisy, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(model.Decoder, "forward", counting)
    render(tiny_model, "together", "--batch-size", "3", "--steps", "1")
    windows = [len(Renderer.load(tiny_model).windows(score_of(path))) for path in songs]
    assert sum(sizes) == sum(windows)
    assert max(sizes) == 3
    assert len(sizes) <= sum(windows) / 2


def test_cores_have_songs_of_their_own(
    songs: list[Path],
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    threads: Callable[[int], None],
) -> None:
    """Two at a time in each of two threads; a song that is left alone has all cores."""
    seen: list[tuple[bool, int, int]] = []
    advance, one_is_over = Renderer.try_advance, threading.Event()
    one_is_over.set()

    def watched(self: Renderer, group: list[Song], *rest: Any) -> list[Audio | Exception]:
        is_main = threading.current_thread() is threading.main_thread()
        seen.append((is_main, len(group), torch.get_num_threads()))
        parts = advance(self, group, *rest)
        one_is_over.set() if group[0].is_over else one_is_over.wait(LIMIT)
        return parts

    monkeypatch.setattr(Renderer, "try_advance", watched)
    threads(2)
    render(tiny_model, "together", "--batch-size", "4")
    assert set(seen[:2]) == {(False, 2, 1)}
    for path in songs[2:]:
        path.unlink()
    one_is_over.clear()
    render(tiny_model, "two", "--batch-size", "2")  # of one window and of three
    assert seen[-1] == (True, 1, 2)


def test_a_bug_hurts_only_the_group_that_meets_it(
    songs: list[Path],
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    threads: Callable[[int], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    advance, calls = Renderer.try_advance, itertools.count()

    def broken(self: Renderer, group: list[Song], *rest: Any) -> list[Audio | Exception]:
        if next(calls) == 0:
            raise RuntimeError("a bug")
        return advance(self, group, *rest)

    monkeypatch.setattr(Renderer, "try_advance", broken)
    threads(2)
    arguments = ["in", "-o", "out", "-q", "--batch-size", "4", "--model", str(tiny_model)]
    assert run(arguments) == 1
    assert capsys.readouterr().err.count("RuntimeError: a bug\n") == 1 + 2  # once with its trace
    assert names("out") == ["2.wav", "3.wav", "4.wav"]


@pytest.mark.parametrize("window", [0, 1])
@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("can't allocate memory")])
def test_an_error_in_a_window_fails_only_its_song(
    songs: list[Path],
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    window: int,
    error: Exception,
) -> None:
    """The network cannot compute one window of a song, however many are in its batch."""
    from spectro_render.network import model

    alone = render(tiny_model, "alone", "--batch-size", "1")
    windows = len(Renderer.load(tiny_model).windows(score_of(songs[3])))  # no other has as many
    forward, next_notes, doomed = model.Decoder.forward, WindowCursor.next_notes, []

    def noted(self: WindowCursor) -> Any:
        if self.count == windows and self.done == window:
            doomed.append(True)
        return next_notes(self)

    def failing(self: object, *rest: object, **more: object) -> object:
        if doomed:
            doomed.clear()
            raise error
        return forward(self, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(WindowCursor, "next_notes", noted)
    monkeypatch.setattr(model.Decoder, "forward", failing)
    arguments = ["in", "-o", "out", "-q", "--batch-size", "5", "--model", str(tiny_model)]
    assert run(arguments) == 1
    said = capsys.readouterr().err
    assert said.startswith("spectro-render: in/3.mid: there is not enough memory; ")
    assert said.count("\n") == 1
    assert names("out") == ["0.wav", "1.wav", "2.wav", "4.wav"]
    for name in set(alone) - {"3"}:  # the notes that a song remembers are not counted twice
        samples, _ = soundfile.read(Path("out", f"{name}.wav"))
        np.testing.assert_allclose(samples, alone[name], rtol=0, atol=STEPS_OF_16_BIT)


def score_of(path: Path) -> Score:
    from spectro_render.midi.read import read_midi

    return read_midi(path)


def test_a_bad_file_hurts_nobody(
    songs: list[Path], tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    songs[2].write_bytes(b"no MIDI at all")
    arguments = ["in", "-o", "out", "--json", "-q", "--batch-size", "3", "--model", str(tiny_model)]
    assert run(arguments) == 1
    out, err = capsys.readouterr()
    status = {Path(r["input"]).stem: r["status"] for r in map(json.loads, out.splitlines())}
    assert status == {
        "0": "rendered",
        "1": "rendered",
        "2": "failed",
        "3": "rendered",
        "4": "rendered",
    }
    assert err.count("\n") == 1 and "in/2.mid" in err
    assert names("out") == ["0.wav", "1.wav", "3.wav", "4.wav"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_hurts_only_the_song_it_meets(
    songs: list[Path], tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("out").mkdir()
    Path("out/1.wav").symlink_to("/dev/full")
    arguments = ["in", "-o", "out", "-q", "--force", "--batch-size", "5", "--model"]
    assert run([*arguments, str(tiny_model)]) == 1
    assert "in/1.mid: out/1.wav: cannot write: no space left" in capsys.readouterr().err
    whole = [path for path in map(Path("out").joinpath, names("out")) if not path.is_symlink()]
    assert sorted(path.name for path in whole) == ["0.wav", "2.wav", "3.wav", "4.wav"]
    assert all(soundfile.info(path).duration > 1 for path in whole)


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGINT")
def test_an_interrupt_leaves_only_what_is_complete(songs: list[Path], tiny_model: Path) -> None:
    command = [sys.executable, "-m", "spectro_render", "in", "-o", "out", "--batch-size", "5"]
    options = ["--steps", "300", "--model", str(tiny_model)]
    with start_program([*command, *options], stderr=PIPE, text=True) as process:
        assert process.stderr is not None
        assert "in/0.mid -> out/0.wav" in process.stderr.readline()  # one window, the others go on
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert names("out") == ["0.wav"]
