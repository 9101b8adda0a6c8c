"""What channels do beside their notes, the buses of a file, and how they are mixed."""

import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from spectro_render.errors import OptionError
from spectro_render.midi.buses import MOST_PANS, buses
from spectro_render.midi.movement import MOST_MOVING
from spectro_render.midi.read import read_midi
from spectro_render.midi.score import Score, section
from spectro_render.options import Progress, RenderOptions
from spectro_render.render.mixer import place
from spectro_render.render.renderer import Renderer
from tests.support.smf_writer import smf, track
from tests.support.tolerances import STEPS_OF_16_BIT
from tests.support.toys import write_toy_band

TICK = 0.005  # seconds
CASES = Path(__file__).parent / "data" / "cases"
Events = list[tuple[int, str]]


def held(channel: int, begin: int, end: int, pitch: int = 60, velocity: int = 80) -> Events:
    on, off = f"9{channel:x}{pitch:02x}{velocity:02x}", f"8{channel:x}{pitch:02x}00"
    return [(begin, on), (end, off)]


def control(channel: int, tick: int, controller: int, value: int) -> Events:
    return [(tick, f"b{channel:x}{controller:02x}{value:02x}")]


def wheel(channel: int, tick: int, share: float) -> Events:
    """The wheel from -1 to 1."""
    value = min(16383, round(8192 * (1 + share)))
    return [(tick, f"e{channel:x}{value & 127:02x}{value >> 7:02x}")]


def bend_range(channel: int, tick: int, semitones: int) -> Events:
    pairs = ((101, 0), (100, 0), (6, semitones))
    return [event for number, value in pairs for event in control(channel, tick, number, value)]


def data_of(*tracks: Events) -> bytes:
    return smf(*(track(*events) for events in tracks), division=100)


def read(*tracks: Events) -> Score:
    return read_midi(data_of(*tracks))


def semitones(score: Score, *ticks: int) -> list[float]:
    (course,) = score.courses
    assert course.bend is not None
    return [round(course.bend.at(tick * TICK), 3) for tick in ticks]


# --- which buses


def test_a_file_that_neither_pans_nor_moves_has_one_bus() -> None:
    music = [event for channel in range(4) for event in held(channel, 0, 400)]
    score = read([*music, *control(1, 0, 7, 50), *control(1, 200, 10, 66), *wheel(2, 0, 1)])
    (bus,) = buses(score)
    assert score.courses == () and bus.score == score and bus.reasons == ()


def test_channels_of_one_pan_share_a_bus() -> None:
    music = [event for channel in range(5) for event in held(channel, 0, 400)]
    pans = [*control(0, 0, 10, 30), *control(1, 0, 10, 30), *control(2, 0, 10, 100)]
    found = buses(read([*music, *pans]))
    assert [(bus.channels, bus.reasons) for bus in found] == [
        ((3, 4), ()),
        ((0, 1), ("pan 30",)),
        ((2,), ("pan 100",)),
    ]


def test_a_channel_that_pans_between_notes_is_in_two_buses() -> None:
    notes = [*held(0, 0, 100), *held(0, 200, 300)]
    score = read([*notes, *control(0, 0, 10, 20), *control(0, 150, 10, 90)])
    assert [len(bus.score.notes) for bus in buses(score)] == [1, 1]
    moving = read([*held(0, 0, 300), *control(0, 150, 10, 90)])
    (bus,) = buses(moving)
    assert bus.reasons == ("pan over time",) and bus.pan.at(1.0) == 90


def test_pans_of_many_values_are_rounded() -> None:
    events: Events = []
    for number in range(32):  # two values of each channel
        channel = number % 16
        events += held(channel, 100 * number, 100 * number + 80)
        events += control(channel, 100 * number - 10 if number else 0, 10, 4 * number)
    found = buses(read(events))
    assert len(found) <= MOST_PANS + 1
    assert {bus.pan.values[0] % 8 for bus in found} == {0}


