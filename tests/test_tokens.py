"""The ids of windows: written out by hand, equal to the published tokenizer's, and read back."""

import json
import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from spectro_render.constants import MAX_TOKENS, STEPS_PER_WINDOW, WINDOW_SECONDS
from spectro_render.errors import TokenError
from spectro_render.midi.read import read_midi
from spectro_render.midi.score import Note, Score
from spectro_render.tokens.events import Event, Sound, split_events, to_events, to_sounds
from spectro_render.tokens.fit import GoingOn, Page, _Length, _ranks, fit_page, hold
from spectro_render.tokens.read import detokenize, window_notes
from spectro_render.tokens.vocabulary import (
    EOS,
    PAD,
    SLAKH_PROGRAMS,
    UNK,
    TokenWindow,
    Vocabulary,
    WindowNote,
)
from spectro_render.tokens.write import TokenWindows, _write, tokenize

DATA = Path(__file__).parent / "data" / "tokens"
GOLDEN: dict[str, list[list[int]]] = json.loads((DATA / "tokens.json").read_text())

PUBLISHED = Vocabulary()
OWN = Vocabulary(velocity_bins=32, programs="full")
VOCABULARIES = (
    PUBLISHED,
    Vocabulary(programs="full"),
    Vocabulary(velocity_bins=16),
    OWN,
    Vocabulary(velocity_bins=127, programs="full"),
)


def note(
    start: float,
    end: float,
    pitch: int = 60,
    program: int = 0,
    velocity: int = 100,
    is_drum: bool = False,
) -> Note:
    return Note(start, end, pitch, velocity, program, is_drum)


def score(*notes: Note, duration: float = 0.0) -> Score:
    ends = (note.end for note in notes)
    return Score(tuple(sorted(notes, key=lambda n: n.start)), max(duration, *ends, 0.0))


def ids(windows: Iterable[TokenWindow]) -> list[tuple[int, ...]]:
    return [window.ids for window in windows]


def read(window: TokenWindow, vocabulary: Vocabulary) -> list[WindowNote]:
    return window_notes(window.ids, vocabulary)


# --- Vocabulary -----------------------------------------------------------------------------------


def test_published_ids() -> None:
    v = PUBLISHED
    firsts = (v.shift, v.pitch, v.velocity, v.tie, v.program, v.drum)
    assert firsts == (3, 1004, 1132, 1134, 1135, 1263)
    assert (v.size, v.num_embeddings) == (1391, 1536)


def test_velocity_bins_move_the_ids_behind_them() -> None:
    assert (OWN.velocity, OWN.tie, OWN.size) == (1132, 1165, 1422)
    assert OWN.num_embeddings == 1536
    assert Vocabulary(velocity_bins=127).num_embeddings == 1664


def test_programs_map_to_the_nearest_class_below() -> None:
    assert len(SLAKH_PROGRAMS) == 34
    assert [PUBLISHED.program_class(p) for p in (0, 3, 4, 31, 72, 87, 88, 127)] == [
        *(0, 0, 4, 29, 71, 80, 88, 88)
    ]
    assert all(OWN.program_class(program) == program for program in range(128))


@pytest.mark.parametrize("bins", [1, 2, 16, 32, 100, 127])
def test_a_bins_velocity_lies_in_the_bin(bins: int) -> None:
    vocabulary = Vocabulary(velocity_bins=bins)
    assert (vocabulary.velocity_bin(0), vocabulary.velocity_bin(127)) == (0, bins)
    for velocity_bin in range(1, bins + 1):
        assert vocabulary.velocity_bin(vocabulary.bin_velocity(velocity_bin)) == velocity_bin


def test_impossible_vocabularies() -> None:
    for bins in (0, 128):
        with pytest.raises(ValueError, match="velocity_bins"):
            Vocabulary(velocity_bins=bins)
    with pytest.raises(ValueError, match="programs"):
        Vocabulary(programs="midi")  # type: ignore[arg-type]


# --- The published order --------------------------------------------------------------------------


