"""Ordinary files that other programs' users found to sound wrong, and how they must sound.

The files in `data/cases` were written for these tests, after public bug reports.
"""

import math
from pathlib import Path

import numpy as np
import pytest

from spectro_render.errors import MidiError
from spectro_render.midi.read import read_midi
from spectro_render.midi.score import Note, Score
from spectro_render.render.renderer import Renderer
from tests.support.smf_writer import smf

CASES = Path(__file__).parent / "data" / "cases"


def read(name: str) -> Score:
    return read_midi(CASES / f"{name}.mid")


def ends(score: Score, *pitches: int) -> list[float]:
    """When the first note of each pitch ends, in seconds."""
    notes: dict[int, Note] = {}
    for note in score.notes:
        notes.setdefault(note.pitch, note)
    return [round(notes[pitch].end, 6) for pitch in pitches]


# --- instruments


def test_parts_play_the_instruments_that_a_set_up_track_chose() -> None:
    assert {note.program for note in read("01_program_on_other_track").notes} == {19, 73}


def test_both_staves_play_the_instrument_that_the_upper_one_chose() -> None:
    assert {note.program for note in read("01b_two_staves_one_program").notes} == {6}


def test_a_note_keeps_its_instrument_when_the_next_one_is_chosen() -> None:
    score = read("04_program_change_before_note_off")
    assert [note.program for note in score.notes] == [19, 115]


def test_channels_of_two_ports_are_two_instruments() -> None:
    score = read("20_two_ports")
    pitched = [note for note in score.notes if not note.is_drum]
    assert {(note.program, note.velocity) for note in pitched} == {(40, 90), (19, 54)}
    assert sum(note.is_drum for note in score.notes) == 2


# --- drums


@pytest.mark.parametrize(
    "name", ["10a_drums_by_gs_sysex", "10b_drums_by_xg_bank", "10c_drums_by_gm2_bank"]
)
def test_drums_on_another_channel_are_no_piano(name: str) -> None:
    assert [note.is_drum for note in read(name).notes] == [True] * 16


def test_timpani_of_the_orchestra_kit_are_no_toms_and_cymbals() -> None:
    score = read("11_orchestra_kit_timpani")
    assert {(note.program, note.is_drum) for note in score.notes} == {(47, False)}
    assert [note.pitch for note in score.notes] == [41, 46, 48, 53, 42, 44, 49, 51]
    standard = read("11b_same_keys_standard_kit")
    assert all(note.is_drum for note in standard.notes)


# --- pitch


def test_a_part_that_is_tuned_a_fourth_down_is_in_the_key_of_the_others() -> None:
    score = read("13_coarse_tuning")
    assert {note.pitch for note in score.notes} == {67}
    assert score.ignored == ()


def test_a_melody_by_the_pitch_wheel_is_played_by_a_warp() -> None:
    score = read("14_melody_by_pitch_wheel")
    assert score.ignored == ()
    (course,) = score.courses
    assert course.bend is not None
    assert [round(course.bend.at(beat + 0.5)) for beat in range(4)] == [0, 4, 7, 12]


# --- loudness


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer.load("default", device="cpu")


def decibels(renderer: Renderer, name: str, *spans: tuple[float, float]) -> list[float]:
    """The level of a rendered case between times in seconds, in dBFS, without further gain."""
    audio = renderer.render(CASES / f"{name}.mid", steps=1)
    return [
        10 * math.log10(float(np.square(part).mean()) + 1e-12)
        for begin, end in spans
        for part in [audio.samples[0, int(begin * 16_000) : int(end * 16_000)].astype(float)]
    ]


@pytest.mark.parametrize("name", ["06_swell_from_nothing", "06b_volume_swell"])
def test_a_note_that_swells_from_silence_is_heard(renderer: Renderer, name: str) -> None:
    start = 0.5 if name.startswith("06b") else 0.0
    early, middle, late = decibels(
        renderer,
        name,
        (start + 0.1, start + 0.4),
        (start + 0.8, start + 1.2),
        (start + 3.0, start + 4.0),
    )
    assert late >= -45
    assert early < middle - 6 < late - 12
    assert read(name).ignored == ()


def test_a_held_chord_fades_out(renderer: Renderer) -> None:
    before, after = decibels(renderer, "07_fade_out_held_chord", (0, 1), (3.5, 4))
    assert after - before <= -20
    assert read("07_fade_out_held_chord").ignored == ()


def test_accents_stand_out_as_much_at_full_volume() -> None:
    full, usual = read("08_accents_at_full_volume"), read("08b_accents_at_volume_100")
    assert [note.velocity for note in full.notes] == [note.velocity for note in usual.notes]
    assert full.gain == pytest.approx(40 * math.log10(127 / 100))
    assert usual.gain == 0


def test_a_muted_channel_is_silent(renderer: Renderer) -> None:
    (level,) = decibels(renderer, "09_muted_channel", (0, 2))
    assert level <= -70


def test_master_volume_fades_a_melody_out() -> None:
    velocities = [note.velocity for note in read("28_master_volume_fade").notes]
    assert velocities == sorted(velocities, reverse=True)
    assert (velocities[0], velocities[-1]) == (89, 11)


# --- ends of notes


def test_the_upper_staff_rings_under_the_pedal_of_the_lower_one() -> None:
    assert ends(read("02_pedal_on_other_track"), 72, 76) == [4.0, 4.0]