def test_channels_that_move_have_buses_of_their_own() -> None:
    bent = [*held(0, 0, 400), *wheel(0, 200, 0.5)]
    swell = [*held(1, 0, 400), *control(1, 200, 11, 40)]
    vibrato = [*held(2, 0, 400), *control(2, 200, 1, 90)]
    still = held(3, 0, 400)
    found = buses(read([*bent, *swell, *vibrato, *still]))
    reasons = [((3,), ()), ((0,), ("pitch bend",)), ((1,), ("volume",)), ((2,), ("modulation",))]
    assert [(bus.channels, bus.reasons) for bus in found] == reasons


def test_sixteen_channels_move_at_once_and_no_more_than_fit() -> None:
    events = [e for c in range(16) for e in (*held(c, 0, 400), *control(c, 100 + 9 * c, 10, 10))]
    assert len(buses(read([*events, *control(9, 0, 0, 0)]))) >= 15
    ports = [
        [(0, f"ff2101{port:02x}"), *held(0, 0, 400), *wheel(0, 200, 0.5)]
        for port in range(MOST_MOVING + 3)
    ]
    score = read(*ports)
    assert sum(course.moves for course in score.courses) == MOST_MOVING
    assert len(buses(score)) == MOST_MOVING + 1
    (named,) = score.ignored
    assert named.startswith("bend, swell or moving pan") and named.endswith("(3 notes)")


def test_the_notes_of_a_bus_are_those_of_the_file() -> None:
    score = read(
        [*held(0, 0, 400, velocity=99), *control(0, 0, 7, 50), *control(0, 200, 7, 10)],
        [*held(1, 0, 400, velocity=99), *control(1, 0, 7, 50), *wheel(1, 0, 1), *wheel(1, 200, 0)],
    )
    assert [(note.pitch, note.velocity) for note in score.notes] == [(60, 50), (62, 50)]
    swelling, bent = buses(score)
    assert [note.velocity for note in swelling.score.notes] == [99]
    assert [(note.pitch, note.velocity) for note in bent.score.notes] == [(60, 50)]
    assert swelling.level is not None
    assert swelling.level.at(0.5) == pytest.approx(0.25)
    assert swelling.score.fades == () and bent.level is None


# --- what channels do


def test_a_bend_that_is_set_before_a_note_and_reset_after_it() -> None:
    events = [*wheel(0, 90, 0.25), *held(0, 100, 200), *wheel(0, 210, 0)]
    score = read([*events, *held(0, 300, 400)])
    assert semitones(score, 0, 90, 150, 209, 210) == [0, 0.5, 0.5, 0.5, 0]
    whole = read([*wheel(0, 90, 0.5), *held(0, 100, 200), *wheel(0, 210, 0)])
    assert whole.courses == () and whole.notes[0].pitch == 61  # by its pitch alone


def test_the_range_changes_while_a_note_is_bent() -> None:
    events = [*held(0, 0, 400), *wheel(0, 100, 0.5), *bend_range(0, 200, 12)]
    score = read([*events, *control(0, 300, 121, 0)])
    assert semitones(score, 50, 150, 250, 350) == [0, 1, 6, 0]


def test_a_wheel_in_one_track_bends_the_notes_of_another() -> None:
    score = read([*held(0, 0, 400)], [*wheel(0, 200, 0.5), *held(0, 300, 400, 64)])
    assert semitones(score, 100, 250) == [0, 1]
    (bus,) = buses(score)
    assert {note.track for note in bus.score.notes} == {0, 1}


def test_coarse_tuning_moves_keys_and_bends_move_the_rest() -> None:
    tuning = [(0, "b06500"), (0, "b06402"), (0, "b00643")]  # 3 semitones up
    score = read([*tuning, *held(0, 0, 400), *wheel(0, 200, 0.5)])
    assert semitones(score, 100, 250) == [0, 1]
    (bus,) = buses(score)
    assert [note.pitch for note in bus.score.notes] == [63]


