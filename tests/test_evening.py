"""A model of one's own in a minute: from a folder of MIDI files to rendered songs."""

import ctypes.util
import json
import os
import sys
from pathlib import Path
from random import Random

import mido
import pytest
import soundfile

from spectro_render.cli.app import run
from spectro_render.training import synth
from tests.support.processes import run_program

HAS_FLUIDSYNTH = bool(ctypes.util.find_library("fluidsynth")) and any(
    Path(path).exists() for path in synth.SOUNDFONTS
)

pytestmark = pytest.mark.skipif(
    not HAS_FLUIDSYNTH, reason="FluidSynth or its soundfont is not installed"
)


def write_song(path: Path, seed: int, bars: int = 10) -> None:
    """A piano, a bass that is bent and panned, and drums, two seconds a bar."""
    rng, track, events = Random(seed), mido.MidiTrack(), []
    track.append(mido.Message("program_change", channel=0, program=0))
    track.append(mido.Message("program_change", channel=1, program=33))
    track.append(mido.Message("control_change", channel=1, control=10, value=30))
    for beat in range(4 * bars):
        notes = [(0, rng.randint(55, 79)), (9, 36 if beat % 2 else 42)]
        notes += [(1, rng.randint(30, 45))] if beat % 2 == 0 else []
        for channel, pitch in notes:
            events.append((480 * beat, "note_on", channel, pitch))
            events.append((480 * beat + 400, "note_off", channel, pitch))
        if beat % 4 == 0:
            events.append((480 * beat + 200, "bend", 1, 2000))
            events.append((480 * beat + 440, "bend", 1, 0))
    now = 0
    for tick, kind, channel, value in sorted(events):
        given = {"channel": channel, "time": tick - now}
        if kind == "bend":
            track.append(mido.Message("pitchwheel", pitch=value, **given))
        else:
            track.append(mido.Message(kind, note=value, velocity=90, **given))
        now = tick
    path.parent.mkdir(parents=True, exist_ok=True)
    mido.MidiFile(ticks_per_beat=480, tracks=[track]).save(path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A model trained for a minute, and what the training printed."""
    folder = tmp_path_factory.mktemp("evening")
    for number in range(4):
        write_song(folder / "midis" / f"{number}.mid", number)
    command = [sys.executable, "-m", "spectro_render", "train", "midis", "mine"]
    command += ["--minutes", "1", "--workers", "1", "--work", "work", "--licence", "CC0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = run_program(command, cwd=folder, env=environment, capture_output=True, check=True)
    return folder / "mine", done.stdout.decode()


def test_a_minute_makes_a_model_with_a_card_and_checksums(trained: tuple[Path, str]) -> None:
    model, printed = trained
    lines = printed.splitlines()
    assert lines[1].startswith("plan for 1 minutes on 1 cores")
    assert [line for line in lines if line.startswith("stage")][-1] == "stage 6 of 6: export"
    assert lines[-6:][0].split()[0] == "data"
    assert run(["models", "verify", str(model)]) == 0
    card = (model / "MODEL_CARD.md").read_text()
    for part in (
        "Licence of the data, as told: CC0",
        f"Synthesised by FluidSynth with {synth.find_soundfont().name}: 0.05 hours of music",
        "Started from: default",
        f"| {synth.find_soundfont().name}, 1 files |",
    ):
        assert part in card, part
    rows = {
        line.split(":")[0]: line.split("|")[2]
        for line in card.splitlines()
        if ": " in line and line.startswith("| ")
    }
    assert 0.05 < float(rows["| mel_l1"]) < 0.45  # the default model has 0.31
    assert float(rows["| note_f1_ratio"]) > 0.5


@pytest.mark.parametrize(
    "options",
    [
        ["--channels", "stereo", "--stems", "--full-band", "--format", "flac"],
        ["--best", "--sample-rate", "44.1k", "--normalize", "lufs:-16", "--start", "1"],
        ["--fast", "--transpose", "2", "--program", "1=violin", "--mute", "2", "--format", "mp3"],
        ["--sampler", "ddim", "--steps", "2", "--guidance", "2", "--seed", "3"],
        ["--vocoder", "griffin-lim", "--dtype", "bfloat16", "--stems", "--stems-by", "bus"],
        ["--plot", "song.png", "--report", "song.html", "--tempo", "1.5", "--drums", "off"],
    ],
    ids=lambda options: options[0],
)
def test_a_new_model_has_every_option_of_rendering(
    trained: tuple[Path, str],
    options: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_song(tmp_path / "song.mid", 9, bars=2)
    assert run(["song.mid", "--model", str(trained[0]), "--json", *options]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["status"] == "rendered"
    (sound,) = (p for p in tmp_path.glob("song.*") if p.suffix in (".wav", ".flac", ".mp3"))
    samples, rate = soundfile.read(sound, always_2d=True)
    assert abs(samples).max() > 0.02
    assert len(samples) / rate > 2.5
    if "--full-band" in options:
        assert (rate, samples.shape[1]) == (48_000, 2)
    if "--stems" in options:
        assert len([*(tmp_path / "song").iterdir()]) >= 3
    if "--plot" in options:
        assert (tmp_path / "song.png").stat().st_size > 10_000
        assert (tmp_path / "song.html").stat().st_size > 10_000
