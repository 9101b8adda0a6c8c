"""Evaluation: perfect for the same sound, bad for a bad one; the transcriber's graph is real.

What renders references needs FluidSynth.
"""

# ruff: noqa: E402  (without its extra, evaluation cannot be imported)

import ctypes.util
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
import torch

from spectro_render.audio.limiter import DEFAULT_GAIN
from spectro_render.cli.app import run
from spectro_render.constants import SAMPLE_RATE, WINDOW_FRAMES
from spectro_render.errors import SpectroRenderError
from spectro_render.midi.score import Note, Score
from spectro_render.training.synth import SOUNDFONTS, Synthesizer
from spectro_render.vocoder.griffin_lim import GriffinLim
from tests.support.songs import MakeSong

for package in ("mir_eval", "onnxruntime"):
    pytest.importorskip(package, reason="needs the extra 'evaluate'")

from spectro_render.evaluation import distances, faults, onsets, probes, transcription, vibrato
from spectro_render.evaluation.arrays import Matrix
from spectro_render.evaluation.drums import drum_f1
from spectro_render.evaluation.files import compare, compare_copy
from spectro_render.evaluation.frechet import (
    CEPSTRUM,
    frechet_distance,
    load_embedding,
    reconstruction_distance,
    vggish_patches,
)
from spectro_render.evaluation.measures import Measure, pool, values_of
from spectro_render.evaluation.references import RecordedReference
from spectro_render.evaluation.sources import ModelOutput, fit_length
from spectro_render.tokens.vocabulary import SLAKH_PROGRAMS

Samples = npt.NDArray[np.float32]
SECONDS = 5.5

needs_fluidsynth = pytest.mark.skipif(
    ctypes.util.find_library("fluidsynth") is None or not Path(SOUNDFONTS[0]).exists(),
    reason="needs FluidSynth and MuseScore General Lite",
)


def tune(pitches: tuple[int, ...] = (60, 64, 67, 72, 55, 59, 62, 65, 69, 57, 48, 52)) -> Score:
    """A note every 0.4 s on a piano, and a drum half way between every other two."""
    notes = [Note(0.2 + 0.4 * k, 0.5 + 0.4 * k, p, 90, 0, False) for k, p in enumerate(pitches)]
    notes += [
        Note(0.4 + 0.8 * k, 0.5 + 0.8 * k, (36, 38, 42)[k % 3], 110, 0, True) for k in range(6)
    ]
    ordered = tuple(sorted(notes, key=lambda note: note.start))
    return Score(ordered, max(note.end for note in ordered))


@pytest.fixture(scope="module")
def synthesize() -> Callable[[Score], Samples]:
    synthesizer = Synthesizer()
    return lambda score: fit_length(synthesizer.render_score(score), SECONDS)


@pytest.fixture(scope="module")
def true(synthesize: Callable[[Score], Samples]) -> Samples:
    return synthesize(tune())


def sines(*hertz: float, seconds: float = 2.0) -> Samples:
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return sum(0.1 * np.sin(2 * np.pi * h * time) for h in hertz).astype(np.float32)  # type: ignore[union-attr]


def as_made(samples: Samples) -> ModelOutput:
    return ModelOutput(distances.mel_of(samples), samples, samples, took=2.0)