def test_drums_are_not_bent_but_pan_and_swell() -> None:
    events = [*held(9, 0, 10, 38), *wheel(9, 0, 1), *control(9, 0, 10, 20)]
    (bus,) = buses(read(events))
    assert bus.bend is None and bus.pan.at(0.0) == 20


def test_a_level_that_follows_a_fade_of_all_does_not_move() -> None:
    fades = [
        event
        for channel in (0, 1)
        for k in range(40)
        for event in control(channel, 1000 + 20 * k + 3 * channel, 7, 100 - 2 * k)
    ]
    assert read([*held(0, 0, 2000), *held(1, 0, 2000, 64), *fades]).courses == ()


def test_changes_at_the_edges_of_notes_are_for_their_neighbours() -> None:
    events = [*held(0, 0, 100), *held(0, 100, 200), *control(0, 99, 7, 40), *control(0, 99, 10, 9)]
    (course,) = read(events).courses
    assert not course.moves


@pytest.mark.parametrize("message", ["f00a411042124011 1c1400f7", "f009431 04c08000e14f7"])
def test_pan_of_a_part_by_an_exclusive_message(message: str) -> None:
    score = read([(0, message.replace(" ", "")), *held(0, 0, 100)])
    assert [course.pan.at(0.1) for course in score.courses] == [20]
    assert score.ignored == ()


def test_a_section_begins_with_what_was_set_before_it() -> None:
    events = [*held(0, 0, 2000), *wheel(0, 100, 0.5), *control(0, 100, 10, 20)]
    score = read([*events, *control(0, 100, 11, 30), *held(1, 0, 2000)])
    (course,) = section(score, 5.0, 2.0).courses
    assert course.bend is not None and course.level is not None
    assert (course.bend.times, course.bend.values) == ((), (1.0,))
    assert course.pan.at(0) == 20 and course.level.at(0) == pytest.approx((30 / 127) ** 2)


# --- how they are mixed


@pytest.fixture(scope="module")
def renderer(tiny_model: Path) -> Renderer:
    return Renderer.load(tiny_model, device="cpu")


def render(renderer: Renderer, *tracks: Events, **options: object) -> np.ndarray:
    options = {"gain": -30.0, "tail": 1.0, **options}
    return renderer.render(data_of(*tracks), **options).samples


def ratio(over: np.ndarray, under: np.ndarray, seconds: float) -> float:
    """The difference of two levels around a time, in dB."""
    part = slice(int((seconds - 0.05) * 16_000), int((seconds + 0.05) * 16_000))
    powers = [float(np.square(sound[part], dtype=np.float64).mean()) for sound in (over, under)]
    return 10 * math.log10(max(powers[0], 1e-20) / powers[1])


def test_pan_has_constant_power() -> None:
    pans = np.arange(128)
    np.testing.assert_allclose(np.square(place(pans)).sum(0), 2, atol=1e-12)
    assert place(64).tolist() == [1, 1]
    np.testing.assert_allclose(place([0, 1, 127]).T, [[2**0.5, 0]] * 2 + [[0, 2**0.5]], atol=1e-12)


@pytest.mark.parametrize("pan", [0, 20, 64, 100, 127])
def test_left_and_right_are_as_loud_as_the_pan_says(renderer: Renderer, pan: int) -> None:
    plain = render(renderer, held(0, 0, 400), channels="mono")[0]
    made = render(renderer, [*held(0, 0, 400), *control(0, 0, 10, pan)], channels="stereo")
    for side, gain in zip(made, place(pan), strict=True):
        np.testing.assert_allclose(side, plain * gain, rtol=0, atol=1e-6)


