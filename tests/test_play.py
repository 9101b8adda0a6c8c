"""Sound on a device of this machine: ALSA's plugin for files takes the place of the hardware."""

import json
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from spectro_render.cli import app as cli
from tests.support.processes import PIPE, run_program, start_program, wait_until
from tests.support.songs import MakeSong
from tests.support.sound_device import Device, require_portaudio

PROGRAM = [sys.executable, "-m", "spectro_render"]
Run = Callable[..., int]


@pytest.fixture
def device(tmp_path: Path) -> Device:
    require_portaudio()
    return Device(tmp_path / "device")


@pytest.fixture
def slow_device(tmp_path: Path) -> Device:
    """One that needs a second for a second of 16 kHz."""
    require_portaudio()
    return Device(tmp_path / "device", bytes_per_second=16_000 * 2 * 4)


@pytest.fixture
def run(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command in this process, for what ends before a device is opened."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: cli.run([*arguments, "--model", str(tiny_model)])


def run_python(code: str, device: Device) -> str:
    """What a script prints that plays with samples `sine` (S,) of four seconds at 16 kHz."""
    begin = """
        import time
        import numpy as np
        from spectro_render.audio.audio import Audio
        from spectro_render.audio.player import Player
        sine = (0.5 * np.sin(2 * np.pi * 440 * np.arange(64_000) / 16_000)).astype(np.float32)
    """
    script = textwrap.dedent(begin) + textwrap.dedent(code)
    done = run_program(
        [sys.executable, "-c", script], env=device.variables, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return str(done.stdout).strip()


class TestCommand:
    def test_what_is_played_is_what_is_written(
        self, device: Device, song: MakeSong, tiny_model: Path, tmp_path: Path
    ) -> None:
        song(seconds=11)
        options = ["--play", "-o", "song.wav", "--bit-depth", "float", "--model", str(tiny_model)]
        run_program(
            [*PROGRAM, "song.mid", *options], env=device.variables, cwd=tmp_path, check=True
        )
        written, rate = soundfile.read(tmp_path / "song.wav", dtype="float32")
        assert (rate, written.ndim) == (16_000, 1)
        assert len(written) > 11 * 16_000
        np.testing.assert_array_equal(device.sound(), np.stack([written, written], axis=1))

    def test_songs_are_played_in_order_and_nothing_is_written(
        self, device: Device, song: MakeSong, tiny_model: Path, tmp_path: Path
    ) -> None:
        song("b.mid", seconds=2), song("a.mid", seconds=4)
        options = ["--play", "--model", str(tiny_model), "--json", "--tail", "1"]
        done = run_program(
            [*PROGRAM, "b.mid", "a.mid", "b.mid", *options],
            env=device.variables,
            cwd=tmp_path,
            capture_output=True,
            check=True,
        )
        records = [json.loads(line) for line in done.stdout.splitlines()]
        assert [record["input"] for record in records] == ["b.mid", "a.mid", "b.mid"]
        assert [record["output"] for record in records] == [None, None, None]
        sound = device.sound()
        assert len(sound) == sum(round(record["seconds"] * 16_000) for record in records)
        length = round(records[0]["seconds"] * 16_000)
        assert sound[:length].any()
        np.testing.assert_array_equal(sound[:length], sound[-length:])
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mid", "b.mid", "device"]

    def test_ctrl_c_stops_the_sound_at_once(
        self, slow_device: Device, song: MakeSong, tiny_model: Path, tmp_path: Path
    ) -> None:
        song(seconds=30)
        command = [*PROGRAM, "song.mid", "--play", "--model", str(tiny_model)]
        options = {"env": slow_device.variables, "cwd": tmp_path, "stderr": PIPE, "text": True}
        with start_program(command, **options) as process:
            assert process.stderr is not None
            assert "s of sound in" in process.stderr.readline()  # all is rendered
            played = slow_device.played
            wait_until(lambda: played.exists() and played.stat().st_size > 64_000, process)
            begun = time.monotonic()
            process.send_signal(2)
            assert process.wait() == 130
            assert time.monotonic() - begun < 10
            assert process.stderr.read() == "spectro-render: interrupted\n"
        assert len(slow_device.sound()) < 20 * 16_000


class TestPython:
    def test_audio_plays(self, device: Device) -> None:
        run_python("Audio(sine).play()", device)
        sound = device.sound()
        assert (len(sound), sound.max()) == (64_000, np.float32(0.5))
        assert (sound[:, 0] == sound[:, 1]).all()

    def test_it_plays_on_and_can_be_stopped(self, slow_device: Device) -> None:
        code = """
            begun = time.monotonic()
            player = Audio(np.stack([sine, -sine])).play(block=False)
            assert time.monotonic() - begun < 1.5
            assert not player.finish(0.5)
            other = Audio(sine[:1600]).play(block=False)  # stops the first
            assert player.finish(0)
            print(other.finish(), player.seconds_played < 3)
        """
        assert run_python(code, slow_device) == "True True"

    def test_a_gap_does_not_click(self, device: Device) -> None:
        code = """
            player = Player()
            player.begin(16_000)
            for start in range(0, 64_000, 16_000):
                player.write(sine[start : start + 16_000, None])
                time.sleep(2 if start == 16_000 else 0)
            player.finish()
            print(player.pauses, player.seconds_written)
        """
        assert run_python(code, device) == "1 4.0"
        left = device.sound()[:, 0]
        assert len(left) == 64_000
        steepest = 0.5 * 2 * np.pi * 440 / 16_000
        assert np.abs(np.diff(left)).max() <= steepest * 1.01
        assert abs(left[31_999]) < 1e-6  # where nothing followed in time

    def test_a_device_with_a_rate_of_its_own(self, device: Device) -> None:
        """Only the question whether the device takes a rate is answered by the test."""
        code = """
            import sounddevice
            def refuse(**options):
                raise sounddevice.PortAudioError("Invalid sample rate")
            sounddevice.check_output_settings = refuse
            Audio(sine).play()
            print(sounddevice.query_devices(kind="output")["default_samplerate"])
        """
        assert run_python(code, device) == "44100.0"
        left = device.sound()[:, 0]
        assert abs(len(left) - 4 * 44_100) <= 1
        spectrum = np.abs(np.fft.rfft(left * np.hanning(len(left))))
        assert spectrum.argmax() * 44_100 / len(left) == pytest.approx(440, abs=0.5)


class TestWithoutADevice:
    def test_no_device(self, device: Device, song: MakeSong, tmp_path: Path) -> None:
        Path(device.variables["ALSA_CONFIG_PATH"]).write_text("pcm.default { type hw card 99 }")
        song()
        done = run_program(
            [*PROGRAM, "song.mid", "--play", "-o", "x.wav"],
            env=device.variables,
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        words = "there is no device that plays sound; connect one, or write a file with -o"
        assert (done.returncode, done.stderr) == (1, f"spectro-render: {words}\n")
        assert not (tmp_path / "x.wav").exists()

    @pytest.mark.parametrize(
        ("error", "words"),
        [
            ("OSError('PortAudio library not found')", "apt install libportaudio2"),
            ("ModuleNotFoundError('No module named sounddevice')", "; pip install '"),
        ],
    )
    def test_what_is_missing_is_named(
        self,
        run: Run,
        song: MakeSong,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        error: str,
        words: str,
    ) -> None:
        (tmp_path / "packages").mkdir()
        (tmp_path / "packages" / "sounddevice.py").write_text(f"raise {error}")
        monkeypatch.syspath_prepend(tmp_path / "packages")
        monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
        song()
        assert run("song.mid", "--play") == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("spectro-render: playing needs the ") and words in line


class TestWrongUse:
    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ("--play --workers 2", "--play renders one song after the other"),
            ("--play --engine ray", "--play is for songs that are rendered here"),
            ("--play --batch-size 4", "--play renders one song after the other"),
            ("--play --format flac", "so --format has no use; name an output with -o"),
            ("--play --stems", "so --stems has no use"),
            ("--play --report x.html", "so --report has no use"),
            ("--play-device 1", "--play-device is for --play"),
        ],
    )
    def test_options_that_make_no_sense(
        self,
        run: Run,
        song: MakeSong,
        capsys: pytest.CaptureFixture[str],
        options: str,
        words: str,
    ) -> None:
        song()
        assert run("song.mid", *options.split()) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert words in line

    def test_a_dry_run_needs_no_device(
        self, run: Run, song: MakeSong, capsys: pytest.CaptureFixture[str]
    ) -> None:
        song()
        assert run("song.mid", "--play", "--dry-run") == 0
        assert capsys.readouterr().err == "spectro-render: song.mid: would be played\n"