def test_three_notes_by_hand() -> None:
    music = score(
        note(0.5, 1.0, pitch=60, program=0),
        note(0.5, 6.0, pitch=40, program=34),  # of class 33
        note(1.0, 1.1, pitch=36, is_drum=True),
    )
    assert ids(tokenize(music, PUBLISHED)) == [
        (
            *(1134, 53),  # tie, shift 50
            *(1135, 1133, 1064),  # program 0, velocity 1, pitch 60
            *(1168, 1044),  # program 33, pitch 40
            *(103, 1135, 1132, 1064),  # shift 100, program 0, velocity 0, pitch 60
            *(1133, 1299, 1),  # velocity 1, drum 36, EOS
        ),
        (1168, 1044, 1134, 91, 1132, 1044, 1),  # program 33, pitch 40, tie, shift 88, off
    ]


def as_published(name: str) -> Score:
    """The notes that the published tokenizer reads from a file.

    It hears no all-notes-off, and no notes without length.
    """
    data = (DATA / name).read_bytes()
    if name.endswith("AmazingGrace.mid"):  # one stands before the end of six notes
        data = data.replace(b"\x7b\x00", b"\x7a\x00")
    music = read_midi(data)
    if "Mahler" not in name:
        return music
    notes = tuple(note for note in music.notes if note.end - note.start > 0.001)
    assert len(music.notes) - len(notes) == 4
    return replace(music, notes=notes)


@pytest.mark.parametrize("name", GOLDEN)
def test_ids_equal_the_published_tokenizers(name: str) -> None:
    windows = tokenize(as_published(name), PUBLISHED)
    assert ids(windows) == [tuple(window) for window in GOLDEN[name]]
    assert [window.index for window in windows] == list(range(len(windows)))
    assert all(window.ids[-1] == EOS and window.dropped == 0 for window in windows)


def test_published_windows_after_the_end_repeat_the_last_ties() -> None:
    windows = tokenize(score(note(1.0, 2.0), duration=11.0), PUBLISHED)
    assert ids(windows[1:]) == [(1135, 1064, 1134, EOS)] * 2


def test_published_pitch_ends_at_the_first_offset() -> None:
    music = score(note(0.0, 2.0), note(1.0, 6.0))
    assert len(read(tokenize(music, PUBLISHED)[1], PUBLISHED)) == 0
    assert len(read(tokenize(music, OWN)[1], OWN)) == 1


def test_published_order_within_a_step_is_by_exact_time() -> None:
    music = score(note(0.0, 1.003, pitch=60), note(1.001, 2.0, pitch=72))
    assert tokenize(music, PUBLISHED)[0].ids[4:8] == (103, 1076, 1132, 1064)  # on before off
    own = (OWN.velocity, OWN.pitch + 60, OWN.velocity + 26, OWN.pitch + 72)
    assert tokenize(music, OWN)[0].ids[5:9] == own


# --- Windows --------------------------------------------------------------------------------------


def test_seconds_only_cut_or_append() -> None:
    music = score(note(1.0, 7.0), duration=12.0)
    whole = tokenize(music, PUBLISHED)
    assert len(whole) == 3
    assert tokenize(music, PUBLISHED, 6.0) == whole[:2]
    longer = tokenize(music, PUBLISHED, 5.12 * 5)
    assert longer[:3] == whole
    assert longer[3:] == [TokenWindow(3, (1134, EOS)), TokenWindow(4, (1134, EOS))]
    assert tokenize(music, PUBLISHED, 0.0) == []


@pytest.mark.parametrize("count", range(1, 200, 7))
def test_seconds_of_whole_windows(count: int) -> None:
    assert len(tokenize(score(note(0.0, 1.0)), OWN, count * WINDOW_SECONDS)) == count


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_silence(vocabulary: Vocabulary) -> None:
    windows = tokenize(score(note(0.0, 1.0), note(30.0, 31.0)), vocabulary)
    assert ids(windows[1:5]) == [(vocabulary.tie, EOS)] * 4
    assert ids(tokenize(score(), vocabulary)) == [(vocabulary.tie, EOS)]


