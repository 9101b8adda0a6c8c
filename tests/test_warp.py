"""Bends by warped time: where notes go, and what is read back."""

import numpy as np
import pytest

from spectro_render.midi.course import Curve
from spectro_render.midi.score import Note, Score
from spectro_render.render.warp import MOST_SEMITONES, VIBRATO_HZ, TimeWarp, Unwarp, ramps

RATE = 16_000
SECONDS = 4.0
GLIDE = Curve(tuple(0.5 + 0.01 * k for k in range(200)), (0.0, *(0.01 * k for k in range(200))))
JUMPS = Curve((0.5, 0.52, 1.0, 2.5), (0.0, 2.0, -2.0, 0.5, -1.0))
OCTAVE_DOWN = Curve((1.0,), (0.0, -12.0))
VIBRATO = Curve((1.0, 3.0), (0.0, 0.5, 0.0))

WARPS = {
    "glide": (GLIDE, None),
    "jumps": (JUMPS, None),
    "octave": (OCTAVE_DOWN, None),
    "vibrato": (None, VIBRATO),
    "both": (JUMPS, VIBRATO),
}


@pytest.fixture(params=WARPS)
def warp(request: pytest.FixtureRequest) -> TimeWarp:
    return TimeWarp(*WARPS[request.param], SECONDS)


def read(warp: TimeWarp, sound: np.ndarray, pieces: int) -> np.ndarray:
    unwarp = Unwarp(warp)
    parts = [unwarp.push(piece) for piece in np.array_split(sound, pieces)]
    return np.concatenate([*parts, unwarp.flush()])


def warped_times(warp: TimeWarp) -> np.ndarray:
    return np.arange(int(float(warp(SECONDS)) * RATE)) / RATE


def test_time_can_be_turned_back(warp: TimeWarp) -> None:
    times = np.linspace(0, 2 * SECONDS, 997)
    warped = warp(times)
    assert warped[0] == 0 and (np.diff(warped) > 0).all()
    np.testing.assert_allclose([warp.inverse(value) for value in warped], times, atol=1e-9)


@pytest.mark.parametrize("hertz", [220, 3000, 5000])
def test_a_tone_is_read_back_bent_and_whole(warp: TimeWarp, hertz: float) -> None:
    sound = np.sin(2 * np.pi * hertz * warped_times(warp)).astype(np.float32)
    made = read(warp, sound, 7)
    assert abs(len(made) / RATE - SECONDS) < 2 / RATE
    expected = np.sin(2 * np.pi * hertz * warp(np.arange(len(made)) / RATE))
    middle = slice(400, -400)
    error = np.square(made - expected)[middle].mean()
    assert 10 * np.log10(np.square(expected)[middle].mean() / error) > 60  # dB


def test_pieces_join_to_the_whole(warp: TimeWarp) -> None:
    sound = np.random.default_rng(0).normal(size=len(warped_times(warp))).astype(np.float32)
    whole = read(warp, sound, 1)
    for pieces in (2, 13, 200):
        np.testing.assert_allclose(read(warp, sound, pieces), whole, rtol=0, atol=1e-6)


def test_what_would_be_above_the_band_is_left_out() -> None:
    warp = TimeWarp(Curve((), (12.0,)), None, SECONDS)
    sound = np.sin(2 * np.pi * 6500 * warped_times(warp)).astype(np.float32)
    assert np.abs(read(warp, sound, 3)[400:-400]).max() < 1e-3  # 13 kHz, which would fold to 3 kHz


def test_vibrato_is_a_triangle_of_fifty_cents_at_8_hz() -> None:
    warp = TimeWarp(None, Curve((), (0.5,)), SECONDS)
    cents = 1200 * np.log2(warp.rate(np.arange(0, 1.0, 0.001)))
    assert cents.max() == pytest.approx(50, abs=1) and cents.min() == pytest.approx(-50, abs=1)
    assert np.mean(np.abs(cents)) == pytest.approx(25, abs=1)  # of a sine it would be 32
    rising = np.flatnonzero((cents[:-1] < 0) & (cents[1:] >= 0))
    assert 1000 / np.diff(rising).mean() == pytest.approx(VIBRATO_HZ, rel=0.01)


def test_a_step_is_made_before_it_counts() -> None:
    times, values = ramps(Curve((0.0, 1.0, 1.004), (1.0, 2.0, 4.0, 3.0)))
    assert np.interp([0.0, 0.99, 0.995, 1.0, 1.004], times, values).tolist() == [2, 2, 3, 4, 3]


@pytest.mark.parametrize("semitones", [127.0, -127.0, 1e9])
def test_impossible_ranges_are_limited(semitones: float) -> None:
    warp = TimeWarp(Curve((1.0,), (0.0, semitones)), Curve((), (0.5,)), SECONDS)
    ratios = warp.rate(np.linspace(0, SECONDS, 1000))
    assert ratios.max() <= 2 ** (MOST_SEMITONES / 12) and ratios.min() >= 2 ** (
        -MOST_SEMITONES / 12
    )
    made = read(warp, np.ones(len(warped_times(warp)), np.float32), 5)
    assert np.isfinite(made).all() and len(made) > 0.9 * SECONDS * RATE


def test_notes_begin_where_their_sound_is_read() -> None:
    warp = TimeWarp(JUMPS, None, SECONDS)
    notes = tuple(Note(k / 4, k / 4 + 0.2, 60, 90, 0, False) for k in range(12))
    warped = warp.warp(Score(notes, 3.0))
    starts = [warp.inverse(note.start) for note in warped.notes]
    assert starts == pytest.approx([note.start for note in notes], abs=1e-9)
    assert warped.duration == pytest.approx(float(warp(3.0)))


def test_memory_does_not_grow_with_silent_time() -> None:
    warp = TimeWarp(JUMPS, None, 3 * 3600.0)
    unwarp, given = Unwarp(warp), 0
    for _ in range(20):
        given += len(unwarp.push(np.zeros(RATE, np.float32)))
        assert len(unwarp._pending) < 2 * RATE
    assert given == pytest.approx(20 * RATE, rel=0.1)
