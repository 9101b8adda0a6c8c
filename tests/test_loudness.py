"""Volume, expression and master volume: in velocities, and in a gain that all parts share."""

import math
import random
import time

import numpy as np
import pytest

from spectro_render.midi.read import read_midi
from spectro_render.midi.score import Score, section
from tests.support.smf_writer import smf, track

TICK = 0.005  # seconds


def read(*tracks: bytes) -> Score:
    return read_midi(smf(*tracks, division=100))


def held(
    channel: int, begin: int, end: int, pitch: int = 60, velocity: int = 80
) -> list[tuple[int, str]]:
    on, off = f"9{channel:x}{pitch:02x}{velocity:02x}", f"8{channel:x}{pitch:02x}00"
    return [(begin, on), (end, off)]


def volumes(
    channel: int, begin: int, end: int, first: int, last: int, controller: int = 7
) -> list[tuple[int, str]]:
    """A course of volume (7) or expression (11), with a value every 10 ticks."""
    n = (end - begin) // 10
    values = [round(first + (last - first) * k / n) for k in range(n + 1)]
    return [
        (begin + 10 * k, f"b{channel:x}{controller:02x}{value:02x}")
        for k, value in enumerate(values)
    ]


def gain_at(score: Score, seconds: float) -> float:
    """The shared gain in dB."""
    times, factors = zip(*score.fades, strict=True) if score.fades else ((0.0,), (1.0,))
    return 20 * math.log10(max(float(np.interp(seconds, times, factors)), 1e-4))


def test_a_song_of_two_tracks_fades_out_at_its_end() -> None:
    music = [held(channel, 0, 2000, 60 + channel) for channel in (0, 1)]
    fades = volumes(0, 1000, 1800, 100, 0), volumes(1, 1003, 1803, 80, 0)
    softer = [(0, "b10750")]
    score = read(track(*music[0], *fades[0]), track(*softer, *music[1], *fades[1]))
    assert [note.velocity for note in score.notes] == [80, 64]
    assert gain_at(score, 4.9) == pytest.approx(0, abs=0.5)
    assert gain_at(score, 7.0) == pytest.approx(-12, abs=1.5)
    assert gain_at(score, 9.1) < -60
    assert score.ignored == ()


def test_notes_that_start_within_a_fade_have_their_own_velocities() -> None:
    notes = [event for k in range(20) for event in held(0, 100 * k, 100 * k + 100)]
    score = read(track(*notes, *volumes(0, 1000, 1800, 100, 20)))
    assert {note.velocity for note in score.notes} <= {79, 80, 81}
    assert gain_at(score, 9.5) == pytest.approx(40 * math.log10(0.2), abs=1)


def test_a_part_that_fades_alone_has_a_course_of_its_own() -> None:
    both = [*held(0, 0, 1000), *held(1, 0, 1000, 64)]
    score = read(track(*both, *volumes(0, 200, 800, 100, 10)))
    assert score.fades == ()
    assert [note.velocity for note in score.notes] == [80, 80]
    assert [course.channel for course in score.courses] == [0]
    assert score.ignored == ()


def test_a_note_that_is_cut_by_the_volume_is_loud_until_then() -> None:
    gated = [(100, "b00700"), (130, "b00764"), (160, "b00700"), (190, "b00764")]
    score = read(track(*held(0, 80, 400), *gated))
    levels = [gain_at(score, tick * TICK) for tick in (90, 97, 103, 127, 133, 157, 163)]
    assert [level > -1 for level in levels] == [True, True, False, False, True, True, False]


def test_two_parts_are_cut_at_one_moment() -> None:
    cut = [(300, "b00705"), (300, "b10705"), (600, "b00764"), (600, "b10764")]
    score = read(track(*held(0, 0, 800), *held(1, 100, 800, 64), *cut))
    assert gain_at(score, 297 * TICK) == pytest.approx(0, abs=0.1)
    assert gain_at(score, 301 * TICK) == pytest.approx(-52, abs=0.1)
    assert gain_at(score, 597 * TICK) == pytest.approx(-52, abs=0.1)


def test_a_song_fades_out_although_a_muted_part_plays_on() -> None:
    muted = [(0, "b10700"), *held(1, 0, 2000, 64)]
    score = read(track(*held(0, 0, 2000), *volumes(0, 1000, 1800, 100, 10), *muted))
    assert gain_at(score, 9.5) == pytest.approx(-40, abs=1)
    assert score.ignored == ()


