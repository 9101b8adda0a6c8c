"""What several tests need: songs made in code, and a tiny model with random weights."""

import os
from pathlib import Path

import pytest

from tests.support.songs import MakeSong
from tests.support.toys import write_toy_model

# One thread is the fastest for toys, above all on a busy machine; read when torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture
def song(tmp_path: Path) -> MakeSong:
    """Writes `tmp_path / name`: a note every half second on a few instruments and a drum."""

    def write(name: str = "song.mid", seconds: float = 2.0) -> Path:
        import mido

        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        track = mido.MidiTrack()
        for channel, program in ((0, 0), (1, 33), (2, 48)):
            track.append(mido.Message("program_change", channel=channel, program=program))
        for beat in range(round(seconds * 2)):  # 120 beats a minute
            channel = (0, 1, 2, 9)[beat % 4]
            pitch = 38 if channel == 9 else 48 + beat % 24
            track.append(mido.Message("note_on", channel=channel, note=pitch, velocity=90))
            track.append(mido.Message("note_off", channel=channel, note=pitch, time=480))
        mido.MidiFile(ticks_per_beat=480, tracks=[track]).save(str(path))
        return path

    return write


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory: the layout, the options and the speed of a toy, and the sound of noise."""
    path = tmp_path_factory.mktemp("models") / "tiny"
    write_toy_model(path)
    return path
