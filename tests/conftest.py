"""What all tests have: an environment of their own, songs made in code, and a tiny model."""

import signal
import tempfile
from pathlib import Path
from types import FrameType

import pytest

from tests.support.environment import clean_environment
from tests.support.processes import LIMIT, guard_session, take_default_signals
from tests.support.songs import MakeSong
from tests.support.toys import write_toy_model

_home = tempfile.mkdtemp(prefix="home-of-tests-")
clean_environment(_home)  # first of all: torch, typer and others read it when they are imported
_guard = guard_session(_home)


def pytest_sessionstart(session: pytest.Session) -> None:
    """End as by Ctrl-C, with all that was started, where a signal would end this process alone."""

    def stop(number: int, frame: FrameType | None) -> None:
        session.shouldstop = signal.Signals(number).name  # should the test swallow the exception
        raise KeyboardInterrupt

    take_default_signals()
    for number in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, stop)


def pytest_unconfigure() -> None:
    assert _guard.stdin is not None
    _guard.stdin.close()
    _guard.wait(LIMIT)


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
