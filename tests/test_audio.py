"""Levels, formats, streams, and what a failed write leaves behind."""

import io
import itertools
import os
import resource
import signal
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
import soundfile

from spectro_render import atomic
from spectro_render.audio import audio, destination, encoders
from spectro_render.audio.audio import Audio, AudioWriter
from spectro_render.audio.encoders import BIT_DEPTHS, FORMATS, check_format, format_of
from spectro_render.audio.limiter import CEILING, LOOK_AHEAD, Limiter
from spectro_render.errors import OptionError, OutputError
from tests.support.processes import run_program

BLOCK = 4000  # samples


@pytest.fixture(scope="module")
def sound() -> np.ndarray:
    """Two seconds of three decaying tones and a little noise, (S,), within [-0.7, 0.7]."""
    time = np.arange(32_000) / 16_000
    tones = sum(np.sin(2 * np.pi * hertz * time) for hertz in (110, 440, 1760))
    noise = np.random.default_rng(0).standard_normal(time.size)
    return (0.2 * tones * np.exp(-time) + 0.01 * noise).astype(np.float32)


def write_blocks(target: object, sound: np.ndarray, **options: object) -> None:
    with AudioWriter(target, **options) as writer:
        for start in range(0, sound.shape[-1], BLOCK):
            writer.write(sound[..., start : start + BLOCK])


# --- limiter ----------------------------------------------------------------------------------


def limited(sound: np.ndarray, gain: float, block: int) -> np.ndarray:
    limiter = Limiter(gain)
    parts = [limiter.push(sound[..., i : i + block]) for i in range(0, sound.shape[-1], block)]
    return np.concatenate([*parts, limiter.flush()], axis=-1)


def test_limiter_is_only_a_gain_where_nothing_is_loud(sound: np.ndarray) -> None:
    np.testing.assert_allclose(limited(sound, -6.0206, BLOCK), sound / 2, atol=1e-6)


def test_limiter_holds_the_ceiling_and_keeps_the_length(sound: np.ndarray) -> None:
    loud = limited(sound, 24.0, BLOCK)
    assert loud.shape == sound.shape
    assert 0.95 * CEILING < np.abs(loud).max() <= CEILING * (1 + 1e-6)


@pytest.mark.parametrize("block", [1, 777, 2 * LOOK_AHEAD, 10_000])
def test_limiter_does_the_same_in_blocks(sound: np.ndarray, block: int) -> None:
    excerpt = sound[:6000]
    whole = limited(excerpt, 18.0, excerpt.size)
    np.testing.assert_allclose(limited(excerpt, 18.0, block), whole, atol=1e-6)


def test_limiter_turns_down_only_near_a_peak() -> None:
    sound = np.full(20_000, 0.1, np.float32)
    sound[10_000] = 4.0
    level = limited(sound, 0.0, BLOCK) / sound
    assert level[10_000] == pytest.approx(CEILING / 4)
    far = np.abs(np.arange(20_000) - 10_000) > 2 * LOOK_AHEAD
    np.testing.assert_array_equal(level[far], 1.0)
    assert np.abs(np.diff(level)).max() < 0.01  # no click


def test_limiter_is_its_definition(sound: np.ndarray) -> None:
    excerpt = sound[..., :40_000].reshape(-1) * 8
    excerpt[:10_000] /= 100  # where nothing is limited
    quiet = np.zeros(2 * LOOK_AHEAD)
    needed = np.concatenate([quiet, np.abs(excerpt), quiet])
    needed = CEILING / np.maximum(needed, CEILING)
    reach = 2 * LOOK_AHEAD + 1
    least = np.lib.stride_tricks.sliding_window_view(needed, reach).min(1)
    window = np.hanning(reach + 2)[1:-1]
    smooth = np.convolve(least, window / window.sum(), mode="valid")
    limiter = Limiter(0.0)
    made = np.concatenate([limiter.push(excerpt), limiter.flush()])
    np.testing.assert_allclose(made, excerpt * smooth, atol=1e-6)


def test_limiter_moves_all_channels_together(sound: np.ndarray) -> None:
    pair = np.stack([sound, sound / 4])
    loud = limited(pair, 18.0, BLOCK)
    np.testing.assert_allclose(loud[1], loud[0] / 4, atol=1e-6)


# --- formats ----------------------------------------------------------------------------------


