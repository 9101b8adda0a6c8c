"""How time and memory grow: with the size of a file, and with the length of its sound."""

import gc
import sys
import time
import tracemalloc
from pathlib import Path

import pytest

from spectro_render.errors import MidiError
from spectro_render.midi.read import read_midi
from spectro_render.midi.score import Note, Score
from spectro_render.tokens.vocabulary import SLAKH_PROGRAMS, Vocabulary
from spectro_render.tokens.write import TokenWindows
from tests.fuzz.families import FAMILIES
from tests.support.processes import run_program

VOCABULARIES = (Vocabulary(), Vocabulary(velocity_bins=32, programs="full"))
EVENTS = 3000
LEAST_SECONDS = 0.05  # less is noise
DAY = 24 * 3600.0


def reading_seconds(data: bytes) -> float:
    """CPU seconds in which a file becomes ids; the least of two times."""
    times = []
    for _ in range(2):
        gc.collect()
        begin = time.process_time()
        try:
            score = read_midi(data)
        except MidiError as error:
            pytest.fail(f"the file is not read: {error}")
        for vocabulary in VOCABULARIES:
            for _window in TokenWindows(score, vocabulary):
                pass
        times.append(time.process_time() - begin)
    return min(times)


@pytest.mark.parametrize("family", FAMILIES)
def test_four_times_the_events_take_about_four_times_as_long(family: str) -> None:
    """A step that looks through all earlier events would take 16 times as long."""
    once, four_times = (reading_seconds(FAMILIES[family](n)) for n in (EVENTS, 4 * EVENTS))
    assert four_times < 10 * once + LEAST_SECONDS


def held_for_a_day(notes: int) -> Score:
    programs = SLAKH_PROGRAMS[:-1]  # the windows that are too dense are beside the point here
    made = (
        Note(i / 100, DAY - i / 100, 10 + i % 100, 100, programs[i // 100], False)
        for i in range(notes)
    )
    return Score(tuple(made), DAY)


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_windows_are_not_kept(vocabulary: Vocabulary) -> None:
    """The ids of a day of held notes are written in a few bytes for each of its notes."""
    score = held_for_a_day(900)
    gc.collect()
    tracemalloc.start()
    try:
        ids = sum(len(window.ids) for window in TokenWindows(score, vocabulary))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert ids > 900 * DAY / 5.12  # 14 million and more
    assert peak < 4e6


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_info_of_a_day_takes_little_memory(tmp_path: Path) -> None:
    file = tmp_path / "day.mid"
    file.write_bytes(FAMILIES["held for most of a day"](2000))
    assert file.stat().st_size < 10_000
    program = (
        "import re, sys\n"
        "from pathlib import Path\n"
        "from spectro_render.cli import app\n"
        "code = app.run(['info', sys.argv[1]])\n"
        "print(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])\n"
        "sys.exit(code)\n"
    )
    command = [sys.executable, "-c", program, str(file)]
    done = run_program(command, capture_output=True, text=True, check=True)
    first, *_, kilobytes = done.stdout.splitlines()
    assert "day.mid: 13" in first and "windows of 5.12 s" in first
    assert int(kilobytes) < 100_000