def test_sound_moves_from_left_to_right_within_a_note(renderer: Renderer) -> None:
    pans = [event for k in range(128) for event in control(0, 10 + 5 * k, 10, k)]
    music = held(0, 0, 800)
    left, right = render(renderer, [*music, *pans])
    for seconds in (0.5, 1.0, 2.0, 3.0):
        expected = place((seconds / TICK - 10) / 5)
        assert ratio(left, right, seconds) == pytest.approx(
            20 * math.log10(expected[0] / expected[1]), abs=1.0
        )


def test_files_that_do_not_pan_are_mono(renderer: Renderer) -> None:
    assert len(render(renderer, held(0, 0, 200))) == 1
    assert len(render(renderer, [*held(0, 0, 200), *control(0, 0, 10, 65)])) == 1
    assert len(render(renderer, [*held(0, 0, 200), *control(0, 0, 10, 20)])) == 2
    assert len(render(renderer, [*held(0, 0, 200), *control(1, 0, 10, 20)])) == 1
    with pytest.raises(OptionError, match="channels is 'surround'"):
        render(renderer, held(0, 0, 200), channels="surround")


EVERY_CHANNEL_PANS = [
    event
    for channel in range(8)
    for event in (*held(channel, 30 * channel, 800), *control(channel, 0, 10, 17 * channel))
]
SWELL = [event for k in range(100) for event in control(0, 100 + 5 * k, 11, 127 - k)]
EVERYTHING = [
    [*held(0, 0, 1600), *SWELL, *held(1, 200, 900, 64), *wheel(1, 300, 1), *wheel(1, 700, -1)],
    [*held(2, 0, 300, 67), *control(2, 0, 10, 100), *held(2, 1400, 1600, 67)],
    [*held(9, 0, 10, 38), *held(3, 800, 1200, 50), *control(3, 0, 1, 127)],
]


@pytest.mark.parametrize("tracks", [[EVERY_CHANNEL_PANS], EVERYTHING], ids=["pans", "everything"])
def test_the_mean_of_left_and_right_is_mono(renderer: Renderer, tracks: list[Events]) -> None:
    stereo, mono = (render(renderer, *tracks, channels=kind) for kind in ("stereo", "mono"))
    assert np.abs(mono).max() > 1e-4
    np.testing.assert_allclose(stereo.mean(0), mono[0], rtol=0, atol=1e-6)


def test_parts_of_a_stream_join_to_the_whole(renderer: Renderer) -> None:
    data = data_of(*EVERYTHING)
    whole = renderer.render(data)
    seen: list[Progress] = []
    parts = list(renderer.stream(data, on_progress=seen.append))
    joined = np.concatenate([part.samples for part in parts], axis=1)
    assert joined.shape == whole.samples.shape and len(joined) == 2
    np.testing.assert_allclose(joined, whole.samples, rtol=0, atol=2 * STEPS_OF_16_BIT)
    done = [progress.done for progress in seen]
    assert done == sorted(done) and seen[-1].windows == math.ceil(whole.seconds / 5.12)


def test_a_song_of_many_buses_sounds_the_same_beside_others(renderer: Renderer) -> None:
    data, other = data_of(*EVERYTHING), data_of(held(0, 0, 3000))
    alone = renderer.render(data).samples
    songs = [renderer.begin(one, live=False) for one in (other, data)]
    parts = []
    while not songs[1].is_over:
        parts.append(renderer.advance([song for song in songs if not song.is_over])[-1].samples)
    np.testing.assert_allclose(np.concatenate(parts, 1), alone, rtol=0, atol=2 * STEPS_OF_16_BIT)


def test_a_swell_of_one_part_follows_its_curve(renderer: Renderer) -> None:
    others = held(1, 0, 1600, 64)
    plain = render(renderer, held(0, 0, 1600), others, solo=("1",))[0]
    swelled = render(renderer, [*held(0, 0, 1600), *SWELL], others, solo=("1",))[0]
    for seconds in (0.3, 1.0, 1.8, 2.5, 2.95, 4.0):
        value = 127 - min(max((seconds / TICK - 100) / 5, 0), 99)
        expected = 40 * math.log10(value / 127)
        assert ratio(swelled, plain, seconds) == pytest.approx(expected, abs=0.5)


