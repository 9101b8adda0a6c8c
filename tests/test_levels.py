"""The level of sound: loudness and true peak, normalizing files, pipes and albums, and dither."""

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyloudnorm
import pytest
import soundfile
import soxr

import spectro_render as sr
from spectro_render.audio.audio import Audio, AudioWriter
from spectro_render.audio.loudness import LoudnessMeter
from spectro_render.audio.normalize import (
    HIGHEST_PEAK,
    NormalizingWriter,
    album_gain,
    choose_gain,
    normalize,
    parse_level,
)
from spectro_render.cli import app as cli
from spectro_render.errors import OptionError, OutputError
from spectro_render.options import Level
from tests.support.processes import PIPE, run_program
from tests.support.songs import MakeSong

RATE = 16_000


def hits(seconds: float, channels: int = 1, rate: int = RATE) -> np.ndarray:
    """Noise that dies away twice a second, over a soft tone: high peaks for its loudness."""
    random = np.random.default_rng(0)
    time = np.arange(round(seconds * rate)) / rate
    noise = random.standard_normal((channels, len(time))) * np.exp(-20 * (time % 0.5))
    return (0.2 * noise + 0.03 * np.sin(2 * np.pi * 220 * time)).astype(np.float32)


def meter_of(samples: np.ndarray, rate: int = RATE, block: int = 5000) -> LoudnessMeter:
    meter = LoudnessMeter(rate, len(samples))
    for begin in range(0, samples.shape[1], block):
        meter.push(samples[:, begin : begin + block])
    meter.push(samples[:, :0], last=True)
    return meter


# --- measuring --------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [16_000, 44_100, 48_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_loudness_is_that_of_pyloudnorm(rate: int, channels: int) -> None:
    """At 48 kHz, for which the standard gives its filters; at lower rates pyloudnorm's are bent."""
    sound = hits(6, channels, rate) * np.linspace(0, 1, 6 * rate, dtype=np.float32) ** 3
    frames = soxr.resample(sound.T, rate, 48_000).astype(np.float64)
    expected = pyloudnorm.Meter(48_000).integrated_loudness(frames)
    assert meter_of(sound, rate).integrated == pytest.approx(expected, abs=0.06)


def test_loudness_of_a_sine() -> None:
    """By definition, 997 Hz at full scale in one channel are -3.01 LUFS."""
    sine = np.sin(2 * np.pi * 997 * np.arange(3 * 48_000) / 48_000).astype(np.float32)[None]
    assert meter_of(sine, 48_000).integrated == pytest.approx(-3.01, abs=0.01)


def test_true_peak_lies_between_samples() -> None:
    """A sine whose samples all miss its peaks by 3 dB."""
    time = np.arange(2 * RATE)
    fade = np.hanning(2 * RATE)
    sine = (fade * np.sin(np.pi / 2 * time + np.pi / 4)).astype(np.float32)[None]
    assert 20 * np.log10(np.abs(sine).max()) == pytest.approx(-3.01, abs=0.01)
    assert meter_of(sine).true_peak == pytest.approx(0.0, abs=0.05)


def test_blocks_make_no_difference() -> None:
    whole, parts = meter_of(hits(2), block=1 << 20), meter_of(hits(2), block=777)
    assert whole.integrated == pytest.approx(parts.integrated, abs=1e-6)
    assert whole.true_peak == pytest.approx(parts.true_peak, abs=1e-4)


def test_blocks_without_samples_make_no_difference() -> None:
    """A song's first part may have none."""
    sound = hits(3, channels=2)
    meter, empty = LoudnessMeter(RATE, 2), np.zeros((2, 0), np.float32)
    for block in (empty, sound[:, :1000], empty, empty, sound[:, 1000:], empty):
        meter.push(block)
    meter.push(empty, last=True)
    expected = meter_of(sound)
    assert meter.integrated == pytest.approx(expected.integrated, abs=1e-6)
    assert meter.true_peak == pytest.approx(expected.true_peak, abs=1e-4)