@needs_fluidsynth
class TestAgainstAReference:
    def measure(self, samples: Samples, true: Samples) -> dict[str, float]:
        values = values_of(compare(as_made(samples), true, tune()))
        return {name: float("nan") if value is None else value for name, value in values.items()}

    def test_the_same_sound_is_perfect(self, true: Samples) -> None:
        found = self.measure(true, true)
        assert found["note_f1"] > 0.6
        assert found["drum_f1"] == found["drum_f1_reference"] > 0.8
        assert found["drum_f1_ratio"] == found["seam_ratio"] == 1
        assert found["mel_l1"] == found["mel_l1_sound"] == found["stft_distance"] == 0
        assert found["chroma"] == pytest.approx(1)
        assert found["loudness"] == pytest.approx(1)
        assert found["louder_db"] == found["clipped"] == 0
        assert found["silent"] == found["silent_reference"]

    def test_another_render_of_the_same_is_near(
        self, true: Samples, synthesize: Callable[[Score], Samples]
    ) -> None:
        found = self.measure(synthesize(tune()), true)
        assert 0 < found["mel_l1"] < 0.2
        assert found["drum_f1_ratio"] > 0.9
        assert found["chroma"] > 0.99
        assert found["loudness"] > 0.99

    def test_a_late_sound_has_the_right_notes_at_the_wrong_time(self, true: Samples) -> None:
        late = np.concatenate([np.zeros(1920, np.float32), true])[: len(true)]  # 0.12 s
        found = self.measure(late, true)
        assert found["note_f1"] < 0.2
        assert found["drum_f1_ratio"] < 0.5
        assert found["stft_distance"] > 0.7

    def test_silence_has_nothing(self, true: Samples) -> None:
        found = self.measure(np.zeros_like(true), true)
        assert found["note_f1"] == found["drum_f1"] == 0
        assert found["silent"] == 1
        assert found["mel_l1"] > 2
        assert found["louder_db"] < -40
        assert np.isnan(found["chroma"])
        assert np.isnan(found["loudness"])

    def test_added_noise_shows(self, true: Samples) -> None:
        noise = np.random.default_rng(0).normal(0, 0.01, len(true)).astype(np.float32)
        found = self.measure(true + noise, true)
        assert found["mel_l1_sound"] > 1
        assert found["stft_distance"] > 1
        assert found["chroma"] < 0.98

    def test_a_sound_without_its_drums_has_none(
        self, true: Samples, synthesize: Callable[[Score], Samples]
    ) -> None:
        pitched = tuple(note for note in tune().notes if not note.is_drum)
        found = self.measure(synthesize(replace(tune(), notes=pitched)), true)
        assert found["drum_f1_ratio"] < 0.2
        assert found["note_f1"] > 0.6

    def test_other_notes_are_wrong(
        self, true: Samples, synthesize: Callable[[Score], Samples]
    ) -> None:
        other = replace(tune(), notes=tuple(replace(n, pitch=n.pitch + 1) for n in tune().notes))
        found = self.measure(synthesize(other), true)
        assert found["note_f1"] < 0.2
        assert found["chroma"] < 0.8

    def test_a_copy_without_a_network_is_worse_than_the_original(self, true: Samples) -> None:
        mel = torch.from_numpy(distances.mel_of(true)).float()
        copy = GriffinLim(8)(mel[None])[0].numpy()
        found = values_of(compare_copy(copy, true, tune()))
        assert 0.2 < (found["vocoder_stft_distance"] or 0) < 1.5
        best = values_of(compare_copy(true, true, tune()))
        assert best["vocoder_stft_distance"] == 0
        assert (best["vocoder_note_f1"] or 0) >= (found["vocoder_note_f1"] or 0)