@pytest.mark.parametrize("depth, step", [("16", 2**-16), ("24", 2**-24), ("float", 0)])
def test_wav_gives_back_what_was_written(
    tmp_path: Path, sound: np.ndarray, depth: str, step: float
) -> None:
    Audio(sound[None]).save(tmp_path / "a.wav", bit_depth=depth, dither=False)
    read, rate = soundfile.read(tmp_path / "a.wav")
    assert rate == 16_000
    np.testing.assert_allclose(read, sound, atol=step + 1e-12)


@pytest.mark.parametrize("depth", BIT_DEPTHS["flac"])
def test_flac_holds_the_samples_of_wav(tmp_path: Path, sound: np.ndarray, depth: str) -> None:
    for name in ("a.wav", "a.flac"):
        Audio(sound[None]).save(tmp_path / name, bit_depth=depth)
    wav, flac = (soundfile.read(tmp_path / name)[0] for name in ("a.wav", "a.flac"))
    np.testing.assert_array_equal(wav, flac)


@pytest.mark.parametrize("format", ["ogg", "opus", "mp3"])
def test_lossy_formats_keep_length_and_most_of_the_sound(
    tmp_path: Path, sound: np.ndarray, format: str
) -> None:
    Audio(sound).save(tmp_path / f"a.{format}")
    read, _ = soundfile.read(tmp_path / f"a.{format}")
    assert read.shape == sound.shape
    assert np.corrcoef(read, sound)[0, 1] > 0.99


@pytest.mark.parametrize("format", [name for name in FORMATS if name != "raw"])
@pytest.mark.parametrize("rate", [8000, 44_100, 48_000])
def test_resampling_in_blocks_keeps_pitch_and_length(
    tmp_path: Path, sound: np.ndarray, format: str, rate: int
) -> None:
    if format == "opus" and rate == 44_100:
        pytest.skip("not a rate of Opus")
    path = tmp_path / f"a.{format}"
    write_blocks(path, sound, format=format, out_rate=rate)
    read, found = soundfile.read(path)
    assert found == rate
    assert abs(read.size - sound.size * rate / 16_000) <= 1
    spectrum = np.abs(np.fft.rfft(read))
    assert np.argmax(spectrum) / read.size * rate in (
        pytest.approx(hertz, abs=1) for hertz in (110, 440, 1760)
    )


def test_channels_stay_apart(tmp_path: Path, sound: np.ndarray) -> None:
    Audio(np.stack([sound, -sound / 2])).save(tmp_path / "a.wav", sample_rate=48_000)
    read, _ = soundfile.read(tmp_path / "a.wav")
    assert read.shape[1] == 2
    np.testing.assert_allclose(read[:, 1], -read[:, 0] / 2, atol=2**-14)


def test_blocks_make_the_same_file_as_the_whole(tmp_path: Path, sound: np.ndarray) -> None:
    for format in ("wav", "flac", "aiff", "raw"):
        whole, blocks = io.BytesIO(), io.BytesIO()
        with AudioWriter(whole, format=format) as writer:
            writer.write(sound)
        write_blocks(blocks, sound, format=format)
        assert whole.getvalue() == blocks.getvalue()


def test_too_loud_samples_are_clipped_and_do_not_wrap(tmp_path: Path) -> None:
    loud = Audio(np.array([2.0, 1.0, -1.0, -2.0], np.float32))
    loud.save(tmp_path / "a.wav", dither=False)
    read, _ = soundfile.read(tmp_path / "a.wav", dtype="int16")
    assert read.tolist() == [32767, 32767, -32768, -32768]


@pytest.mark.parametrize("format", ["wav", "ogg"])
def test_a_sound_of_no_samples_is_a_whole_file(tmp_path: Path, format: str) -> None:
    Audio(np.zeros((1, 0), np.float32)).save(tmp_path / f"a.{format}")
    assert soundfile.info(tmp_path / f"a.{format}").frames == 0


SAVE = """
import sys
import numpy as np
from spectro_render.audio import Audio
format, rate = sys.argv[1], int(sys.argv[2])
Audio(np.zeros((2, 30 * 16_000), np.float32)).save(f"a.{format}", sample_rate=rate)
"""


@pytest.mark.parametrize(
    "format, rate",
    [("ogg", 192_000), ("ogg", 16_000), ("flac", 192_000), ("mp3", 48_000), ("wav", 192_000)],
)
def test_a_long_sound_needs_little_of_the_stack(tmp_path: Path, format: str, rate: int) -> None:
    line = f'ulimit -s 1024; exec "$0" -c "$1" {format} {rate}'
    run_program(["bash", "-c", line, sys.executable, SAVE], cwd=tmp_path, check=True)
    assert soundfile.info(tmp_path / f"a.{format}").duration == pytest.approx(30, abs=0.1)


