"""How long a song may sound: the ceiling, parts of songs, and times that are far too short."""

import json
import math
from pathlib import Path

import pytest

from spectro_render.batch.engine import LocalEngine
from spectro_render.cli import app as cli
from spectro_render.compat.pipeline import MidiProcessor
from spectro_render.errors import MidiError, OptionError
from spectro_render.midi.length import check_length, part_to_render
from spectro_render.midi.read import read_midi
from spectro_render.midi.score import Score
from spectro_render.options import RenderOptions
from spectro_render.render.renderer import Renderer
from tests.support.smf_writer import smf

HOUR = 3600
LATER = b"\xc2\xd3\x20"  # a time step of 3 h 2 min, where a tick is a hundredth of a second


def long_song(steps: int = 1) -> bytes:
    """A note that is held for `steps` times LATER."""
    tempo = b"\0\xff\x51\x03\x0f\x42\x40"  # a second
    later = [LATER + b"\xb0\x0a\x40" for _ in range(steps - 1)]
    return smf(tempo + b"\0\x90\x3c\x40" + b"".join(later) + LATER + b"\x80\x3c\0", division=100)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "long.mid").write_bytes(long_song())
    return tmp_path


def test_a_song_over_the_ceiling_is_refused_before_the_model_is_loaded(
    here: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LocalEngine, "renderer", property(lambda _: pytest.fail("model loaded")))
    assert cli.run(["in/long.mid"]) == 1
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("spectro-render: in/long.mid: too long: 3.04 hours of sound, and no more")
    assert err.endswith("raise --max-hours, or render a part with --start and --duration\n")
    assert [path.name for path in Path("in").iterdir()] == ["long.mid"]


def test_in_a_folder_it_fails_alone(
    here: Path, tiny_model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("in/short.mid").write_bytes(smf(b"\0\x90\x3c\x40\x60\x80\x3c\0"))
    assert cli.run(["in", "-o", "out", "--model", str(tiny_model), "--json", "-q"]) == 1
    records = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert {r["input"]: r["status"] for r in records} == {
        "in/long.mid": "failed",
        "in/short.mid": "rendered",
    }


@pytest.mark.parametrize(
    "options", [["--duration", "2"], ["--start", "10900"], ["--start", "9", "--duration", "1"]]
)
def test_parts_are_measured_after_cutting(here: Path, tiny_model: Path, options: list[str]) -> None:
    assert cli.run(["in/long.mid", "-q", "--steps", "1", "--model", str(tiny_model), *options]) == 0


def test_the_ceiling_can_be_chosen() -> None:
    score = read_midi(long_song())
    part = part_to_render(score, RenderOptions(max_hours=3.04))
    assert part is score
    with pytest.raises(MidiError, match=r"too long: 3\.04 hours of sound, and no more than 3\.03"):
        part_to_render(score, RenderOptions(max_hours=3.03))
    with pytest.raises(MidiError, match=r"too long: 0\.01 hours .* than 1e-300 are"):
        part_to_render(score, RenderOptions(max_hours=1e-300, duration=1.0))
    for exact in (1, 3):
        part_to_render(score, RenderOptions(max_hours=exact, duration=exact * HOUR))
        with pytest.raises(MidiError, match=rf"too long: {exact}\.01 hours .* than {exact} are"):
            part_to_render(score, RenderOptions(max_hours=exact, duration=exact * HOUR + 0.01))


def test_tails_and_rests_count() -> None:
    with pytest.raises(MidiError, match=r"too long: 27\.78 hours"):
        part_to_render(read_midi(long_song()), RenderOptions(duration=1e5, tail=1e5, max_hours=25))
    rests = smf(2 * (LATER + b"\x90\x3c\0"), division=100)
    with pytest.raises(MidiError, match="too long"):
        part_to_render(
            read_midi(rests, allow_rests=True), RenderOptions(to_end_of_track=True, tail=0.0)
        )


@pytest.mark.parametrize("hours", [0.0, -1.0, math.inf, math.nan])
def test_a_ceiling_that_is_none_is_wrong_usage(
    hours: float, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(OptionError, match=r"max_hours is .*give 25 to render"):
        check_length(1.0, hours)
    assert cli.run(["song.mid", f"--max-hours={hours}"]) == 2
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "Invalid value for '--max-hours'" in err


def test_in_python(tiny_model: Path) -> None:
    renderer = Renderer.load(tiny_model)
    for render in (renderer.render, renderer.begin):
        with pytest.raises(MidiError, match="too long"):
            render(long_song())
    assert len(renderer.render(long_song(), steps=1, duration=1.0).samples[0]) == 16_000
    song = renderer.begin(long_song(), max_hours=4)
    assert song.count == math.ceil((3 * HOUR + 120 + 2.5) / 5.12)
    with pytest.raises(MidiError, match="too long"):
        MidiProcessor()(long_song())
    assert len(MidiProcessor()(long_song(), max_hours=4)) == 2133


def test_info_describes_a_song_that_is_refused(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("day.mid").write_bytes(long_song(7))
    assert cli.run(["info", "day.mid"]) == 0
    first, *_, last = capfd.readouterr().out.splitlines()
    assert first.startswith("day.mid: 1274:")
    assert last == "  too long: refused unless --max-hours allows more than 3 hours"
    assert cli.run(["info", "day.mid", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["too_long"] is True


@pytest.mark.parametrize("exponent", [-300, -100, -20, -9, -6, -5, -4, -3, 300])
def test_times_of_any_size(
    tiny_model: Path, here: Path, capfd: pytest.CaptureFixture[str], exponent: int
) -> None:
    """Whatever is given, there is a file of the right length, or one line."""
    Path("song.mid").write_bytes(smf(b"\0\x90\x3c\x40\x60\x80\x3c\0"))
    value = f"3e{exponent}"
    for names in (["duration"], ["start"], ["tail"], ["start", "duration"], ["tail", "duration"]):
        options = [word for name in names for word in (f"--{name}", value)]
        arguments = ["song.mid", "-o", "song.wav", "--steps", "1", "--model", str(tiny_model), "-q"]
        code = cli.run([*arguments, *options])
        err = capfd.readouterr().err
        assert (code, err.count("\n")) in ((0, 0), (1, 1))
        is_good = Path("song.wav").exists()
        assert is_good == (code == 0)
        Path("song.wav").unlink(missing_ok=True)
        if exponent < -4 and "duration" in names:
            assert err.endswith(
                "less than one sample, 1/16000 s; choose a longer duration or tail\n"
            )


@pytest.mark.parametrize(
    "options", [{"duration": 0.0}, {"duration": math.nan}, {"start": -1.0}, {"tail": math.inf}]
)
def test_impossible_times_in_python(options: dict[str, float]) -> None:
    with pytest.raises(OptionError, match=f"{next(iter(options))} is .*give it in seconds"):
        part_to_render(Score((), 1.0), RenderOptions(**options))  # type: ignore[arg-type]