def test_expression_may_begin_with_silence(renderer: Renderer) -> None:
    others = held(1, 0, 1600, 64)
    rise = [event for k in range(128) for event in control(0, 5 * k, 11, k)]
    plain = render(renderer, held(0, 0, 1600), others, solo=("1",))[0]
    swelled = render(renderer, [*rise, *held(0, 0, 1600)], others, solo=("1",))[0]
    assert not swelled[:20].any()
    for seconds in (0.5, 1.0, 2.0, 4.0):
        expected = 40 * math.log10(min(seconds / TICK / 5, 127) / 127)
        assert ratio(swelled, plain, seconds) == pytest.approx(expected, abs=1.0)


def test_windows_in_which_nothing_sounds_are_not_rendered(
    renderer: Renderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered: list[int] = []
    next_mels = renderer.next_mels

    def counted(cursors, *arguments):  # type: ignore[no-untyped-def]
        rendered.append(len(cursors))
        return next_mels(cursors, *arguments)

    monkeypatch.setattr(renderer, "next_mels", counted)
    monkeypatch.setattr("spectro_render.render.voice.RUNG_OUT", 1e9)  # the toy never falls silent
    early = [*held(0, 0, 400), *control(0, 0, 10, 20)]
    late = [*held(1, 8000, 8200), *control(1, 0, 10, 100)]
    left, right = render(renderer, [*early, *late])
    assert len(rendered) == 9 and sum(rendered) < 6
    silence = slice(16 * 16_000, 35 * 16_000)
    assert not left[silence].any() and not right[silence].any()
    assert right[int(40.5 * 16_000) :].any()


def test_the_limiter_holds_both_sides_at_once(renderer: Renderer) -> None:
    events = [*held(0, 0, 800), *control(0, 0, 10, 40)]
    quiet = render(renderer, events, gain=-30.0)
    loud = render(renderer, events, gain=50.0)
    assert np.abs(loud).max() <= 0.981
    half = np.abs(quiet[1]) > 1e-4 * np.abs(quiet).max()
    np.testing.assert_allclose(
        (loud[0] / np.where(half, loud[1], 1))[half],
        (quiet[0] / np.where(half, quiet[1], 1))[half],
        rtol=1e-3,
    )


@pytest.mark.parametrize("share", [-1.0, 1.0])
def test_extreme_ranges_give_sound_of_the_right_length(renderer: Renderer, share: float) -> None:
    events = [*bend_range(0, 0, 127), *held(0, 0, 800), *wheel(0, 100, share), *wheel(0, 500, 0)]
    sound = render(renderer, events)
    assert np.isfinite(sound).all() and sound.shape == (1, 5 * 16_000)


def test_a_section_of_a_moving_song_is_as_long_as_asked(renderer: Renderer) -> None:
    sound = render(renderer, *EVERYTHING, start=1.0, duration=3.0)
    assert sound.shape == (2, 3 * 16_000) and np.abs(sound).max() > 0


def test_a_score_of_rests_is_silent(renderer: Renderer) -> None:
    options = RenderOptions(to_end_of_track=True, stems=True)
    audio = renderer.render(CASES / "18b_stem_of_rests.mid", options)
    assert audio.seconds == 10.0 and not audio.samples.any()


def test_buses_have_the_full_band_and_bends_move_it(tiny_model: Path, tmp_path: Path) -> None:
    model = tmp_path / "banded"
    shutil.copytree(tiny_model, model)
    write_toy_band(model)
    banded = Renderer.load(model, device="cpu")
    options = RenderOptions(gain=-40.0, tail=1.0, channels="stereo")
    plain = banded.render(data_of(*EVERYTHING), options)
    full = banded.render(data_of(*EVERYTHING), options, full_band=True)
    assert full.sample_rate == 48_000
    assert full.samples.shape == (2, 3 * plain.samples.shape[1])
    for side, own in zip(full.samples, plain.samples, strict=True):
        low, expected = np.fft.rfft(side) / 3, np.fft.rfft(own)
        below = np.arange(round(0.6 * len(expected)))  # 4.8 kHz
        error = np.linalg.norm(low[below] - expected[below])
        assert error < 0.05 * np.linalg.norm(expected[below])


# --- with the bundled model


@pytest.fixture(scope="module")
def bundled() -> Renderer:
    return Renderer.load("default", device="cpu")


def pitch(sound: np.ndarray, begin: float, end: float, near: float) -> float:
    """The pitch of sound between two times, in semitones of MIDI, near an expected one.

    That is where the sum of the magnitudes of its first harmonics is greatest.
    """
    part = sound[int(begin * 16_000) : int(end * 16_000)]
    spectrum = np.abs(np.fft.rfft(part * np.hanning(len(part)), 1 << 18))
    trials = near + np.arange(-1.5, 1.5, 0.01)
    hertz = 440 * 2 ** ((trials - 69) / 12)
    places = np.outer(np.arange(1, 5), hertz) * (1 << 18) / 16_000
    return float(trials[spectrum[places.round().astype(int)].sum(0).argmax()])


def test_a_melody_by_the_wheel_is_heard(bundled: Renderer) -> None:
    sound = bundled.render(CASES / "14_melody_by_pitch_wheel.mid", gain=0.0).samples[0]
    keys = (60, 64, 67, 72)
    heard = [pitch(sound, k + 0.3, k + 0.9, key) for k, key in enumerate(keys)]
    assert heard == pytest.approx(keys, abs=0.15)


@pytest.mark.parametrize("program", [16, 48, 73, 81])
def test_bends_have_their_pitch(bundled: Renderer, program: int) -> None:
    events: Events = [(0, f"c0{program:02x}"), *bend_range(0, 0, 2)]
    shares = (0.0, 0.5, -0.75, 0.25, 1.0, -1.0)
    for number, share in enumerate(shares):
        events += [*wheel(0, 160 * number, share), *held(0, 160 * number, 160 * number + 120, 64)]
    sound = bundled.render(data_of(events), gain=0.0).samples[0]
    plain = bundled.render(data_of([e for e in events if e[1][0] != "e"]), gain=0.0).samples[0]
    cents = []
    for number, share in enumerate(shares):
        span = 0.8 * number + 0.2, 0.8 * number + 0.6
        own = pitch(plain, *span, 64) - 64  # how well the model itself is in tune
        cents.append(100 * abs(pitch(sound, *span, 64 + 2 * share) - own - 64 - 2 * share))
    assert np.median(cents) < 10


def test_bent_notes_begin_when_they_should(bundled: Renderer) -> None:
    events: Events = [(0, "c018")]  # a guitar
    for number, share in enumerate((0.0, 0.4, -0.75, 0.3, 0.9, -0.9)):
        events += [*wheel(0, 160 * number, share), *held(0, 160 * number, 160 * number + 120, 64)]
    sound = bundled.render(data_of(events), gain=0.0).samples[0]
    plain = bundled.render(data_of([e for e in events if e[1][0] != "e"]), gain=0.0).samples[0]
    assert _onsets(sound) == pytest.approx(_onsets(plain), abs=0.015)


def _onsets(sound: np.ndarray) -> list[float]:
    """When each of six notes, 0.8 s apart, reaches a quarter of its power, in seconds."""
    found = []
    for number in range(1, 6):
        first = int((0.8 * number - 0.1) * 16_000)
        power = np.convolve(np.square(sound[first : first + 8000]), np.ones(80) / 80, mode="same")
        found.append((first + int(np.argmax(power > power.max() / 4))) / 16_000)
    return found