# --- normalizing ------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("level", ["peak", "peak:-6", "lufs", "lufs:-30", "lufs:-20"])
def test_sound_gets_its_level(channels: int, level: str) -> None:
    audio = normalize(Audio(hits(4, channels)), level)
    assert audio.samples.shape == (channels, 4 * RATE)
    result, chosen = meter_of(audio.samples), parse_level(level)
    assert chosen is not None
    if chosen.kind == "peak":
        assert result.true_peak == pytest.approx(chosen.target, abs=0.01)
    else:
        assert result.integrated == pytest.approx(chosen.target, abs=0.15)
        assert result.true_peak <= HIGHEST_PEAK + 0.01


def test_a_loudness_that_peaks_do_not_allow() -> None:
    file = io.BytesIO()
    with NormalizingWriter(AudioWriter(file), Level("lufs", -5.0), sample_rate=RATE) as writer:
        writer.write(hits(4))
    assert writer.result is not None
    assert writer.result.remark == "the peaks leave no room for more"
    assert writer.result.true_peak <= HIGHEST_PEAK + 0.05


@pytest.mark.parametrize(("target", "most"), [(-16.0, 5), (-12.0, 5), (-9.0, 3), (-5.0, 3)])
def test_sound_is_measured_few_times(target: float, most: int) -> None:
    """... where its peaks are limited, whether there is room for the loudness or not."""
    sound, reads = hits(4), 0

    def blocks() -> Iterator[np.ndarray]:
        nonlocal reads
        reads += 1
        yield sound

    choose_gain(Level("lufs", target), meter_of(sound), blocks, RATE)
    assert 1 <= reads <= most


def test_a_file_is_as_loud_as_sound_in_memory(tmp_path: Path) -> None:
    sound = hits(4, 2)
    file = io.BytesIO()
    encoder = AudioWriter(file, channels=2, bit_depth="float")
    with NormalizingWriter(encoder, Level("lufs", -23.0), sample_rate=RATE) as writer:
        for begin in range(0, sound.shape[1], 6000):
            writer.write(sound[:, begin : begin + 6000])
    file.seek(0)
    written, _ = soundfile.read(file, always_2d=True)
    expected = normalize(Audio(sound), "lufs:-23").samples.T
    assert np.abs(written - expected).max() < 1e-3


@pytest.mark.parametrize(
    ("sound", "remark"),
    [
        (np.zeros((1, RATE), np.float32), "silent"),
        (hits(0.3), "loudness is not defined"),
        (hits(2) * np.float32(1e-5), "loudness is not defined"),
    ],
)
def test_sound_without_a_loudness_keeps_its_level(sound: np.ndarray, remark: str) -> None:
    file = io.BytesIO()
    encoder = AudioWriter(file, bit_depth="float")
    with NormalizingWriter(encoder, Level("lufs", -23.0), sample_rate=RATE) as writer:
        writer.write(sound)
    assert writer.result is not None and remark in writer.result.remark
    file.seek(0)
    assert np.array_equal(soundfile.read(file, dtype="float32")[0], sound[0])


def test_sound_without_samples() -> None:
    with NormalizingWriter(AudioWriter(io.BytesIO()), Level("peak", -1.0), sample_rate=RATE):
        pass


def test_values_that_are_no_numbers(tmp_path: Path) -> None:
    encoder = AudioWriter(tmp_path / "a.wav")
    with (
        pytest.raises(OutputError, match="not numbers"),
        NormalizingWriter(
            encoder, Level("peak", -1.0), sample_rate=RATE, folder=tmp_path
        ) as writer,
    ):
        writer.write(np.array([[0.0, np.nan]], np.float32))
    assert list(tmp_path.iterdir()) == []


