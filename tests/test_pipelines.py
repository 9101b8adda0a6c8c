"""The program between other programs: SoX, FFmpeg, find and readers that are slow or go away."""

import json
import os
import re
import shlex
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from spectro_render.audio.audio import AudioWriter
from tests.support.processes import (
    LIMIT,
    PIPE,
    CompletedProcess,
    is_idle,
    run_program,
    start_program,
    usage,
    wait_until,
)
from tests.support.songs import MakeSong

Shell = Callable[..., CompletedProcess]

needs_ffmpeg = pytest.mark.skipif(not shutil.which("ffmpeg"), reason="ffmpeg is not installed")
needs_sox = pytest.mark.skipif(not shutil.which("sox"), reason="sox is not installed")
needs_proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux only")

FFMPEG = "ffmpeg -v error"


@pytest.fixture
def shell(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    """Runs a line of bash in a folder of its own; `render` is the program with a tiny model."""
    monkeypatch.chdir(tmp_path)
    program = [sys.executable, "-m", "spectro_render", "--model", str(tiny_model)]
    (tmp_path / "render").write_text(f'#!/bin/sh\nexec {shlex.join(program)} "$@"\n')
    (tmp_path / "render").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    def run(line: str) -> CompletedProcess:
        script = f"set -o pipefail; {line}"
        return run_program(["bash", "-c", script], capture_output=True, text=True)

    return run


def raw_samples(path: str) -> np.ndarray:
    """The 16-bit samples that some program wrote to `path`, (S,)."""
    return np.fromfile(path, "<i2")


# --- the sound of a pipe, read by others --------------------------------------------------------


@needs_ffmpeg
def test_standard_input_to_mp3_by_ffmpeg(shell: Shell, song: MakeSong) -> None:
    song("a.mid", seconds=1)
    done = shell(f"cat a.mid | render - -o - -q | {FFMPEG} -i - a.mp3")
    assert (done.returncode, done.stdout) == (0, "")
    assert soundfile.info("a.mp3").samplerate == 16_000
    assert soundfile.info("a.mp3").duration == pytest.approx(3.5, abs=0.15)  # MP3 pads its ends


@needs_ffmpeg
@needs_sox
def test_raw_samples_for_what_plays_s16le(shell: Shell, song: MakeSong) -> None:
    song("a.mid", seconds=1)
    done = shell(
        "render a.mid -o - --raw -q"
        f" | tee >({FFMPEG} -f s16le -ar 16000 -ac 1 -i - -f s16le by_ffmpeg.raw)"
        " | tee ours.raw | sox -t raw -r 16000 -e signed-integer -b 16 -L -c 1 - by_sox.wav; wait"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    expected = raw_samples("ours.raw")
    assert expected.size == 3.5 * 16_000
    np.testing.assert_array_equal(soundfile.read("by_sox.wav", dtype="int16")[0], expected)
    np.testing.assert_array_equal(raw_samples("by_ffmpeg.raw"), expected)


def write_pattern(path: str, **options: str) -> np.ndarray:
    """Write noise to a pipe, and what comes out of it to `path`; the samples, (S,)."""
    sound = np.random.default_rng(0).integers(-(2**15), 2**15, 20_011).astype(np.int16)
    with open(path, "wb") as file, start_program(["cat"], stdin=PIPE, stdout=file) as cat:
        assert cat.stdin is not None
        with AudioWriter(cat.stdin, dither=False, **options) as writer:
            writer.write(sound.astype(np.float32) / 2**15)
        cat.communicate(timeout=LIMIT)
    return sound


@needs_sox
@pytest.mark.parametrize("depth", ["16", "24", "float"])
@pytest.mark.parametrize("source", ["cat a.wav | sox -t wav -", "sox a.wav"])
def test_wav_of_unknown_length_is_nothing_odd_to_sox(shell: Shell, depth: str, source: str) -> None:
    sound = write_pattern("a.wav", bit_depth=depth)
    done = shell(f"{source} -D -t raw -e signed-integer -b 16 a.raw")
    assert (done.returncode, done.stderr) == (0, "")
    assert np.abs(raw_samples("a.raw").astype(int) - sound).max() <= 1


@needs_ffmpeg
@needs_sox
@pytest.mark.parametrize("format", ["wav", "aiff"])
def test_a_stream_whose_length_is_known_is_like_a_file(
    shell: Shell, song: MakeSong, format: str
) -> None:
    """SoX finds the header in its first read, without a type, and FFmpeg warns of nothing."""
    song("a.mid", seconds=1)
    done = shell(
        f"render a.mid -o - --format {format} --tail 2 -q | tee >(cat > copy) | sox - -n stat"
    )
    assert done.returncode == 0 and "WARN" not in done.stderr
    assert re.search(r"Length \(seconds\): +3\.000000", done.stderr)
    done = shell("cat copy | ffmpeg -v warning -guess_layout_max 0 -i - -f null -")
    assert (done.returncode, done.stderr) == (0, "")


@needs_ffmpeg
@pytest.mark.parametrize("depth", ["16", "24", "float"])
@pytest.mark.parametrize("source", ["cat a.wav | ffmpeg -i -", "ffmpeg -i a.wav"])
def test_wav_of_unknown_length_is_whole_to_ffmpeg(shell: Shell, depth: str, source: str) -> None:
    """It calls the last packet of such a stream corrupt, its own too; of the header it is quiet."""
    sound = write_pattern("a.wav", bit_depth=depth)
    done = shell(f"{source} -v warning -f s16le a.raw")
    assert done.returncode == 0
    assert "may be invalid" not in done.stderr
    assert np.abs(raw_samples("a.raw").astype(int) - sound).max() <= 1


@pytest.mark.parametrize("depth", ["16", "24", "float"])
def test_wav_of_unknown_length_is_whole_to_libsndfile(shell: Shell, depth: str) -> None:
    sound = write_pattern("a.wav", bit_depth=depth)
    read, rate = soundfile.read("a.wav", dtype="float32")
    assert rate == 16_000
    np.testing.assert_allclose(read, sound / 2**15, atol=2**-20)


@needs_ffmpeg
@pytest.mark.parametrize("format", ["flac", "ogg", "mp3"])
def test_compressed_streams_are_whole_to_ffmpeg(shell: Shell, format: str) -> None:
    sound = write_pattern("a.stream", format=format)
    assert shell("cat a.stream | ffmpeg -i - -v warning -f s16le a.raw").returncode == 0
    assert 0 <= raw_samples("a.raw").size - sound.size < 3000  # samples: MP3 pads its ends


# --- readers ------------------------------------------------------------------------------------


@needs_sox
def test_a_player_that_stops_early_ends_us_quietly(shell: Shell, song: MakeSong) -> None:
    song("a.mid", seconds=20)
    sox = "sox -V1 -t wav - -n trim 0 0.1"  # and leaves when it has that much
    done = shell(f"render a.mid -o - --json | {sox}; echo ${{PIPESTATUS[0]}}")
    assert (done.stdout, done.stderr) == ("141\n", "")


@needs_proc
def test_a_slow_reader_is_waited_for_in_the_same_memory(song: MakeSong, tiny_model: Path) -> None:
    """24 windows, 8 MB, for one who reads a byte and sleeps: no more is rendered meanwhile."""
    path = song("a.mid", seconds=120)
    command = [sys.executable, "-m", "spectro_render", path.name, "-o", "-", "--raw", "-q"]
    command += ["--bit-depth", "float", "--model", str(tiny_model)]
    with start_program(command, stdout=PIPE, cwd=path.parent) as process:
        assert process.stdout is not None
        size = len(process.stdout.read(1))
        wait_until(lambda: is_idle(process.pid), process)
        full = usage(process.pid)
        time.sleep(1)
        done = waited = usage(process.pid)
        for block in iter(lambda: process.stdout.read1(1 << 16), b""):
            size += len(block)
            done = usage(process.pid) or done
        process.wait(LIMIT)
    assert (process.returncode, size) == (0, 122.5 * 16_000 * 4)
    assert full and waited and done
    assert waited == full
    assert done.cpu_seconds > full.cpu_seconds + 0.3  # most of the song was still to be rendered
    assert done.peak_memory < full.peak_memory + 100e6


# --- names and words ----------------------------------------------------------------------------


def test_names_from_find_by_xargs(shell: Shell, song: MakeSong) -> None:
    names = ("in/a song.mid", "in/-q.mid", "in/deep/two\nlines.mid", "in/d\u00e9j\u00e0 'vu'.mid")
    for name in names:
        song(name, seconds=1)
    done = shell("find in -name '*.mid' -print0 | xargs -0 render -q")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    for name in names:
        assert soundfile.info(Path(name).with_suffix(".wav")).duration == 3.5


def test_only_sound_is_on_standard_output(shell: Shell, song: MakeSong) -> None:
    whole = song("whole.mid", seconds=1).read_bytes()
    Path("cut.mid").write_bytes(whole[:-8])  # is repaired, and that is said
    done = shell("render cut.mid -o - --json --no-tags | cat > a.wav")
    assert done.returncode == 0
    assert Path("a.wav").stat().st_size == 44 + 2 * 16_000 * 3.5  # a header and samples, no more
    assert soundfile.info("a.wav").duration == 3.5
    *said, record = done.stderr.splitlines()
    assert said and all(line.startswith("spectro-render: cut.mid") for line in said)
    assert json.loads(record)["output"] == "-"


def test_nothing_is_on_standard_output_where_there_is_no_sound(shell: Shell) -> None:
    done = shell("echo no music | render - --json")
    assert (done.returncode, done.stdout) == (1, "")
    said, record = done.stderr.splitlines()
    assert said.startswith("spectro-render: -: not a MIDI file")
    assert json.loads(record)["status"] == "failed"