def test_a_note_has_the_volume_that_is_set_just_after_its_start() -> None:
    late = [*held(0, 0, 1000), (2, "b00732")]
    score = read(track(*late, *held(1, 0, 1000, 64)))
    assert [note.velocity for note in score.notes] == [40, 80]
    assert score.fades == score.ignored == ()
    loud = [(0, "b00714"), *held(0, 0, 1000), (2, "b00764")]
    assert [n.velocity for n in read(track(*loud, *held(1, 0, 1000, 64))).notes] == [80, 80]


def test_a_part_that_swells_alone_is_heard() -> None:
    both = [*held(0, 0, 1000), *held(1, 0, 1000, 64)]
    score = read(track((0, "b00b00"), *both, *volumes(0, 0, 500, 0, 127, 11)))
    assert score.fades == ()
    assert 60 < score.notes[0].velocity <= 80 and score.notes[1].velocity == 80
    assert [course.channel for course in score.courses] == [0]
    assert [note.struck for note in score.notes] == [80, 0]
    assert score.ignored == ()


def test_a_part_that_is_muted_ends_its_notes() -> None:
    both = [*held(0, 0, 1000), *held(1, 0, 1000, 64)]
    score = read(track(*both, (400, "b00700")))
    assert [(note.pitch, round(note.end, 6)) for note in score.notes] == [(60, 2.0), (64, 5.0)]
    assert score.duration == 5.0


def test_the_gain_returns_before_the_next_song_of_a_medley() -> None:
    first = [*held(0, 0, 1000), *volumes(0, 200, 900, 100, 0)]
    second = [(1000, "b00764"), *held(0, 1100, 1500)]
    score = read(track(*first, *second))
    assert [note.velocity for note in score.notes] == [80, 80]
    assert gain_at(score, 4.6) < -60
    assert gain_at(score, 5.5) == gain_at(score, 9.0) == 0


def test_a_fade_is_given_up_where_another_part_comes_in_at_full_level() -> None:
    faded = [*held(0, 0, 2000), *volumes(0, 200, 900, 100, 2)]
    score = read(track(*faded, *held(1, 1200, 1800, 64)))
    assert score.fades == ()
    assert [note.velocity for note in score.notes] == [80, 80]


def test_the_whole_song_is_softer_where_one_note_is_too_loud() -> None:
    loud = (0, "b0077f"), *held(0, 0, 100, velocity=127), *held(0, 100, 200, velocity=96)
    score = read(track(*loud, *held(1, 100, 200, velocity=100)))
    assert [note.velocity for note in score.notes] == [127, 96, 79]
    assert score.gain == pytest.approx(40 * math.log10(1.27))


@pytest.mark.parametrize(
    "message", ["7f 7f 04 01 00 40", "41 10 42 12 40 00 04 40 7c", "43 10 4c 00 00 04 40"]
)
def test_master_volume_of_all_makers(message: str) -> None:
    data = bytes.fromhex(message) + b"\xf7"
    score = read(bytes([0, 0xF0, len(data)]) + data + track(*held(0, 0, 10)))
    assert score.notes[0].velocity == pytest.approx(40, abs=1)
    assert score.ignored == ()


@pytest.mark.parametrize("message", ["41 10 42 12 40 11 19 32 00", "43 10 4c 08 00 0b 32"])
def test_volume_of_a_part_by_an_exclusive_message(message: str) -> None:
    data = bytes.fromhex(message) + b"\xf7"
    score = read(bytes([0, 0xF0, len(data)]) + data + track(*held(0, 0, 10), *held(1, 0, 10)))
    assert [note.velocity for note in score.notes] == [40, 80]


def test_a_section_keeps_its_part_of_a_fade() -> None:
    score = read(track(*held(0, 0, 2000), *volumes(0, 1000, 1800, 100, 0)))
    part = section(score, 6.0, 3.0)
    assert gain_at(part, 1.0) == pytest.approx(gain_at(score, 7.0))


def test_many_changes_take_little_time() -> None:
    random_ = random.Random(0)
    events = [(10 * k, f"b{k % 16:x}07{random_.randrange(128):02x}") for k in range(60_000)]
    music = [event for c in range(9) for event in held(c, 0, 600_000)]
    data = smf(track(*music, *events), division=100)
    begun = time.process_time()
    read_midi(data)
    assert time.process_time() - begun < 5
