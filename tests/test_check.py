"""`models check`: numbers of a tiny model in place of those of the published weights."""

from collections.abc import Callable
from pathlib import Path

import pytest

from spectro_render.cli import app as cli
from spectro_render.compat import acceptance
from spectro_render.compat.acceptance import Acceptance
from tests.support.golden import PIPELINE

pytest.importorskip("onnxruntime")

# Of the tiny pipeline, whose mels and sound are those of diffusers (tests/test_pipeline.py).
QUICK = Acceptance(2, 2, 50239.69, 0.5)
LONG = Acceptance(4, 100, 92099.42, 1.0)


@pytest.fixture(autouse=True)
def numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptance, "QUICK", QUICK)
    monkeypatch.setattr(acceptance, "LONG", LONG)


def check(*words: object) -> int:
    return cli.run(["models", "check", *map(str, words)])


def test_the_published_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert acceptance.QUICK == Acceptance(2, 2, 3612.841, 0.1)
    assert acceptance.LONG == Acceptance(4, 100, 9389.1111, 0.05)


def test_numbers_that_agree(song: Callable[..., Path], capfd: pytest.CaptureFixture[str]) -> None:
    assert check(PIPELINE, "--midi", song(seconds=20)) == 0
    out, err = capfd.readouterr()
    assert out.startswith(f"{PIPELINE}: 2 windows in 2 steps: sum ") and err == ""
    assert out.endswith(f", expected {QUICK.total} within 0.5: pass\n")
    assert check(PIPELINE, "--midi", song(seconds=20), "--long", "-q") == 0
    out, err = capfd.readouterr()
    assert err == "" and out.count(": pass\n") == 2
    assert f"4 windows in 100 steps: sum {LONG.total:.0f}." in out


def test_numbers_that_do_not_agree(
    song: Callable[..., Path], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acceptance, "QUICK", Acceptance(2, 2, QUICK.total + 1, 0.5))
    assert check(PIPELINE, "--midi", song(seconds=20)) == 1
    out, err = capfd.readouterr()
    assert out.endswith(f"expected {QUICK.total + 1} within 0.5: fail\n")
    assert err.startswith("spectro-render: the numbers hold for the published weights and http://")


def test_the_seed_and_the_guidance_are_those_of_diffusers(
    song: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def render(
        pipe: object, windows: object, generator: object, steps: int, **more: object
    ) -> None:
        seen.append((len(windows), generator.initial_seed(), steps, more))
        raise KeyboardInterrupt

    name = "spectro_render.compat.pipeline.SpectrogramDiffusionPipeline.__call__"
    monkeypatch.setattr(name, render)
    assert check(PIPELINE, "--midi", song(seconds=20)) == 130
    assert seen == [(2, 0, 2, {"return_dict": False})]


@pytest.mark.parametrize(
    ("model", "seconds", "said"),
    [
        (PIPELINE, 2, "the song has too few windows for this check: 1, not 2; use http://"),
        ("default", 20, "default is not a model that diffusers' pipeline can render; "),
        ("nonesuch", 20, "no model 'nonesuch'"),
    ],
)
def test_what_cannot_be_checked(
    song: Callable[..., Path],
    model: object,
    seconds: float,
    said: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert check(model, "--midi", song(seconds=seconds)) == 1
    out, err = capfd.readouterr()
    assert out == "" and err.startswith(f"spectro-render: {said}") and err.count("\n") == 1


def test_no_song(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "none.mid"
    assert check(PIPELINE, "--midi", path) == 1
    assert capfd.readouterr().err.startswith(f"spectro-render: {path}: cannot be opened")
    assert check(PIPELINE) == 2


def test_no_vocoder(song: Callable[..., Path], tmp_path: Path) -> None:
    import shutil

    path = Path(shutil.copytree(PIPELINE, tmp_path / "mute"))
    shutil.rmtree(path / "melgan")
    assert check(path, "--midi", song(seconds=20)) == 1