def test_a_held_note_is_tied_with_its_velocity() -> None:
    music = score(note(1.0, 12.0, velocity=30), note(2.0, 12.0, pitch=64, velocity=90))
    middle = tokenize(music, OWN)[1]
    v = OWN.velocity
    assert middle.ids == (1166, v + 8, 1064, v + 23, 1068, 1165, EOS)
    assert read(middle, OWN) == [
        WindowNote(60, 0, 8, False, True, 0, STEPS_PER_WINDOW),
        WindowNote(64, 0, 23, False, True, 0, STEPS_PER_WINDOW),
    ]


def test_a_note_on_the_edge_sounds_in_one_window_only() -> None:
    windows = tokenize(score(note(1.0, WINDOW_SECONDS), note(WINDOW_SECONDS, 6.0)), OWN)
    first, second = (read(window, OWN) for window in windows)
    assert [(n.onset, n.offset, n.is_tied) for n in first] == [(100, STEPS_PER_WINDOW, False)]
    assert [(n.onset, n.offset, n.is_tied) for n in second] == [(0, 88, False)]


def test_an_instant_lasts_a_step() -> None:
    (window,) = tokenize(score(note(1.001, 1.002)), OWN)
    assert [(n.onset, n.offset) for n in read(window, OWN)] == [(100, 101)]


# --- Notes of one program and pitch ---------------------------------------------------------------


def test_a_second_onset_strikes_anew_and_sounds_to_the_latest_end() -> None:
    music = score(note(0.0, 4.0, velocity=127), note(1.0, 2.0, velocity=1))
    notes = read(tokenize(music, OWN)[0], OWN)
    assert [(n.onset, n.offset, n.velocity_bin) for n in notes] == [(0, 100, 32), (100, 400, 1)]


def test_onsets_in_one_step_are_one_note() -> None:
    music = score(
        note(1.0, 2.0, velocity=127), note(1.001, 3.0, velocity=1), note(1.0, 1.5, velocity=64)
    )
    notes = read(tokenize(music, OWN)[0], OWN)
    assert [(n.onset, n.offset, n.velocity_bin) for n in notes] == [(100, 300, 32)]


def test_programs_and_drums_do_not_touch_each_other() -> None:
    music = score(note(0, 3, program=1), note(1, 2, program=2), note(1, 2, is_drum=True, program=9))
    assert read(tokenize(music, OWN)[0], OWN) == [
        WindowNote(60, 1, 26, False, False, 0, 300),
        WindowNote(60, 2, 26, False, False, 100, 200),
        WindowNote(60, 0, 26, True, False, 100, 101),
    ]


# --- Reading odd ids ------------------------------------------------------------------------------


def test_odd_but_grammatical_ids() -> None:
    v = PUBLISHED
    on, off, c4 = v.velocity + 1, v.velocity, v.pitch + 60
    stray_offset = (v.tie, v.shift + 5, off, c4, EOS)
    assert window_notes(stray_offset, v) == []
    restrike = (v.tie, on, c4, v.shift + 9, UNK, c4, PAD, v.shift + 12, off, c4, EOS, v.drum, -1)
    assert [(n.onset, n.offset) for n in window_notes(restrike, v)] == [(0, 9), (9, 12)]
    past_the_end = (v.tie, on, c4, v.shift + 512, v.drum, v.pitch + 61, v.shift + 900, off, c4)
    assert [(n.pitch, n.offset) for n in window_notes(past_the_end, v)] == [(60, 512)]


def test_loudness_that_the_ids_do_not_say_is_the_top_bin() -> None:
    assert window_notes((1135, 1064, 1134, EOS), PUBLISHED)[0].velocity_bin == 1
    assert window_notes((OWN.program, OWN.pitch, OWN.tie), OWN)[0].velocity_bin == 32