@pytest.mark.parametrize(
    ("name", "pitches"),
    [("05_pedal_change_at_one_tick", (62, 65)), ("05b_pedal_off_then_on_at_tick_0", (60, 64))],
)
def test_a_pedal_that_is_changed_at_once_goes_on_holding(name: str, pitches: tuple[int]) -> None:
    assert ends(read(name), *pitches) == [4.0, 4.0]


def test_the_sostenuto_pedal_holds_the_bass_note_alone() -> None:
    assert ends(read("24_sostenuto"), 36, 72, 76) == [4.0, 1.25, 1.75]


def test_reset_all_controllers_lifts_the_pedal() -> None:
    assert ends(read("15_reset_all_controllers"), 60) == [2.0]


@pytest.mark.parametrize("name", ["16_all_sound_off", "16b_all_notes_off"])
def test_silence_begins_where_the_file_asks_for_it(name: str) -> None:
    assert ends(read(name), 60, 64) == [1.0, 1.0]


def test_all_notes_off_lets_the_pedal_ring() -> None:
    assert ends(read("16c_all_notes_off_under_pedal"), 60, 64) == [4.0, 4.0]


def test_a_unison_ends_with_the_first_of_its_two_ends() -> None:
    assert ends(read("21_unison_of_two_voices"), 67) == [0.5]


def test_legato_notes_that_overlap_by_one_event_all_sound() -> None:
    notes = read("22_on_before_off").notes
    assert [(note.start, note.end - note.start) for note in notes] == [
        (0.0, 0.5),
        (0.5, 0.5),
        (1.0, 0.5),
        (1.5, 0.5),
    ]


def test_a_note_ends_although_its_end_is_in_another_track() -> None:
    assert ends(read("26_off_in_another_track"), 60) == [1.0]


def test_notes_of_a_step_sequencer_that_have_no_length_are_heard() -> None:
    assert len(read("12_zero_length_xylophone").notes) == 5


def test_tracks_of_separate_songs_are_played_together_and_the_user_is_told() -> None:
    score = read("17_format_2")
    assert [note.start for note in score.notes] == [0.0, 0.0]
    assert score.repairs == ("format 2: the tracks are played together",)


# --- time


def test_of_two_tempos_at_one_tick_the_later_tracks_is_kept() -> None:
    assert read("23_two_tempos_at_one_tick").notes[4].start == 4.0


def test_beats_stay_exact_over_nine_minutes_of_tempo_changes() -> None:
    from itertools import accumulate

    import mido

    file = mido.MidiFile(str(CASES / "25_timing_over_nine_minutes.mid"))
    expected = []
    for now, message in zip(
        accumulate(message.time for message in file), file, strict=True
    ):  # mido converts to seconds
        if message.type == "note_on" and message.velocity:
            expected.append(now)
    starts = [note.start for note in read("25_timing_over_nine_minutes").notes]
    assert starts == pytest.approx(expected, abs=1e-4)
    assert len(starts) == 240


def test_a_drone_is_one_note_of_forty_seconds() -> None:
    assert [(note.start, note.end) for note in read("27_drone").notes] == [(0.0, 40.0)] * 2


# --- the end


def test_a_stem_that_ends_with_rests_lines_up_with_the_others(renderer: Renderer) -> None:
    path = CASES / "18_rest_at_the_end.mid"
    assert renderer.render(path, steps=1, to_end_of_track=True).seconds == 10.0
    assert renderer.render(path, steps=1).seconds < 6.0
    assert renderer.render(path, steps=1, tail=0.5).seconds == 1.0


def test_a_stem_of_rests_is_silence_of_its_length(renderer: Renderer) -> None:
    path = CASES / "18b_stem_of_rests.mid"
    audio = renderer.render(path, steps=1, to_end_of_track=True)
    assert audio.seconds == 10.0
    assert not audio.samples.any()
    with pytest.raises(MidiError, match="no notes"):
        renderer.render(path, steps=1)


def test_rests_behind_the_music_last_as_long_as_the_track(renderer: Renderer) -> None:
    path = CASES / "18_rest_at_the_end.mid"
    rests = renderer.render(path, steps=1, to_end_of_track=True, start=9.0, duration=3.0)
    assert rests.seconds == 1.0
    assert not rests.samples.any()
    with pytest.raises(MidiError, match=r"lasts 10\.0 s"):
        renderer.render(path, steps=1, to_end_of_track=True, start=20.0)


def test_a_stem_of_rests_may_have_a_tempo_of_its_own() -> None:
    tempo = b"\0\xff\x51\x03\x0f\x42\x40" + b"\x64\xc0\x13"
    assert read_midi(smf(b"", tempo, division=100), allow_rests=True).end_of_tracks == 1.0
    with pytest.raises(MidiError, match="no notes"):
        read_midi(smf(b""), allow_rests=True)


@pytest.mark.parametrize("name", ["19_crash_at_the_end", "19b_pad_at_the_end"])
def test_the_last_sound_rings_out_and_does_not_end_in_a_step(renderer: Renderer, name: str) -> None:
    samples = renderer.render(CASES / f"{name}.mid", steps=1).samples[0]
    peak = np.abs(samples).max()
    assert np.abs(samples[-400:]).max() < peak * 0.002
    assert abs(samples[-1]) < 1e-4


def test_a_short_tail_is_faded(renderer: Renderer) -> None:
    samples = renderer.render(CASES / "19_crash_at_the_end.mid", steps=1, tail=0.3).samples[0]
    assert len(samples) == pytest.approx((0.625 + 0.3) * 16_000, abs=1)
    assert np.abs(samples[-20:]).max() < 0.01 * np.abs(samples).max()