def test_encoders_get_short_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    write = encoders._PcmEncoder.write

    def counting(self: Any, frames: np.ndarray) -> None:
        sizes.append(len(frames))
        write(self, frames)

    monkeypatch.setattr(encoders._PcmEncoder, "write", counting)
    file = io.BytesIO()
    long = np.zeros(3 * encoders.MAX_FRAMES + 1, np.float32)
    with AudioWriter(file, format="raw", sample_rate=8000, out_rate=192_000) as writer:
        writer.write(long)
    assert max(sizes) == encoders.MAX_FRAMES
    assert len(file.getvalue()) == 2 * sum(sizes) == pytest.approx(2 * 24 * long.size, abs=2)


def test_audio_knows_its_length() -> None:
    assert Audio(np.zeros((2, 8000), np.float32)).seconds == 0.5


@pytest.mark.parametrize(
    "format, depth, rate, said",
    [
        (
            "au",
            None,
            16_000,
            "unknown format 'au'; use one of wav, flac, aiff, ogg,",
        ),
        (
            "opus",
            None,
            44_100,
            "opus cannot hold a sample rate of 44100 Hz; use one of 8000",
        ),
        ("aiff", "8", 16_000, "aiff cannot hold a bit depth of 8; use one of 16, 24, float"),
        ("flac", "float", 16_000, "flac cannot hold a bit depth of float; use one of 16, 24"),
        ("mp3", "16", 16_000, "mp3 cannot hold a bit depth of 16; leave the bit depth out"),
        ("wav", "8", 16_000, "wav cannot hold a bit depth of 8; use one of 16, 24, float"),
        ("mp3", None, 96_000, "mp3 cannot hold a sample rate of 96000 Hz"),
        ("flac", None, 191_999, "flac cannot hold a sample rate of 191999 Hz; use a multiple of"),
        ("wav", None, 0, "a sample rate of 0 Hz is not supported; use 8000 to 192000"),
    ],
)
def test_impossible_formats_are_refused(
    format: str, depth: str | None, rate: int, said: str
) -> None:
    with pytest.raises(OptionError) as caught:
        check_format(format, depth, rate)
    assert str(caught.value).startswith(said)


def test_a_rate_of_zero_is_not_the_default() -> None:
    with pytest.raises(OptionError, match="a sample rate of 0 Hz is not supported"):
        AudioWriter(io.BytesIO(), out_rate=0)


def test_the_suffix_says_the_format() -> None:
    assert format_of("a/b.FLAC") == "flac"
    with pytest.raises(OptionError, match=r"unknown audio suffix \.xyz; use one of \.wav, \.flac"):
        format_of("song.xyz")
    assert format_of("a.aif") == "aiff"
    with pytest.raises(OptionError, match=r"song.m4a: \.m4a files are not written here; use -o - "):
        format_of("song.m4a")
    with pytest.raises(OptionError, match="without a suffix the audio format is unknown"):
        format_of("song")


# --- streams ----------------------------------------------------------------------------------


class Pipe(io.RawIOBase):
    """Takes bytes and cannot go back, like a pipe."""

    def __init__(self) -> None:
        super().__init__()
        self.taken = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:
        self.taken += data
        return len(data)


def test_wav_to_a_pipe_says_that_its_length_is_unknown(sound: np.ndarray) -> None:
    pipe = Pipe()
    write_blocks(pipe, sound, dither=False)
    assert struct.unpack_from("<I", pipe.taken, 4) == (0x7FFFF000 + 36,)
    assert struct.unpack_from("<I", pipe.taken, 40) == (0x7FFFF000,)
    read, _ = soundfile.read(io.BytesIO(bytes(pipe.taken)))
    np.testing.assert_allclose(read, sound, atol=2**-16)


@pytest.mark.parametrize("rate", [16_000, 44_100, 8000])
@pytest.mark.parametrize("depth", ["16", "24", "float"])
@pytest.mark.parametrize("format", ["wav", "aiff"])
def test_a_known_length_is_in_the_header_of_a_stream(
    sound: np.ndarray, format: str, depth: str, rate: int
) -> None:
    """With the first samples in one write."""
    pipe, file = Pipe(), io.BytesIO()
    options = {"format": format, "bit_depth": depth, "out_rate": rate}
    with AudioWriter(pipe, length=sound.size, **options) as writer:
        writer.write(sound[:0])
        assert pipe.taken == b""
        writer.write(sound)
        assert len(pipe.taken) > 256
    write_blocks(file, sound, **options)
    assert bytes(pipe.taken) == file.getvalue()