@pytest.mark.parametrize("wrong", [(1134, -1), (1134, 1391), (EOS, 1134), (1064, EOS), ()])
def test_ids_outside_the_grammar(wrong: tuple[int, ...]) -> None:
    with pytest.raises(TokenError):
        window_notes(wrong, PUBLISHED)


def test_an_unfounded_tie_begins_with_its_window() -> None:
    (held,) = detokenize([TokenWindow(3, (1135, 1064, 1134, EOS))], PUBLISHED).notes
    assert (held.start, held.end) == (15.36, 20.48)


# --- Overflow -------------------------------------------------------------------------------------


def crowd(count: int, seed: int = 0) -> list[Note]:
    """More notes than the first window has room for."""
    r = random.Random(seed)
    starts = (r.uniform(0, 5) for _ in range(count))
    return [
        note(
            start, start + r.uniform(0.1, 9), r.randrange(128), r.randrange(128), r.randint(1, 127)
        )
        for start in starts
    ]


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
@pytest.mark.parametrize("count", [800, 5000])
def test_overflow_drops_whole_notes(vocabulary: Vocabulary, count: int) -> None:
    windows = tokenize(score(*crowd(count)), vocabulary)
    assert sum(window.dropped for window in windows) > 0
    assert max(len(window.ids) for window in windows) <= MAX_TOKENS
    assert len(windows[0].ids) > MAX_TOKENS - 8  # no room is wasted
    assert_ties_continue(windows, vocabulary)


def assert_ties_continue(windows: Sequence[TokenWindow], vocabulary: Vocabulary) -> None:
    for before, after in pairwise(read(window, vocabulary) for window in windows):
        going_on = {(n.program, n.pitch) for n in before if n.offset == STEPS_PER_WINDOW}
        assert {(n.program, n.pitch) for n in after if n.is_tied} <= going_on


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
@pytest.mark.parametrize("seed", range(4))
def test_length_without_a_sound_is_what_writing_gives(vocabulary: Vocabulary, seed: int) -> None:
    page, sounds = crowded_page(vocabulary, seed)
    length = _Length(page, vocabulary)
    assert length.ids == len(_write(page, vocabulary))
    for *_, sound in sorted(_ranks(page, sounds)):
        length.take_out(sound)
        page = page.without({sound})
        assert length.ids == len(_write(page, vocabulary))
    assert length.ids == 2  # tie, EOS


def crowded_page(vocabulary: Vocabulary, seed: int) -> tuple[Page, list[Sound]]:
    """The second window of some crowd: notes held, begun and ended, and drums."""
    drums = [note(i / 30, 9, i % 5, velocity=i % 127 + 1, is_drum=True) for i in range(300)]
    sounds = to_sounds([*crowd(150, seed), *drums], vocabulary)
    first, second, *_ = split_events(to_events(sounds), 30.0, vocabulary)
    held: dict[int, Event] = {}
    hold(held, first, math.inf)
    return Page(STEPS_PER_WINDOW, held, [held[key] for key in sorted(held)], second), sounds


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
@pytest.mark.parametrize("count", [700, 3000])
def test_as_many_notes_are_kept_as_fit(vocabulary: Vocabulary, count: int) -> None:
    sounds = to_sounds(crowd(count), vocabulary)
    events, *_ = split_events(to_events(sounds), 20.0, vocabulary)
    page = Page(0, {}, [], events)
    _, surplus = fit_page(page, GoingOn(sounds), vocabulary)
    leaving = [sound for *_, sound in sorted(_ranks(page, sounds))][: len(surplus)]
    assert surplus == set(leaving)
    assert len(_write(page.without(surplus), vocabulary)) <= MAX_TOKENS
    assert len(_write(page.without(set(leaving[:-1])), vocabulary)) > MAX_TOKENS