def test_peaks_are_limited_alike_at_all_rates() -> None:
    """The limiter looks ahead by 30 ms: a peak lowers what comes that long before it."""
    for rate in (16_000, 48_000):
        sound = np.full((1, 4 * rate), 0.05, np.float32)
        sound *= np.sin(2 * np.pi * 997 * np.arange(4 * rate) / rate).astype(np.float32)
        sound[:, 2 * rate : 2 * rate + 40] *= 10
        result = normalize(Audio(sound, rate), "lufs:-13").samples[0]
        plain = np.abs(result[rate : rate + 1000]).max()
        shares = [
            np.abs(result[2 * rate - round(ms * rate / 1000) :][: rate // 250]).max() / plain
            for ms in (100, 20)
        ]
        assert shares[0] == pytest.approx(1.0, abs=0.01) and shares[1] < 0.9


def test_an_album_keeps_its_balance() -> None:
    sounds, files = (hits(3), hits(3) * np.float32(0.1)), (io.BytesIO(), io.BytesIO())
    level = Level("album", -30.0)
    writers = [
        NormalizingWriter(AudioWriter(file, bit_depth="float"), level, sample_rate=RATE)
        for file in files
    ]
    for writer, sound in zip(writers, sounds, strict=True):
        writer.write(sound)
        writer.close()
    gain, remark = album_gain(level, writers)
    assert remark == ""
    for writer in writers:
        writer.finish_album(gain, remark)
    loud, soft = (writer.result.loudness for writer in writers)  # type: ignore[union-attr]
    assert loud - soft == pytest.approx(20.0, abs=0.01)  # type: ignore[operator]
    assert album_gain(Level("album", -5.0), writers)[1].startswith("the highest peak")


@pytest.mark.parametrize(
    "text", ["loud", "lufs:", "lufs:x", "lufs:nan", "lufs:0", "lufs:-71", "peak:1", "peak:-inf", ""]
)
def test_levels_that_are_none(text: str) -> None:
    with pytest.raises(OptionError):
        parse_level(text)


# --- dither -----------------------------------------------------------------------------------


def as_16_bits(sound: np.ndarray, **options: object) -> np.ndarray:
    file = io.BytesIO()
    with AudioWriter(file, format="raw", **options) as writer:  # type: ignore[arg-type]
        for begin in range(0, sound.shape[-1], 7000):
            writer.write(sound[..., begin : begin + 7000])
    return np.frombuffer(file.getvalue(), "<i2")


def test_dither_carries_what_is_softer_than_a_step() -> None:
    """A tone of a third of a step is silence when it is rounded; dithered, it is there."""
    tone = np.sin(2 * np.pi * 500 * np.arange(RATE) / RATE) / 3 * 2.0**-15
    plain = as_16_bits(tone.astype(np.float32), dither=False)
    assert not plain.any()
    dithered = as_16_bits(tone.astype(np.float32))
    share = 2 * np.dot(dithered, tone) / np.dot(tone, tone) / 2 * 2.0**-15
    assert share == pytest.approx(1.0, abs=0.1)


def test_the_error_of_dither_does_not_depend_on_the_sound() -> None:
    """TPDF: its mean is 0 and its power a quarter of a step squared, whatever is rounded."""
    for offset in (0.1, 0.25, 0.5):
        level = np.full(50_000, offset * 2.0**-15, np.float32)
        error = as_16_bits(level) - offset
        assert error.mean() == pytest.approx(0.0, abs=0.01)
        assert np.square(error).mean() == pytest.approx(0.25, abs=0.02)


def test_dither_is_the_same_again_and_in_all_formats(tmp_path: Path) -> None:
    sound = hits(1)[0]
    for name in ("a.wav", "b.wav", "c.flac"):
        Audio(sound).save(tmp_path / name)
    first = (tmp_path / "a.wav").read_bytes()
    assert first == (tmp_path / "b.wav").read_bytes()
    wav, flac = (soundfile.read(tmp_path / name, dtype="int16")[0] for name in ("a.wav", "c.flac"))
    assert np.array_equal(wav, flac) and np.array_equal(wav, as_16_bits(sound))
    assert np.abs(wav - as_16_bits(sound, dither=False)).max() <= 1 + 1


def test_silence_and_other_depths_are_not_dithered(tmp_path: Path) -> None:
    assert not as_16_bits(np.zeros((2, 1000), np.float32), channels=2).any()
    sound = hits(1)[0]
    for dither in (True, False):
        Audio(sound).save(tmp_path / f"{dither}.wav", bit_depth="24", dither=dither)
    assert (tmp_path / "True.wav").read_bytes() == (tmp_path / "False.wav").read_bytes()


# --- the command ------------------------------------------------------------------------------


def test_songs_of_a_batch(
    song: MakeSong, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capfd: object
) -> None:
    monkeypatch.chdir(tmp_path)
    song("in/a.mid", seconds=2)
    song("in/b.mid", seconds=4)

    def render(*options: str) -> dict[str, dict[str, object]]:
        Path("log").write_text("")
        arguments = ["in", "-o", "out", "--steps", "1", "--json", "--model", str(tiny_model)]
        assert cli.run([*arguments, *options]) == 0
        lines = capfd.readouterr().out.splitlines()  # type: ignore[attr-defined]
        return {Path(facts["input"]).stem: facts for facts in map(json.loads, lines)}

    for facts in render("--normalize", "peak:-3").values():
        assert facts["level"]["true_peak"] == pytest.approx(-3.0, abs=0.05)  # type: ignore[index]
    peaks = {path.name: np.abs(soundfile.read(path)[0]).max() for path in Path("out").glob("*.wav")}
    assert all(0.6 < peak <= 0.71 for peak in peaks.values())
    assert {each["status"] for each in render("--normalize", "peak:-3").values()} == {"skipped"}
    one_process = {path: path.read_bytes() for path in Path("out").glob("*.wav")}
    render("--normalize", "peak:-3", "--force", "--workers", "2")
    assert one_process == {path: path.read_bytes() for path in Path("out").glob("*.wav")}
    for _ in range(2):  # an album is made as a whole
        album = render("--normalize", "album:-30")
        gains = {facts["level"]["gain"] for facts in album.values()}  # type: ignore[index]
        assert len(gains) == 1
    assert sorted(path.name for path in Path("out").iterdir() if path.name[0] != ".") == [
        "a.wav",
        "b.wav",
    ]
    for options in (["--workers", "2"], ["--engine", "ray"]):
        assert cli.run(["in", "-o", "out", "--normalize", "album", *options]) == 2
    assert cli.run(["in", "-o", "out", "--normalize", "loud"]) == 2


def test_a_stream_is_written_when_its_level_is_known(
    song: MakeSong, tmp_path: Path, tiny_model: Path
) -> None:
    song(seconds=2)
    arguments = ["song.mid", "-o", "-", "--normalize", "lufs:-30", "--steps", "1"]
    command = [sys.executable, "-m", "spectro_render", *arguments, "--model", str(tiny_model)]
    done = run_program(command, cwd=tmp_path, stdout=PIPE, stderr=PIPE)
    assert done.returncode == 0
    assert b"the sound is written when the song is complete" in done.stderr
    sound, rate = soundfile.read(io.BytesIO(done.stdout), dtype="float32")
    assert meter_of(sound[None], rate).integrated == pytest.approx(-30.0, abs=0.2)


def test_without_limits_the_sound_is_the_same(song: MakeSong, tiny_model: Path) -> None:
    """Only the limiter differs, which soft sound does not reach."""
    renderer = sr.Renderer.load(tiny_model)
    limited, free = (renderer.begin(song(), gain=-60.0, steps=1) for _ in range(2))
    free.sound.leave_peaks()
    parts = [renderer.advance([each])[0].samples for each in (limited, free)]
    assert np.array_equal(*parts)