@pytest.mark.parametrize("depth", ["16", "24", "float"])
def test_aiff_holds_the_samples_of_wav(tmp_path: Path, sound: np.ndarray, depth: str) -> None:
    for name in ("a.wav", "a.aif"):
        Audio(np.stack([sound, -sound])).save(tmp_path / name, bit_depth=depth, sample_rate=44_100)
    (wav, _), (aiff, rate) = (soundfile.read(tmp_path / name) for name in ("a.wav", "a.aif"))
    assert rate == 44_100 and soundfile.info(tmp_path / "a.aif").format == "AIFF"
    np.testing.assert_array_equal(wav, aiff)


@pytest.mark.parametrize("format", ["ogg", "opus", "mp3"])
def test_quality_makes_larger_files(sound: np.ndarray, format: str) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 32_000).astype(np.float32)
    sizes = []
    for quality in (0, 5, 10):
        file = io.BytesIO()
        write_blocks(file, noise, format=format, quality=quality)
        sizes.append(len(file.getvalue()))
    assert sizes[0] < sizes[1] < sizes[2]


def test_quality_is_for_lossy_formats() -> None:
    with pytest.raises(OptionError, match="flac has no quality, as it loses nothing; use it for"):
        check_format("flac", None, 16_000, 5)
    with pytest.raises(OptionError, match="a quality of 11 is not supported; use 0 to 10"):
        check_format("mp3", None, 16_000, 11)


@pytest.mark.parametrize("format", ["flac", "ogg", "opus", "mp3"])
def test_through_a_pipe_only_the_header_differs(sound: np.ndarray, format: str) -> None:
    pipe, file = Pipe(), io.BytesIO()
    write_blocks(pipe, sound, format=format)
    write_blocks(file, sound, format=format)
    header = 400  # bytes, at most
    assert len(pipe.taken) == len(file.getvalue()) > 2 * header
    if format not in ("ogg", "opus"):  # each Ogg stream has a random number on every page
        assert pipe.taken[header:] == file.getvalue()[header:]


def test_every_block_is_passed_on_at_once(sound: np.ndarray) -> None:
    pipe = Pipe()
    buffered = io.BufferedWriter(pipe, 1 << 20)
    with AudioWriter(buffered, format="raw", bit_depth="float") as writer:
        writer.write(sound[:1000])
        assert len(pipe.taken) == 4000


def test_raw_samples_are_little_endian() -> None:
    sixteen, twenty_four = io.BytesIO(), io.BytesIO()
    half = np.array([0.5, -0.5], np.float32)
    write_blocks(sixteen, half, format="raw")
    write_blocks(twenty_four, half, format="raw", bit_depth="24")
    assert sixteen.getvalue() == struct.pack("<2h", 16384, -16384)
    assert twenty_four.getvalue() == b"\x00\x00\x40\x00\x00\xc0"


def test_what_is_appended_to_keeps_its_beginning(tmp_path: Path, sound: np.ndarray) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"before")
    with path.open("ab") as file:
        write_blocks(file, sound)
    assert path.read_bytes()[:10] == b"beforeRIFF"


# --- files ------------------------------------------------------------------------------------


def test_a_file_has_its_name_only_when_complete(tmp_path: Path, sound: np.ndarray) -> None:
    path = tmp_path / "a.wav"
    with AudioWriter(path) as writer:
        writer.write(sound)
        assert not path.exists()
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.wav"]


def test_an_exception_leaves_what_was_there(tmp_path: Path, sound: np.ndarray) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(b"before")
    with pytest.raises(KeyboardInterrupt), AudioWriter(path) as writer:
        writer.write(sound)
        raise KeyboardInterrupt
    assert path.read_bytes() == b"before"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.wav"]


MAKES_FILES = {destination.__file__, atomic.__file__}
MAKES_SOUND = {audio.__file__, encoders.__file__, soundfile.__file__}