def test_overflow_leaves_the_other_notes_as_they_were() -> None:
    r = random.Random(0)
    keys = [(program, pitch) for program in range(32) for pitch in range(128)]
    starts = [r.randrange(1000) / 100 for _ in keys]
    music = score(
        *(
            note(start, start + r.randint(1, 900) / 100, pitch, program, r.randint(1, 127))
            for start, (program, pitch) in zip(starts, keys, strict=True)
        )
    )
    windows = tokenize(music, OWN)
    kept = facts(detokenize(windows, OWN), OWN)
    assert len(kept) == len(keys) - sum(window.dropped for window in windows)
    whole = {(*fact[:4], *(round(time * 100) for time in fact[4:])) for fact in facts(music, OWN)}
    assert {(*fact[:4], *(round(time * 100) for time in fact[4:])) for fact in kept} <= whole


@pytest.mark.parametrize("vocabulary", VOCABULARIES[1:])
def test_notes_with_room_are_those_that_were_written(vocabulary: Vocabulary) -> None:
    music = score(*(note(i % 500 / 100, 8, i % 128, i // 128) for i in range(4000)))
    windows = TokenWindows(music, vocabulary)
    kept = windows.with_room(music.notes)
    found = detokenize(windows, vocabulary).notes
    assert len(kept) < len(music.notes)
    assert {(round(n.start * 100), vocabulary.program_class(n.program), n.pitch) for n in kept} == {
        (round(n.start * 100), n.program, n.pitch) for n in found
    }


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_windows_are_a_sequence(vocabulary: Vocabulary) -> None:
    music = score(note(0.0, 12.0), note(1.0, 1.5), note(20.0, 21.0))
    windows, listed = TokenWindows(music, vocabulary, 40.0), tokenize(music, vocabulary, 40.0)
    assert list(windows) == listed and len(windows) == len(listed) == 8
    assert [windows[i] for i in range(-8, 8)] == listed * 2
    for part in (slice(1, 6, 2), slice(None, None, -1), slice(6, 1, -2), slice(3, 3), slice(-2, 9)):
        assert windows[part] == listed[part]
    with pytest.raises(IndexError):
        windows[8]


def test_a_pile_of_notes_on_one_pitch_takes_one_pass() -> None:
    """Where one tie stands for many notes, they leave together, and nothing takes its place."""
    r = random.Random(0)
    held = [note(i / 400, 25.0, i % 128, SLAKH_PROGRAMS[i // 128], 127) for i in range(2000)]
    pile = [note(r.uniform(5.2, 10), 24.0, 100, 88, 1) for _ in range(300)]
    windows = TokenWindows(score(*held, *pile), PUBLISHED)
    assert all(len(window.ids) <= MAX_TOKENS for window in windows)
    assert sum(windows.dropped.values()) > 300


def test_overflow_keeps_the_loud_notes() -> None:
    loud = [note(i / 100, i / 100 + 0.5, pitch=i % 128, program=i // 128) for i in range(200)]
    quiet = [note(i / 150, 4.5, i % 128, 64 + i // 128, velocity=9) for i in range(600)]
    music = score(*loud, *quiet)
    (window,) = tokenize(music, OWN)
    assert {(n.program, n.pitch, n.onset) for n in read(window, OWN)} >= {
        (n.program, n.pitch, round(n.start * 100)) for n in loud
    }
    assert 0 < window.dropped < len(quiet)


def test_overflow_thins_equals_evenly() -> None:
    hits = [note(i % 500 / 100, 5, pitch=i // 500, is_drum=True) for i in range(5000)]
    (window,) = tokenize(score(*hits), OWN)
    halves = [n.onset < 250 for n in read(window, OWN)]
    assert 0.45 < sum(halves) / len(halves) < 0.55


def test_ties_that_do_not_fit_leave_earlier_windows_too() -> None:
    held = [note(i / 100, 12.0, i % 128, i // 128, velocity=1 + i * 37 % 127) for i in range(800)]
    windows = tokenize(score(*held), OWN)
    assert [window.dropped > 0 for window in windows] == [False, False, True]
    sounding = [{(n.program, n.pitch) for n in read(window, OWN)} for window in windows]
    assert sounding[-1] == set().union(*sounding)


def test_music_after_a_crowd_is_untouched() -> None:
    music = score(*crowd(5000), note(20.0, 21.0))
    assert tokenize(music, OWN)[3].ids == tokenize(score(note(20.0, 21.0)), OWN)[3].ids


# --- There and back -------------------------------------------------------------------------------


def random_score(seed: int) -> Score:
    """Notes of many lengths; those of one program and pitch repeat, but never overlap."""
    r = random.Random(seed)
    notes: list[Note] = []
    for program, pitch in {(r.randrange(128), r.randrange(128)) for _ in range(12)}:
        is_drum = r.random() < 0.2
        start = r.choice([0.0, r.uniform(0, 40)])
        for _ in range(r.randint(1, 6)):
            end = start + r.choice([0.01, r.uniform(0.02, 1), r.uniform(1, 20), WINDOW_SECONDS])
            notes.append(note(start, end, pitch, program, r.randint(1, 127), is_drum))
            start = end + r.choice([0.02, r.uniform(0.02, 2), 30.0])
    return score(*notes)


def assert_comes_back(music: Score, vocabulary: Vocabulary) -> None:
    back = detokenize(tokenize(music, vocabulary), vocabulary)
    for got, wanted in zip(facts(back, vocabulary), facts(music, vocabulary), strict=True):
        assert got[:4] == wanted[:4]
        assert got[4:] == pytest.approx(wanted[4:], abs=0.0101)


def facts(music: Score, vocabulary: Vocabulary) -> list[tuple[bool, int, int, int, float, float]]:
    """What of each note has to come back; of drums neither program nor end."""
    return sorted(
        (
            n.is_drum,
            0 if n.is_drum else vocabulary.program_class(n.program),
            n.pitch,
            vocabulary.velocity_bin(n.velocity),
            n.start,
            n.start if n.is_drum else n.end,
        )
        for n in music.notes
    )


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize("vocabulary", [v for v in VOCABULARIES if v.programs == "full"])
def test_notes_come_back(vocabulary: Vocabulary, seed: int) -> None:
    music = random_score(seed)
    assert_comes_back(music, vocabulary)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_notes_of_distinct_classes_come_back(vocabulary: Vocabulary, seed: int) -> None:
    keys = [(program, pitch) for program in SLAKH_PROGRAMS for pitch in range(30, 90, 9)]
    r = random.Random(seed)
    starts = [r.uniform(0, 30) for _ in keys]
    music = score(
        *(
            note(start, start + r.uniform(0.02, 15), pitch, program, r.randint(1, 127))
            for start, (program, pitch) in zip(starts, keys, strict=True)
        )
    )
    assert_comes_back(music, vocabulary)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("vocabulary", VOCABULARIES[1:])
def test_tokens_come_back_whatever_overlaps(vocabulary: Vocabulary, seed: int) -> None:
    r = random.Random(seed)
    starts = [r.uniform(0, 12) for _ in range(300)]
    music = score(
        *(
            note(start, start + r.expovariate(1) + 0.001, r.choice([60, 61]), r.choice([0, 1, 88]))
            for start in starts
        )
    )
    windows = tokenize(music, vocabulary)
    again = tokenize(detokenize(windows, vocabulary), vocabulary, len(windows) * WINDOW_SECONDS)
    assert again == windows


@pytest.mark.parametrize("seed", range(10))
def test_ties_are_exactly_what_sounds(seed: int) -> None:
    music = random_score(seed)
    for window in tokenize(music, OWN):
        start = window.index * STEPS_PER_WINDOW
        tied = {(n.program, n.pitch) for n in read(window, OWN) if n.is_tied}
        assert tied == {
            (n.program, n.pitch)
            for n in music.notes
            if not n.is_drum and round(n.start * 100) < start < round(n.end * 100)
        }


def test_duration_is_where_the_last_window_ends() -> None:
    back = detokenize(tokenize(score(note(0.0, 6.0)), PUBLISHED), PUBLISHED)
    assert math.isclose(back.duration, 2 * WINDOW_SECONDS)
