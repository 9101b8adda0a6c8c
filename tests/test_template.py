"""Names of outputs with fields, and runs that only say what would be done."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from spectro_render.cli import app as cli
from tests.support.songs import MakeSong

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(
    tmp_path: Path,
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Run:
    """Runs the command line in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        code = cli.run([*arguments, "--model", str(tiny_model)])
        return code, *capfd.readouterr()

    return run


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("out/{stem}-{seed}.{format}", ["out/a-7.wav", "out/b-7.wav"]),
        (
            "{folder}/{name}/{model}-{quality}.flac",
            ["a.mid/tiny-fast.flac", "deep/b.mid/tiny-fast"],
        ),
        ("x/{{{stem}}}-{seed:03}.wav", ["x/{a}-007.wav", "x/{b}-007.wav"]),
    ],
)
def test_fields_are_filled(run: Run, song: MakeSong, output: str, expected: list[str]) -> None:
    song("in/a.mid")
    song("in/deep/b.mid")
    code, out, _ = run("in", "-o", output, "--seed", "7", "--fast", "--dry-run", "--json")
    assert code == 0
    outputs = [json.loads(line)["output"] for line in out.splitlines()]
    assert [name[: len(start)] for name, start in zip(outputs, expected, strict=True)] == expected


def test_a_template_makes_its_folders(run: Run, song: MakeSong) -> None:
    song()
    assert run("song.mid", "-o", "new/{seed}/{stem}.{format}", "-q", "--format", "ogg")[0] == 0
    assert os.listdir("new/0") == ["song.ogg"] and sorted(os.listdir()) == ["new", "song.mid"]
    assert "is up to date" in run("song.mid", "-o", "new/0/{stem}.{format}", "--format", "ogg")[2]


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("{stme}.wav", "{stme}.wav: no such field: {stme}; did you mean {stem}? see"),
        (
            "{zzz}.wav",
            "{zzz}.wav: no such field: {zzz}; use one of stem, name, folder, format, seed",
        ),
        ("{}.wav", "{}.wav: no such field: {}; use one of stem"),
        ("{stem!r}.wav", "{stem!r}.wav: no such field: {stem}"),
        ("a}.wav", "a}.wav: single '}' encountered in format string; write a literal one twice;"),
        ("{stem:04d}.wav", "{stem:04d}.wav: "),
        ("x.wav{{", "x.wav{{: unknown audio suffix .wav{{"),
        ("{seed}.wav", "in/a.mid and in/b.mid would have the same output 0.wav; use {folder}, "),
    ],
)
def test_templates_that_are_refused(run: Run, song: MakeSong, output: str, message: str) -> None:
    song("in/a.mid")
    song("in/b.mid")
    code, out, err = run("in", "-o", output)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"spectro-render: {message}")
    assert os.listdir() == ["in"]


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(run: Run, song: MakeSong) -> None:
    for name in ("a", "b", "c"):
        song(f"in/{name}.mid")
    assert run("in/a.mid", "in/b.mid", "-o", "out", "-q")[0] == 0
    song("in/b.mid", seconds=4)
    before = sorted(Path("out").iterdir())
    code, out, err = run("in", "gone.mid", "-o", "out", "--dry-run")
    assert (code, out) == (1, "")
    assert err.splitlines() == [
        "spectro-render: in/a.mid: out/a.wav is up to date; --force renders it again",
        "spectro-render: in/b.mid: would be written to out/b.wav",
        "spectro-render: in/c.mid: would be written to out/c.wav",
        "spectro-render: gone.mid: no such file; check the path",
        "spectro-render: 2 planned, 1 skipped, 1 failed",
    ]
    assert sorted(Path("out").iterdir()) == before


def test_a_dry_run_fetches_no_model(
    song: MakeSong, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    song()
    arguments = ["song.mid", "-o", "new/", "--dry-run", "--model", "owner/nothing"]
    assert cli.run(arguments) == 0
    assert capfd.readouterr().err == "spectro-render: song.mid: would be written to new/song.wav\n"
    assert os.listdir() == ["song.mid"]