@contextmanager
def stopped_at(step: int, files: set[str], stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop` at a bytecode instruction of these files' code, counted as it runs."""
    steps = itertools.count()

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if frame.f_code.co_filename not in files:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode" and next(steps) == step:
            stop()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt, even where the tests were started with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # what nobody had yet, Python closes
def test_an_interruption_at_any_step_leaves_no_half_file(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    for step in itertools.count():
        path.write_bytes(b"older")
        try:
            with stopped_at(step, MAKES_FILES, partial(signal.raise_signal, signal.SIGINT)):
                output = destination.open_destination(path)
                output.write(b"sound")
                output.commit()
            break
        except KeyboardInterrupt:
            atomic.NewFile.discard_all()
        assert list(tmp_path.iterdir()) == [path]
        assert path.read_bytes() in (b"older", b"sound")
    assert step > 200
    assert path.read_bytes() == b"sound" and not atomic.NewFile._unfinished


@pytest.mark.usefixtures("interruptible")
@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # what nobody had yet, Python closes
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("is_file", [True, False])
def test_a_signal_at_any_step_ends_the_writing(
    tmp_path: Path, sound: np.ndarray, format: str, is_file: bool
) -> None:
    """At 200 moments: it is never lost, as an exception in a callback of libsndfile would be."""
    path = tmp_path / "a.sound"
    files = MAKES_FILES | MAKES_SOUND

    def exit_program(number: int, frame: FrameType | None) -> None:
        raise SystemExit

    def write() -> bytes:
        target = path if is_file else Pipe()
        with AudioWriter(target, format=format, out_rate=8000) as writer:
            writer.write(sound[:1000])
            writer.write(sound[1000:2000])
        return path.read_bytes() if isinstance(target, Path) else bytes(target.taken)

    seen = []
    total = count_steps(files, write)
    before = signal.signal(signal.SIGTERM, exit_program)
    try:
        for number, step in enumerate(np.linspace(0, total - 100, 200).astype(int)):
            path.write_bytes(b"older")
            kind = (signal.SIGINT, signal.SIGTERM)[number % 2]
            try:
                with stopped_at(step, files, partial(signal.raise_signal, kind)):
                    seen.append(write())
            except (KeyboardInterrupt, SystemExit):
                atomic.NewFile.discard_all()
            assert list(tmp_path.iterdir()) == [path]
            assert path.read_bytes() == b"older"
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == []


def count_steps(files: set[str], call: Callable[[], object]) -> int:
    """The number of bytecode instructions of these files' code that a call runs here."""
    total = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal total
        if frame.f_code.co_filename not in files:
            return None
        frame.f_trace_opcodes = True
        total += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return total


def test_the_end_of_the_program_leaves_no_half_file(tmp_path: Path) -> None:
    begin = (
        "from spectro_render.audio.destination import open_destination; open_destination('a.wav')"
    )
    run_program([sys.executable, "-c", begin], cwd=tmp_path, check=True)
    assert list(tmp_path.iterdir()) == []


def test_a_link_stays_a_link(tmp_path: Path, sound: np.ndarray) -> None:
    (tmp_path / "link.wav").symlink_to(tmp_path / "real.wav")
    Audio(sound).save(tmp_path / "link.wav")
    assert (tmp_path / "link.wav").is_symlink()
    assert soundfile.info(tmp_path / "real.wav").frames == sound.size


@pytest.mark.parametrize("format", FORMATS)
def test_a_device_is_written_to_and_not_replaced(sound: np.ndarray, format: str) -> None:
    write_blocks(os.devnull, sound, format=format)
    assert not Path(os.devnull).is_file()


@pytest.mark.parametrize(
    "name, said",
    [
        ("", "is a folder; name a file"),
        ("missing/a.wav", "no such file or directory; make the folder first"),
        ("file/a.wav", "not a directory; its parent is a file"),
        ("a" * 300 + ".wav", "file name too long; choose a shorter name"),
    ],
)
def test_places_that_cannot_be_written(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=said):
        AudioWriter(tmp_path / name)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux only")
@pytest.mark.parametrize("format", FORMATS)
def test_a_full_disk_is_an_output_error(
    sound: np.ndarray, format: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(OutputError, match="/dev/full: cannot write: no space left on device; free"):
        write_blocks("/dev/full", np.tile(sound, 4), format=format)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("format", FORMATS)
def test_a_file_that_may_not_grow_is_removed(tmp_path: Path, format: str) -> None:
    noise = np.random.default_rng(0).uniform(-0.9, 0.9, 160_000).astype(np.float32)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16_000, hard))
    try:
        with pytest.raises(OutputError, match="cannot write: file too large;"):
            Audio(noise).save(tmp_path / f"a.{format}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_a_closed_pipe_stays_a_closed_pipe(sound: np.ndarray) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with (
        open(writing, "wb", buffering=0) as pipe,
        pytest.raises(BrokenPipeError),
    ):
        write_blocks(pipe, sound)


def test_what_is_not_a_number_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="not numbers; check the weights"):
        Audio(np.array([0.0, np.nan], np.float32)).save(tmp_path / "a.wav")
    assert list(tmp_path.iterdir()) == []