class TestNotes:
    def test_unisons_drums_and_extremes_are_not_asked_for(self) -> None:
        notes = [
            Note(1.0, 1.5, 60, 90, 0, False),
            Note(1.03, 2.0, 60, 90, 40, False),
            Note(1.06, 2.0, 60, 90, 0, False),
            Note(0.5, 1.0, 20, 90, 0, False),
            Note(0.5, 1.0, 38, 90, 0, True),
            Note(0.0, 0.001, 50, 90, 0, False),
        ]
        played = transcription.played_notes(notes)
        assert played.pitches.tolist() == [50, 60, 60]
        assert played.intervals.tolist() == [[0.0, 0.02], [1.0, 1.5], [1.06, 2.0]]

    def test_steady_tones_are_found_once_each(self) -> None:
        quiet = np.zeros(SAMPLE_RATE // 2, np.float32)
        samples = np.concatenate([quiet, sines(440.0, 880.0, 1320.0), quiet])
        found = transcription.transcribe(samples)
        start, end = found.intervals[found.pitches.tolist().index(69)]
        assert start == pytest.approx(0.5, abs=0.05)
        assert end == pytest.approx(2.5, abs=0.2)

    def test_silence_and_short_clips_have_no_notes(self) -> None:
        for samples in (np.zeros(0), np.zeros(SAMPLE_RATE), 0.1 * np.ones(50)):
            assert len(transcription.transcribe(samples.astype(np.float32)).pitches) == 0

    def test_the_score_is_mir_evals(self) -> None:
        samples = sines(440.0, 880.0, 1320.0)
        found = transcription.transcribe(samples)
        assert len(found.pitches)
        assert transcription.note_f1(samples, found) == 1
        moved = transcription.Notes(found.intervals + 0.06, found.pitches)
        assert transcription.note_f1(samples, moved) == 0
        twice = transcription.Notes(
            np.concatenate([found.intervals, found.intervals + 30]), np.tile(found.pitches, 2)
        )
        assert transcription.note_f1(samples, twice) == pytest.approx(2 / 3)  # half the recall

    def test_music_without_pitches_cannot_be_scored(self) -> None:
        nothing = transcription.played_notes([])
        assert np.isnan(transcription.note_f1(sines(440.0), nothing))

    def test_notes_are_those_of_basic_pitch(self) -> None:
        """Stored: what basic-pitch 0.4.0 finds in the chord below, start, end and pitch."""
        time = np.arange(3 * SAMPLE_RATE) / SAMPLE_RATE
        samples = np.zeros_like(time)
        for start, pitch in ((0.3, 57), (0.9, 64), (1.5, 69), (2.1, 61)):
            age = np.maximum(time - start, 0)
            hertz = 440 * 2 ** ((pitch - 69) / 12)
            partials = (np.sin(2 * np.pi * hertz * k * age) / k for k in range(1, 6))
            samples += 0.1 * sum(partials) * np.exp(-3 * age) * (time >= start)
        found = transcription.transcribe(samples.astype(np.float32))
        notes = sorted(zip(*found.intervals.T.round(4).tolist(), found.pitches, strict=True))
        assert notes == [
            (0.2902, 0.4528, 85),
            (0.2902, 0.894, 57),
            (0.8707, 1.4861, 64),
            (0.894, 1.1029, 92),
            (0.894, 1.4629, 57),
            (1.4861, 1.7299, 97),
            (1.4861, 2.9734, 69),
            (1.4977, 1.9853, 57),
            (1.4977, 2.0911, 64),
            (2.0911, 2.5671, 85),
            (2.0911, 2.9734, 61),
            (2.2652, 2.5206, 64),
        ]


class TestDrums:
    def hits(self, *starts: float) -> list[Note]:
        return [Note(start, start + 0.1, 42, 100, 0, True) for start in starts]

    def clicks(self, *starts: float) -> npt.NDArray[np.float64]:
        """Bursts of noise above 5 kHz, as a log-mel."""
        mel = np.full((200, 128), -11.5)
        for start in starts:
            first = round(start * 50)
            mel[first : first + 10, 110:] = np.linspace(1, -9, 10)[:, None]
        return mel

    def test_all_hits_found(self) -> None:
        assert drum_f1(self.clicks(0.5, 1.0, 2.0), self.hits(0.5, 1.0, 2.0)).value == 1

    def test_missing_and_extra_hits_cost(self) -> None:
        assert drum_f1(self.clicks(0.5, 1.0), self.hits(0.5, 1.0, 2.0, 3.0)) == (4, 6)
        assert drum_f1(self.clicks(0.5, 1.0, 2.0, 3.0), self.hits(0.5, 1.0)) == (4, 6)
        assert drum_f1(self.clicks(0.6), self.hits(0.5)).value == 0

    def test_hits_under_pitched_notes_count_neither_way(self) -> None:
        notes = [*self.hits(0.5, 1.0), Note(1.02, 2.0, 60, 90, 0, False)]
        for mel in (self.clicks(0.5, 1.0), self.clicks(0.5)):
            assert drum_f1(mel, notes).value == 1

    def test_no_drums_no_score(self) -> None:
        assert drum_f1(self.clicks(0.5), []).value is None


class TestFaults:
    def test_clipped_samples_are_counted(self) -> None:
        samples = np.array([0.5, 0.991, -1.0, 0.99], np.float32)
        assert faults.clipped_samples(samples) == 2

    def test_silence_and_offset(self) -> None:
        samples = np.zeros(6400, np.float32)
        samples[:1600] = 0.01
        assert faults.silent_share(samples) == 0.75
        assert faults.offset(samples) == pytest.approx(0.0025)

    def test_a_step_at_a_border_is_a_seam(self) -> None:
        noise = np.random.default_rng(0).normal(0, 1, (3 * WINDOW_FRAMES, 128))
        smooth = faults.seams(noise)
        assert smooth.value == pytest.approx(1, abs=0.1)
        noise[WINDOW_FRAMES : 2 * WINDOW_FRAMES] += 10
        assert (faults.seams(noise).value or 0) > 3
        assert faults.seams(np.roll(noise, 50, axis=0)).value == pytest.approx(1, abs=0.2)

    def test_no_border_no_seam(self) -> None:
        assert faults.seams(np.zeros((100, 128))).value is None


class TestOnsets:
    """Noise bursts at chosen times, in a mel of two windows."""

    TIMES = (1.0, 3.0, 5.12, 7.0)  # seconds; the third is on the border

    def mel(self, *levels: float) -> Matrix:
        """A mel in which the burst at each of TIMES reaches a level in nats."""
        mel = np.full((2 * WINDOW_FRAMES, 128), -6.0)
        for time, level in zip(self.TIMES, levels, strict=True):
            first = round(time * 50)
            mel[first : first + 20, 40:90] = level
        return mel

    def values(self, *levels: float) -> dict[str, float | None]:
        notes = [Note(time, time + 0.2, 60, 90, 0, False) for time in self.TIMES]
        true = self.mel(0.0, 0.0, 0.0, 0.0)
        return values_of(onsets.onsets_at_borders(self.mel(*levels), true, notes))

    def test_the_same_onsets(self) -> None:
        assert self.values(0.0, 0.0, 0.0, 0.0) == {
            "onset_level_border": 0,
            "onset_recall_border": 1,
            "onset_level_elsewhere": 0,
            "onset_recall_elsewhere": 1,
        }

    def test_an_onset_lost_at_a_border(self) -> None:
        found = self.values(0.0, 0.0, -4.0, 0.0)
        assert found["onset_level_border"] == pytest.approx(-4 * 8.686, abs=0.01)
        assert found["onset_recall_border"] == 0
        assert found["onset_level_elsewhere"] == 0

    def test_an_onset_lost_elsewhere(self) -> None:
        found = self.values(0.0, -4.0, -1.0, 0.0)
        assert found["onset_level_border"] == pytest.approx(-8.686, abs=0.01)
        assert found["onset_recall_border"] == 1
        assert found["onset_level_elsewhere"] == pytest.approx(-4 * 8.686 / 3, abs=0.01)
        assert found["onset_recall_elsewhere"] == pytest.approx(2 / 3)

    def test_what_does_not_rise_in_the_reference_is_not_measured(self) -> None:
        steady, notes = self.mel(0, 0, 0, 0), [Note(5.3, 5.5, 60, 90, 0, False)]
        assert not any(
            measure.whole for measure in onsets.onsets_at_borders(steady, steady, notes).values()
        )


class TestDistances:
    def test_a_gain_is_a_difference_in_level_alone(self) -> None:
        samples = sines(440.0, 1000.0)
        assert distances.loudness_difference(2 * samples, samples) == pytest.approx(6.02, abs=0.01)
        assert distances.mel_distance(
            distances.mel_of(2 * samples) + 1, distances.mel_of(2 * samples)
        ) == pytest.approx(1)

    def test_stft_distance_of_half_the_level(self) -> None:
        """Convergence is |R - R/2| / |R|, and every magnitude above the floor is ln 2 away."""
        noise = np.random.default_rng(0).normal(0, 0.1, SAMPLE_RATE).astype(np.float32)
        assert distances.stft_distance(noise / 2, noise) == pytest.approx(0.5 + np.log(2), abs=1e-3)

    def test_change_from_frame_to_frame(self) -> None:
        assert distances.change(np.array([[0.0, 1.0], [1.0, 1.0], [1.0, -2.0]])) == 1.0
        assert np.isnan(distances.change(np.zeros((1, 128))))

    def test_rises_of_bursts(self) -> None:
        """Noise 40 dB louder for every third tenth of a second, at once or within 50 ms."""
        noise = np.random.default_rng(0).normal(0, 0.1, 3 * SAMPLE_RATE)
        tenth = np.arange(len(noise)) / 1600
        is_loud = tenth % 3 < 1
        sudden = np.where(is_loud, 1.0, 0.01)
        soft = np.where(is_loud, 0.01 ** np.clip(1 - 2 * (tenth % 3), 0, 1), 0.01)
        found = distances.rises(np.float32(noise * sudden))
        assert 33 < found < 41
        assert distances.rises(np.float32(noise * soft)) < 12
        assert np.isnan(distances.rises(np.zeros(100, np.float32)))

    def test_chroma_knows_octaves_as_the_same(self) -> None:
        assert distances.chroma_similarity(sines(440.0), sines(880.0)) > 0.95
        assert distances.chroma_similarity(sines(440.0), sines(622.25)) < 0.2

    def test_loudness_is_a_weighted(self) -> None:
        low, high = sines(100.0), sines(1000.0)
        assert distances.loudness_difference(low, high) == pytest.approx(-19.1, abs=0.3)

    def test_a_swell_against_a_fade(self) -> None:
        ramp = np.linspace(0.01, 1, 2 * SAMPLE_RATE, dtype=np.float32)
        swell, fade = sines(440.0) * ramp, sines(440.0) * ramp[::-1]
        assert distances.loudness_correlation(swell, 0.1 * swell) == pytest.approx(1)
        assert distances.loudness_correlation(swell, fade) < -0.5


class TestProbes:
    """A stand-in for a synthesiser: each program is a tone with an overtone of its own."""

    def tone(self, program: int, loudness: float = 1.0) -> Samples:
        samples = sines(300.0, 600.0 + 55.0 * program, seconds=5.12)
        return np.asarray(samples * loudness, np.float32)

    def play(self, name: str, score: Score) -> Samples:
        """As loud, second by second, as the notes' velocities say."""
        note = score.notes[0]
        number = note.pitch if note.is_drum else note.program
        samples = self.tone(number)
        for one in score.notes:
            span = slice(round(one.start * SAMPLE_RATE), round(one.end * SAMPLE_RATE))
            samples[span] *= one.velocity / 127
        return samples

    def test_phrases_fit_into_a_window(self) -> None:
        for score in (probes.phrase(40), probes.drum_phrase(38), probes.velocity_phrase(40)):
            assert 3 < score.duration < 5.12

    def test_each_instrument_is_nearest_to_itself(self) -> None:
        found = probes.identify(self.play, self.play)
        assert found == (1, 1, {})

    def test_a_quieter_instrument_is_still_itself(self) -> None:
        found = probes.identify(lambda *probe: self.play(*probe) / 4, self.play)
        assert found.top1 == 1

    def test_one_sound_for_all_is_found_out(self) -> None:
        found = probes.identify(lambda *_: self.tone(0), self.play)
        assert found.top1 < 0.1
        assert found.top1 <= found.top3 < 0.25
        assert found.mistaken["program-88"] == "program-0"

    def test_ranks(self) -> None:
        assert probes.own_ranks(np.array([[0.0, 1, 2], [0, 1, 2], [3, 1, 2.0]])) == [0, 1, 1]

    def test_velocity_followed_ignored_and_reversed(self) -> None:
        assert probes.follow_velocity(self.play, self.play) == pytest.approx((1, 1, 1))
        ignored = probes.follow_velocity(lambda *_: self.tone(0), self.play)
        assert abs(ignored.rank_correlation) < 0.5
        assert ignored.slope == pytest.approx(0, abs=0.01)

        def reversed_play(name: str, score: Score) -> Samples:
            notes = tuple(replace(note, velocity=128 - note.velocity) for note in score.notes)
            return self.play(name, replace(score, notes=notes))

        assert probes.follow_velocity(reversed_play, self.play).rank_correlation == -1

    def test_levels_of_all_sounds(self) -> None:
        names = probes.level_phrases()
        assert len(names) == 128 + 61 + 8
        for score in names.values():
            assert max(note.end for note in score.notes) < 5.12

        def uneven(name: str, score: Score) -> Samples:
            return self.play(name, score) * {"program-31": 0.1, "drum-34": 2.0}.get(name, 1.0)

        found = probes.compare_levels(uneven, self.play)
        assert found.within == 0
        assert found.worst == pytest.approx(20, abs=0.1)
        assert found.far_off == pytest.approx({"program-31": -20, "drum-34": 6.02}, abs=0.1)

    def test_vibrato_of_notes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """... of 15 cents at 5 Hz beside half of it, another rate, and none at all."""
        monkeypatch.setattr(vibrato, "PROGRAMS", (40, 73))
        monkeypatch.setattr(vibrato, "PITCHES", (64,))

        def sway(cents: float, rate: float) -> Samples:
            time = np.arange(round(2.8 * SAMPLE_RATE)) / SAMPLE_RATE
            hertz = 330 * 2 ** (cents * np.sin(2 * np.pi * rate * time) / 1200)
            phase = 2 * np.pi * np.cumsum(hertz) / SAMPLE_RATE
            return np.float32(sum(np.sin(h * phase) / h for h in range(1, 9)) / 20)

        def compared(cents: float, rate: float) -> vibrato.Vibrato:
            return vibrato.compare_vibrato(lambda *_: sway(cents, rate), lambda *_: sway(15, 5))

        assert compared(15, 5) == (2, 1, 1)
        half = compared(7.5, 5.5)
        assert half.deviation == pytest.approx(0.5, abs=0.03)
        assert half.rate == 1
        assert compared(15, 7.5).rate == 0
        assert compared(0, 5).deviation < 0.05
        none = vibrato.compare_vibrato(lambda *_: sway(15, 5), lambda *_: sway(0, 5))
        assert none.notes == 0

    def test_rank_correlation(self) -> None:
        rising = np.array([1.0, 2.0, 3.0, 4.0])
        assert probes.rank_correlation(rising, rising**3) == pytest.approx(1)
        assert probes.rank_correlation(rising, np.ones(4)) == 0
        assert probes.rank_correlation(rising, np.array([1.0, 3, 2, 4])) == pytest.approx(0.8)
        tied = probes.rank_correlation(rising, np.array([1.0, 2, 2, 3]))
        assert tied == pytest.approx(0.9487, abs=1e-4)


class TestFrechet:
    def test_of_two_gaussians(self) -> None:
        """Diagonal covariances: |m1 - m2|^2 + sum (s1 - s2)^2."""
        rng = np.random.default_rng(0)
        one = rng.normal(size=(200_000, 3)) * [1, 2, 3]
        other = rng.normal(size=(200_000, 3)) * [2, 2, 1] + [0, 1, 0]
        assert frechet_distance(one, other) == pytest.approx(1 + 1 + 0 + 4, rel=0.02)
        assert frechet_distance(one, one) == pytest.approx(0, abs=1e-6)

    def test_of_fewer_points_than_dimensions(self) -> None:
        points = np.random.default_rng(0).normal(size=(5, 64))
        assert frechet_distance(points, points) == pytest.approx(0, abs=1e-6)
        assert frechet_distance(points, points + 1) == pytest.approx(64)

    def test_the_cepstrum_tells_timbres_apart(self) -> None:
        one, same = CEPSTRUM.embed(sines(440.0)), CEPSTRUM.embed(sines(440.0))
        other = CEPSTRUM.embed(sines(440.0, 3000.0))
        assert one.shape == (2, 64)
        assert reconstruction_distance(one, same) == 0
        assert reconstruction_distance(one, other) > 1
        short = CEPSTRUM.embed(sines(440.0, seconds=0.5))
        assert np.isnan(reconstruction_distance(short, short))

    def test_vggish_patches(self) -> None:
        patches = vggish_patches(sines(1000.0, seconds=2.5))
        assert patches.shape == (2, 96, 64)
        # band 64 * (mel(1000) - mel(125)) / (mel(7500) - mel(125)) is the loudest
        assert set(patches.argmax(2).ravel().tolist()) <= {19, 20}
        assert vggish_patches(np.zeros(16000, np.float32)).max() == pytest.approx(np.log(0.01))

    @pytest.mark.parametrize("shape", [["n", 96, 64], ["n", 1, 96, 64], ["n", 96, 64, 1]])
    def test_a_graph_that_takes_patches(self, shape: list[str | int], tmp_path: Path) -> None:
        embedding = load_embedding(self.graph(tmp_path / "vggish.onnx", shape))
        embedded = embedding.embed(sines(1000.0))
        assert embedded.shape == (2, 96 * 64)
        assert embedding.name == str(tmp_path / "vggish.onnx")

    @pytest.mark.parametrize("shape", [["n"], [1, "n"]])
    def test_a_graph_that_takes_samples(self, shape: list[str | int], tmp_path: Path) -> None:
        embedding = load_embedding(self.graph(tmp_path / "trill.onnx", shape, columns=160))
        assert embedding.embed(sines(1000.0)).shape == (200, 160)

    def test_what_is_no_embedding_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "text.onnx"
        path.write_text("no graph")
        with pytest.raises(SpectroRenderError, match="not a usable ONNX file"):
            load_embedding(path)
        with pytest.raises(SpectroRenderError, match="does not take sound"):
            load_embedding(self.graph(path, ["n", 3, 224, 224]))

    def graph(self, path: Path, shape: list[str | int], columns: int = 96 * 64) -> Path:
        """Write a graph that lays its input out in rows."""
        onnx = pytest.importorskip("onnx")
        helper, number = onnx.helper, onnx.TensorProto.FLOAT
        rows = onnx.numpy_helper.from_array(np.array([-1, columns]), "rows")
        model = helper.make_model(
            helper.make_graph(
                [helper.make_node("Reshape", ["in", "rows"], ["out"])],
                "rows",
                [helper.make_tensor_value_info("in", number, shape)],
                [helper.make_tensor_value_info("out", number, ["m", columns])],
                [rows],
            ),
            opset_imports=[helper.make_opsetid("", 17)],
            ir_version=8,
        )
        onnx.save(model, path)
        return path


class TestMeasures:
    def test_parts_and_wholes_are_summed(self) -> None:
        pooled = pool(
            [
                {"drum_f1": Measure(1, 2), "note_f1": Measure.of(0.5)},
                {"drum_f1": Measure(5, 5), "note_f1": Measure.of(float("nan"))},
                {"drum_f1": Measure(0, 1), "note_f1": Measure.of(0.1)},
            ]
        )
        assert values_of(pooled) == {"drum_f1": 0.75, "note_f1": pytest.approx(0.3)}

    def test_ratios_are_of_the_pooled(self) -> None:
        files = [
            {"note_f1": Measure.of(0.4), "note_f1_reference": Measure.of(0.4)},
            {"note_f1": Measure.of(0.0), "note_f1_reference": Measure.of(0.1)},
        ]
        assert values_of(pool(files))["note_f1_ratio"] == pytest.approx(0.8)
        assert values_of({"seam": Measure(0, 0), "seam_reference": Measure.of(1)}) == {
            "seam": None,
            "seam_reference": 1,
            "seam_ratio": None,
        }


class TestReferences:
    def test_recordings_are_brought_to_one_form(self, tmp_path: Path) -> None:
        (tmp_path / "a").mkdir()
        stereo = np.stack([sines(440.0), np.zeros(32000, np.float32)], axis=1)
        soundfile.write(tmp_path / "a" / "b.wav", stereo, 32000)
        sound = RecordedReference(tmp_path).sound(Path("a/b.mid"), tune(), 3.0)
        assert sound.shape == (3 * SAMPLE_RATE,)
        # Half of the sound in one of two channels, without the gain of rendering.
        level = 0.05 * 10 ** (-DEFAULT_GAIN / 20)
        assert np.abs(sound[: SAMPLE_RATE - 100]).max() == pytest.approx(level, rel=0.04)
        assert not sound[SAMPLE_RATE + 100 :].any()

    @pytest.mark.parametrize("suffix", [".flac", ".mp3", ".ogg"])
    def test_recordings_of_other_formats(self, tmp_path: Path, suffix: str) -> None:
        soundfile.write(tmp_path / f"b{suffix}", sines(440.0), 32000)
        sound = RecordedReference(tmp_path).sound(Path("b.mid"), tune(), 1.0)
        assert sound.std() > 0.001

    def test_a_missing_recording_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(SpectroRenderError, match=r"x\.wav"):
            RecordedReference(tmp_path).sound(Path("x.mid"), tune(), 1.0)


class TestCommand:
    @pytest.fixture
    def folder(self, song: MakeSong, tmp_path: Path) -> Path:
        """Two songs and recordings of them, one file that is broken."""
        for name in ("one", "two"):
            song(f"songs/{name}.mid", seconds=3.0)
            (tmp_path / "true").mkdir(exist_ok=True)
            soundfile.write(tmp_path / "true" / f"{name}.wav", sines(440.0, seconds=6.0), 16000)
        (tmp_path / "songs" / "broken.mid").write_bytes(b"MThd")
        return tmp_path

    def arguments(self, folder: Path, model: Path) -> list[str]:
        recordings = ["--reference", str(folder / "true"), "--model", str(model)]
        return ["evaluate", str(folder / "songs"), "--seconds", "2", "--steps", "1", *recordings]

    def test_json_has_an_object_a_file_and_one_of_the_model(
        self, folder: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        output = folder / "out"
        arguments = [*self.arguments(folder, tiny_model), "--json", "-o", str(output)]
        assert run(arguments) == 1  # the broken file
        printed, messages = capsys.readouterr()
        broken, one, two, model = map(json.loads, printed.splitlines())
        assert broken["status"] == "failed" and "broken.mid" in broken["input"]
        assert "broken.mid" in messages and "2/3 one.mid" in messages
        assert one["status"] == two["status"] == "measured"
        assert one["seconds"] == 2
        assert one["mel_l1"] > 0.5  # the toy's sound is noise
        assert one["clipped"] == 0
        assert one["vocoder_stft_distance"] > 0
        assert (model["files"], model["failed"]) == (2, 1)
        assert model["mean"]["mel_l1"] == pytest.approx((one["mel_l1"] + two["mel_l1"]) / 2)
        assert model["frechet"]["distance"] > 0
        assert model["frechet"]["embedding"] == "mel cepstrum"
        kept = {path.name for path in output.iterdir()}
        kinds = ("model", "reference", "vocoder")
        assert kept == {f"{name}.{kind}.wav" for name in ("one", "two") for kind in kinds}
        assert soundfile.info(output / "one.model.wav").duration == 2

    def test_the_table_has_a_row_a_file(
        self, folder: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (folder / "songs" / "broken.mid").unlink()
        assert run([*self.arguments(folder, tiny_model), "--parts", "files", "-q"]) == 0
        printed, messages = capsys.readouterr()
        lines = printed.splitlines()
        assert lines[0].split()[:4] == ["file", "notes", "drums", "mel"]
        assert [line.split()[0] for line in lines[1:4]] == ["one.mid", "two.mid", "all"]
        assert any(line.startswith("seam_ratio") for line in lines)
        assert "vocoder" not in printed
        assert not messages

    def test_limit_spreads_and_the_same_seed_is_the_same(
        self, folder: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        arguments = [*self.arguments(folder, tiny_model), "--parts", "files", "--json", "-q"]
        (folder / "songs" / "broken.mid").unlink()
        records = []
        for _ in range(2):
            assert run([*arguments, "--limit", "1"]) == 0
            first, _ = map(json.loads, capsys.readouterr().out.splitlines())
            first.pop("times_real_time")
            records.append(first)
        assert records[0] == records[1]

    @pytest.mark.parametrize(
        ("extra", "code", "message"),
        [
            (["--parts", "files,tempo"], 2, "unknown part 'tempo'"),
            (["--parts", "instruments"], 2, "no recordings for instruments"),
            (["--reference", "nowhere"], 2, "nowhere is not a folder"),
            (["--soundfont", "a.sf2"], 2, "--soundfont is of no use with recordings"),
            (["--sampler", "magic"], 2, "magic"),
            (["--embedding", "missing.onnx"], 1, "missing.onnx"),
        ],
    )
    def test_wrong_usage_is_one_line(
        self,
        extra: list[str],
        code: int,
        message: str,
        folder: Path,
        tiny_model: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        assert run([*self.arguments(folder, tiny_model), *extra]) == code
        printed, messages = capsys.readouterr()
        assert message in messages and messages.count("\n") == 1
        assert not printed

    def test_no_folder_and_no_files(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(["evaluate", str(tmp_path / "none")]) == 2
        assert run(["evaluate", str(tmp_path)]) == 1
        assert "no MIDI files under" in capsys.readouterr().err

    @needs_fluidsynth
    def test_probes_against_the_synthesiser(
        self,
        folder: Path,
        tiny_model: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setattr(probes, "SLAKH_PROGRAMS", SLAKH_PROGRAMS[:4])
        monkeypatch.setattr(probes, "DRUMS", probes.DRUMS[:2])
        monkeypatch.setattr(vibrato, "PROGRAMS", (40,))
        phrases = dict(list(probes.level_phrases().items())[:3])
        monkeypatch.setattr(probes, "level_phrases", lambda: phrases)
        arguments = ["evaluate", str(folder / "songs"), "--model", str(tiny_model), "--json", "-q"]
        assert (
            run([*arguments, "--parts", "instruments,velocity,levels,vibrato", "--steps", "1"]) == 0
        )
        found = json.loads(capsys.readouterr().out)
        assert found["files"] == 0
        assert 0 <= found["instruments"]["top1"] <= found["instruments"]["top3"] <= 1
        assert -1 <= found["velocity"]["rank_correlation"] <= 1
        assert found["levels"]["far_off"].keys() <= phrases.keys()
        assert found["vibrato"]["notes"] == 3
