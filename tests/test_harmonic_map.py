"""Notes for the vocoder: the line table, the harmonic map, and sound made with both."""

import ctypes.util
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from spectro_render.checkpoints import load_checkpoint
from spectro_render.checkpoints.convert import convert
from spectro_render.checkpoints.load import read_melgan, save_model
from spectro_render.constants import HOP_LENGTH, N_FFT, SAMPLE_RATE, WIN_LENGTH
from spectro_render.mel import log_mel, mel_matrix
from spectro_render.midi.score import Note, Score
from spectro_render.network.device import find_device
from spectro_render.network.model import SpectrogramModel
from spectro_render.render.renderer import Renderer
from spectro_render.training.lines import _course, _measure, _play
from spectro_render.training.synth import SOUNDFONTS, Synthesizer
from spectro_render.vocoder import harmonic_map as maps
from spectro_render.vocoder.griffin_lim import SEGMENT
from spectro_render.vocoder.harmonic_map import (
    REACH,
    expected_lines,
    harmonic_map,
    line_mel,
    map_notes,
    moved,
    notes_between,
)
from spectro_render.vocoder.lines import (
    COURSE_FRAMES,
    DRUM_KIT,
    LOWEST_PITCH,
    MELODIC_SOURCES,
    PITCH_STEP,
    PITCHES,
    LineTable,
    source_of,
)
from spectro_render.vocoder.melgan import MelGAN, SpectrumGenerator, VocoderConfig
from spectro_render.vocoder.phase import Stft
from spectro_render.vocoder.streaming import StreamingVocoder
from tests.support.toys import toy_config

BINS = 641
CONFIG = VocoderConfig(channels=4, dilations=(1, 2), iterations=1, lines=12)


def table(lines: int = 12, vibrato: float = 0.0) -> LineTable:
    made = LineTable(lines)
    made.decay[:], made.vibrato[:] = 1000, vibrato
    return made


def tone(hertz: Tensor, harmonics: int = 12) -> Tensor:
    """Samples (S,) of a harmonic tone whose frequency is given sample by sample, (S,)."""
    phase = 2 * math.pi * (hertz.double() / SAMPLE_RATE).cumsum(0)
    return sum((0.05 / h * torch.sin(h * phase + h)).float() for h in range(1, harmonics + 1))  # type: ignore[return-value]


def steady(seconds: float, hertz: float) -> Tensor:
    return tone(torch.full((round(seconds * SAMPLE_RATE),), hertz))


def rows(*notes: tuple[float, float, float], program: int = 40) -> Tensor:
    """Notes of a map: pitch, onset and offset in frames."""
    return torch.tensor(
        [[program, pitch, 0.8, onset, offset] for pitch, onset, offset in notes],
        dtype=torch.float64,
    )


def network(config: VocoderConfig = CONFIG) -> MelGAN:
    """A vocoder whose networks change what they are given, and believe the map half."""
    torch.manual_seed(0)
    vocoder = MelGAN(config).eval().requires_grad_(False)
    for name, parameter in vocoder.named_parameters():
        if ".output." in f".{name}" and parameter.dim() == 4:
            parameter.mul_(3)
    return vocoder


def melody(frames: int) -> tuple[Tensor, Tensor]:
    """A log-mel (T, 128) of overlapping notes over noise, and the notes."""
    pitches, parts = [57, 64, 69, 60, 67, 72], []
    samples = 1e-3 * torch.randn(frames * HOP_LENGTH, generator=torch.Generator().manual_seed(0))
    for number, begin in enumerate(range(0, frames, 20)):
        pitch = pitches[number % len(pitches)]
        end = min(frames, begin + 50)
        parts.append((pitch, float(begin), float(end)))
        sound = steady((end - begin) / 50, 440 * 2 ** ((pitch - 69) / 12))
        samples[begin * HOP_LENGTH : end * HOP_LENGTH] += sound
    return log_mel(samples), rows(*parts)


class TestLineTable:
    def test_a_new_one_has_plain_harmonics(self) -> None:
        hertz = LineTable(5).hertz(torch.tensor([0]), torch.tensor([57]))
        torch.testing.assert_close(hertz[0], 220.0 * torch.arange(1, 6), rtol=1e-5, atol=0)

    def test_frequencies_survive_sixteen_bits(self) -> None:
        for dtype in (torch.float16, torch.bfloat16):
            rounded = LineTable(40).to(dtype).float()
            hertz = rounded.hertz(torch.tensor([0]), torch.tensor([45]))[0]
            cents = 1200 * (hertz / (110.0 * torch.arange(1, 41))).log2()
            assert cents.abs().max() < 0.2

    def test_each_program_pitch_and_drum_has_a_row(self) -> None:
        pitch = torch.tensor([LOWEST_PITCH, LOWEST_PITCH + PITCH_STEP, 127, 0, 36])
        program = torch.tensor([0, 1, 127, 0, DRUM_KIT])
        expected = [0, PITCHES + 1, MELODIC_SOURCES - 1, 0, MELODIC_SOURCES + 36]
        assert source_of(program, pitch).tolist() == expected

    def test_lines_are_measured_where_a_sound_has_them(self) -> None:
        """... a sound whose second partial is 30 cents sharp, at half the first one's level."""
        made, time = LineTable(4), torch.arange(round(1.6 * SAMPLE_RATE)) / SAMPLE_RATE
        sharp = 440 * 2 * 2 ** (30 / 1200)
        parts = 0.1 * torch.sin(2 * math.pi * 440 * time)
        parts += 0.05 * torch.sin(2 * math.pi * sharp * time)
        _measure(made, 700, parts * torch.exp(-(time - 1.0).clamp(min=0) / 0.08), 69)
        hertz = made.hertz(torch.tensor([700]), torch.tensor([69]))[0]
        torch.testing.assert_close(hertz[:2], torch.tensor([440.0, sharp]), rtol=2e-4, atol=0)
        difference = made.level[700, 0] - made.level[700, 1]
        assert difference == pytest.approx(math.log(2), abs=0.05)
        assert made.vibrato[700] < 0.5
        assert made.release[700] == pytest.approx(4, rel=0.2)  # frames of 20 ms
        assert made.decay[700] > 500

    def test_a_course_is_followed_and_its_end_repeated(self) -> None:
        """... by deviations and by phases, faster for higher keys."""
        made = LineTable(1, courses=True)
        frame = torch.arange(COURSE_FRAMES)
        made.course[13] = 20 * torch.sin(2 * math.pi * frame / 10) + 5  # pitch 60
        made.repeat[13] = 40
        age = torch.tensor([0.0, 2.5, 12.5, 159.0, 162.5, 1002.5])
        note = torch.zeros(len(age), dtype=torch.long)
        cents, _ = made.deviation(torch.tensor([13]), torch.tensor([60]), note, age)
        wave = 20 * math.sin(2 * math.pi * 0.2) + 5  # the same two frames later
        torch.testing.assert_close(cents[[1, 2, 4, 5]], cents[[1]].expand(4), atol=1e-4, rtol=0)
        assert cents[1] == pytest.approx(wave, abs=0.01)
        faster, _ = made.deviation(torch.tensor([13]), torch.tensor([61]), note, age)
        slower_age = age * 2 ** (1 / 12)
        again, _ = made.deviation(torch.tensor([13]), torch.tensor([60]), note, slower_age)
        torch.testing.assert_close(faster, again, atol=1e-3, rtol=0)
        steps = torch.arange(0.0, 400.0)
        note = torch.zeros(len(steps), dtype=torch.long)
        cents, ahead = made.deviation(torch.tensor([13]), torch.tensor([60]), note, steps)
        slope = ahead.diff() * 50
        middle = 2 ** ((cents[1:] + cents[:-1]).double() / 2400) - 1
        torch.testing.assert_close(slope, middle, atol=2e-4, rtol=0)

    def test_a_course_that_no_one_measured_stays_in_bounds(self) -> None:
        """Numbers from a file may be anything finite."""
        made = LineTable(1, courses=True)
        made.course[:], made.repeat[:] = 6e4, 0.0
        zero = torch.zeros(1, dtype=torch.long)
        cents, ahead = made.deviation(zero, zero + 21, zero, torch.tensor([5000.0]))
        assert cents.item() == 200
        assert ahead.isfinite().all()

    def test_the_course_of_a_tone_is_measured_at_the_right_time(self) -> None:
        """... 15 cents of vibrato at 5 Hz that begin 0.5 s after the onset."""
        time = torch.arange(round(3.6 * SAMPLE_RATE)) / SAMPLE_RATE
        cents = 15 * torch.sin(2 * math.pi * 5 * (time - 0.5)) * (time > 0.5)
        sound = tone(440 * 2 ** (cents / 1200))
        course, repeat = _course(sound, 440.0 * torch.arange(1, 7))
        frame = torch.arange(COURSE_FRAMES) / 50
        expected = 15 * torch.sin(2 * math.pi * 5 * (frame - 0.5)) * (frame > 0.5)
        assert course[2:20].abs().max() < 1
        assert torch.corrcoef(torch.stack([course[30:], expected[30:]]))[0, 1] > 0.99
        assert course[30:].std() / expected[30:].std() == pytest.approx(1.2, abs=0.15)
        assert repeat % 10 == 0


HAS_FLUIDSYNTH = bool(ctypes.util.find_library("fluidsynth")) and any(
    Path(path).is_file() for path in SOUNDFONTS
)


@pytest.mark.skipif(not HAS_FLUIDSYNTH, reason="FluidSynth or its soundfont is not installed")
def test_a_piano_decays_and_a_violin_has_vibrato() -> None:
    """... whose lowest partials are near the harmonics of the pitch played."""
    made, synthesizer = LineTable(20), Synthesizer()
    for program in (0, 40):
        (sound,) = _play(synthesizer, [69], program, 1.0)
        _measure(made, program, sound, 69)
        strongest = made.hertz(torch.tensor([program]), torch.tensor([69]))[0, :4] / 440
        assert (1200 * (strongest / strongest.round().clamp(min=1)).log2()).abs().max() < 30
    assert made.vibrato[0] < 1 < made.vibrato[40]
    assert made.decay[0] < made.decay[40]


class TestHarmonicMap:
    def test_lines_move_as_the_table_says_where_the_mel_stands_still(self) -> None:
        mel = log_mel(steady(2.0, 440.0))
        made = LineTable(12, courses=True)
        made.decay[:], made.vibrato[:] = 1000, 20
        frame = torch.arange(COURSE_FRAMES)
        made.course[:] = 30 * torch.sin(2 * math.pi * frame / 10)
        made.repeat[:] = 40
        notes = rows((69, 0.0, 100.0))
        lines = expected_lines(notes, made, 100)[1]
        moved = lines.hertz / lines.nominal
        assert (1200 * moved.log2()).abs().max() == pytest.approx(29, abs=1.5)
        partials = harmonic_map(mel, notes, made, BINS).partials[:, 70]  # the second: 880 Hz
        advance = (partials[1:80] / partials[:79]).angle() / (2 * math.pi)
        middle = (made.course[0, 2:81] + made.course[0, 1:80]) / 2  # ages count from a frame before
        expected = 880 / 50 * 2 ** (middle / 1200)
        off = (advance - expected + 0.5) % 1 - 0.5
        assert off[5:].abs().max() < 0.002

    def test_lines_lie_where_the_notes_have_them(self) -> None:
        mel = log_mel(steady(2.0, 220.0))
        made = harmonic_map(mel, rows((57, 0.0, 100.0)), table(), BINS)
        spectrum = made.tonal[50]
        peaks = (spectrum[1:-1] > spectrum[:-2]) & (spectrum[1:-1] >= spectrum[2:])
        loud = spectrum[1:-1] > 0.02 * spectrum.max()
        bins = (peaks & loud).nonzero()[:, 0] + 1
        expected = (220 * torch.arange(1, len(bins) + 1) / 12.5).round()
        assert len(bins) >= 8
        assert (bins - expected).abs().max() <= 1

    def test_levels_are_those_of_the_recording(self) -> None:
        samples, stft = steady(2.0, 220.0), Stft(1280, HOP_LENGTH, 1280)
        made = harmonic_map(log_mel(samples), rows((57, 0.0, 100.0)), table(), BINS)
        true = stft.analyse(samples[None]).abs()[0, 48]
        peaks = (220 * torch.arange(1, 9) / 12.5).round().long()
        mapped = torch.hypot(made.tonal, made.noisy)[49]  # the centres lie a frame apart
        assert (mapped[peaks] / true[peaks]).log().abs().max() < 0.35

    @pytest.mark.parametrize(("pitch", "depth"), [(57, 20), (69, 25), (76, 30)])
    def test_lines_follow_vibrato(self, pitch: int, depth: int) -> None:
        time = torch.arange(3 * SAMPLE_RATE) / SAMPLE_RATE
        cents = depth * torch.sin(2 * math.pi * 5.5 * time)
        hertz = 440 * 2 ** ((pitch - 69) / 12 + cents / 1200)
        mel = log_mel(tone(hertz, 8) + 1e-4 * torch.randn(len(time)))
        note = rows((pitch, 0.0, 150.0))
        made = [harmonic_map(mel, note, table(8, v), BINS).tonal for v in (0.0, 15.0)]
        partial = 4 if pitch < 70 else 2
        nominal = partial * 440 * 2 ** ((pitch - 69) / 12)
        near = torch.arange(round(nominal / 12.5) - 5, round(nominal / 12.5) + 6)
        centres = []
        for tonal in made:
            power = tonal[20:130, near].square()
            centre = (power * near).sum(1) / power.sum(1) * 12.5
            centres.append(1200 * (centre / nominal).log2())
        true = cents[(torch.arange(20, 130) + 1) * HOP_LENGTH]
        still, moving = centres
        assert still.std() < 0.4 * moving.std()
        assert 0.6 < float(moving.std() / true.std()) < 1.4
        assert torch.corrcoef(torch.stack([moving, true]))[0, 1] > 0.95

    def test_phases_are_those_of_a_steady_sine(self) -> None:
        """From the onset on, over the borders of segments."""
        stft = Stft(1280, HOP_LENGTH, 1280)
        mel = log_mel(steady(5.0, 440.0))
        made = harmonic_map(mel, rows((69, 0.0, 250.0)), table(1), BINS)
        sound = stft.crop(stft.synthesise((made.tonal * made.partials)[None]), 250 * HOP_LENGTH)[0]
        inner = sound[SAMPLE_RATE : 4 * SAMPLE_RATE]
        assert SEGMENT < 150
        spectrum = torch.fft.rfft(inner * torch.hann_window(len(inner))).abs().square()
        assert spectrum[440 * 3 - 6 : 440 * 3 + 7].sum() > 0.99 * spectrum.sum()

    def test_a_frame_depends_on_few_others(self) -> None:
        mel, notes = melody(320)
        made = harmonic_map(mel, notes, table(vibrato=15.0), BINS)
        changed = mel.clone()
        changed[200:] -= 1.0
        other = harmonic_map(changed, notes, table(vibrato=15.0), BINS)
        for one, two in zip(made, other, strict=True):
            torch.testing.assert_close(one[: 3 * SEGMENT - 2], two[: 3 * SEGMENT - 2])

    def test_a_piece_is_a_part_of_the_whole(self) -> None:
        mel, notes = melody(320)
        whole = harmonic_map(mel, notes, table(vibrato=15.0), BINS)
        part = harmonic_map(
            mel[2 * SEGMENT :], notes_between(notes, 2 * SEGMENT, 320), table(vibrato=15.0), BINS
        )
        for one, two in zip(whole, part, strict=True):
            torch.testing.assert_close(
                one[3 * SEGMENT :], two[SEGMENT:], atol=1e-4 * float(one.abs().max()), rtol=1e-3
            )

    def test_many_notes_are_mapped_piece_by_piece(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The pieces together are the whole."""
        mel = log_mel(tone(torch.full((4 * SEGMENT * HOP_LENGTH,), 440.0)))
        notes = rows(*((69 + i, 50.0 * (i % 5), 50.0 * (i % 5) + 40.0) for i in range(12)))
        whole = harmonic_map(mel, notes, table(vibrato=15.0), BINS)
        lengths = []

        def expected(notes: Tensor, table: LineTable, length: int) -> Any:
            lengths.append(length)
            return expected_lines(notes, table, length)

        monkeypatch.setattr(maps, "expected_lines", expected)
        monkeypatch.setattr(maps, "MOST_PAIRS", 1)
        parts = harmonic_map(mel, notes, table(vibrato=15.0), BINS)
        assert lengths == [SEGMENT + REACH, *[SEGMENT + 2 * REACH] * 2, SEGMENT + REACH]
        for one, two in zip(whole, parts, strict=True):
            assert torch.allclose(one, two, rtol=1e-4, atol=1e-5)

    def test_drums_ring_on_whatever_their_offset(self) -> None:
        notes = torch.tensor([[DRUM_KIT, 38, 1.0, 0.0, 1.0]], dtype=torch.float64)
        made = LineTable(4)
        made.decay[:] = 20
        mel = torch.full((64, 128), -2.0)
        apart = harmonic_map(mel, notes, made, BINS)
        held = notes.clone()
        held[:, 4] = 64
        for one, two in zip(apart, harmonic_map(mel, held, made, BINS), strict=True):
            assert torch.equal(one, two)
        assert len(notes_between(notes, 10, 20)) == 1

    def test_the_mel_of_a_line(self) -> None:
        time = torch.arange(WIN_LENGTH) / SAMPLE_RATE
        for hertz in (440.0, 3000.0):
            frame = torch.sin(2 * math.pi * hertz * time) * torch.hann_window(WIN_LENGTH)
            magnitude = torch.fft.rfft(frame, N_FFT).abs() / (WIN_LENGTH / 4)
            true = magnitude @ mel_matrix()
            torch.testing.assert_close(
                line_mel(torch.tensor([hertz]))[0], true, atol=0.06, rtol=0.05
            )


def test_the_notes_of_a_score_in_frames() -> None:
    made = map_notes([Note(0.5, 1.0, 60, 127, 41, False), Note(1.0, 1.1, 38, 64, 0, True)])
    expected = [[41, 60, 1.0, 25.0, 50.0], [DRUM_KIT, 38, 64 / 127, 50.0, 55.0]]
    torch.testing.assert_close(made, torch.tensor(expected, dtype=torch.float64))
    assert map_notes([]).shape == (0, 5)
    assert moved(made, 25.0)[0].tolist() == [41, 60, 1.0, 0.0, 25.0]


class TestVocoder:
    def test_without_notes_nothing_changes(self) -> None:
        mel = melody(100)[0][None]
        vocoder = network()
        plain = MelGAN(replace(CONFIG, lines=0)).eval()
        own = vocoder.state_dict()
        plain.load_state_dict({name: own[name] for name in plain.state_dict()})
        assert torch.equal(vocoder(mel), plain(mel))
        assert vocoder.reads_notes and not plain.reads_notes
        assert torch.equal(plain(mel, [melody(100)[1]]), plain(mel))

    def test_notes_change_the_sound_but_not_its_length_or_level(self) -> None:
        mel, notes = melody(100)
        vocoder = network()
        plain, noted = vocoder(mel[None]), vocoder(mel[None], [notes])
        assert noted.shape == plain.shape and noted.isfinite().all()
        assert (noted - plain).abs().max() > 0.1 * plain.abs().max()
        assert (log_mel(noted[0]) - mel).abs()[5:-5].mean() < 0.3

    @pytest.mark.parametrize("wrong", [rows((58, 0.0, 100.0)), rows((30, 0.0, 50.0)), rows()])
    def test_wrong_notes_do_not_change_what_the_mel_says(self, wrong: Tensor) -> None:
        mel, notes = melody(100)
        vocoder = network()
        right, other = (vocoder(mel[None], [some])[0] for some in (notes, wrong.reshape(-1, 5)))
        errors = [(log_mel(sound) - mel).abs()[5:-5].mean() for sound in (right, other)]
        assert errors[1] < 2 * errors[0]
        assert (right - other).abs().max() > 0

    @pytest.mark.parametrize(("frames", "push"), [(300, 37), (700, 256), (1400, 1400)])
    @pytest.mark.parametrize("live", [True, False])
    def test_streaming_equals_the_whole(self, frames: int, push: int, live: bool) -> None:
        mel, notes = melody(frames)
        vocoder = network()
        assert isinstance(vocoder.generator, SpectrumGenerator)
        vocoder.generator.table.vibrato[:] = 10
        whole = vocoder(mel[None], [notes])[0]
        stream = StreamingVocoder(vocoder, live=live, notes=notes)
        joined = torch.cat([*map(stream.push, mel.split(push)), stream.flush()])
        torch.testing.assert_close(joined, whole, atol=1e-3 * float(whole.abs().max()), rtol=0)

    def test_a_batch_is_its_items(self) -> None:
        mel, notes = melody(120)
        mels, both = torch.stack([mel[:60], mel[60:]]), [notes, notes_between(notes, 60, 120)]
        vocoder = network()
        apart = [vocoder(one[None], [its]) for one, its in zip(mels, both, strict=True)]
        torch.testing.assert_close(vocoder(mels, both), torch.cat(apart), atol=1e-5, rtol=0)

    def test_silence_and_odd_notes_stay_finite(self) -> None:
        odd = torch.tensor(
            [
                [0, 0, 0.0, -500.0, -400.0],
                [127, 127, 1.0, 5.0, 5.0],
                [DRUM_KIT, 127, 1.0, 69.0, 70.0],
                [5, 60, 1.0, 500.0, 600.0],
            ],
            dtype=torch.float64,
        )
        for level in (-11.5, -60.0, 4.0):
            assert network()(torch.full((1, 70, 128), level), [odd]).isfinite().all()

    def test_a_waveform_generator_cannot_read_them(self) -> None:
        with pytest.raises(ValueError, match="waveform"):
            VocoderConfig(head="waveform", upsample=(320,), lines=4)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("noted")
    torch.manual_seed(0)
    save_model(path, SpectrogramModel(toy_config()), network())
    return path


class TestModel:
    def test_the_line_table_is_saved_loaded_and_converted(self, path: Path, tmp_path: Path) -> None:
        stored = read_melgan(path / "melgan").state_dict()["generator.table.cents"]
        assert torch.equal(stored, LineTable(CONFIG.lines).cents.half().float())
        convert(path, tmp_path / "copy", dtype="bfloat16", quiet=True)
        copied = read_melgan(tmp_path / "copy" / "melgan").state_dict()["generator.table.cents"]
        torch.testing.assert_close(copied, stored, atol=0.2, rtol=0)

    def test_songs_are_vocoded_with_their_notes(self, path: Path) -> None:
        score = Score((Note(0.1, 0.9, 60, 100, 40, False),), 0.9)
        loaded = load_checkpoint(path)
        renderer = Renderer(loaded, find_device("cpu"), torch.float32)
        (mel,) = renderer.mels(renderer.windows(score))
        sound = renderer.render(score, gain=-20.0).samples[0]
        with_notes, without = (renderer.vocode(mel, known).numpy() for known in (score, None))
        played = slice(0, 14_400)  # before the end fades
        assert abs(sound - with_notes[: len(sound)] * 0.1)[played].max() < 1e-5
        assert abs(sound - without[: len(sound)] * 0.1)[played].max() > 1e-4

    def test_a_vocoder_that_is_lent_is_given_none(self, path: Path) -> None:
        assert load_checkpoint(path).reads_notes
        assert not load_checkpoint("default", vocoder=path).reads_notes
        assert not load_checkpoint(path, vocoder="griffin-lim").reads_notes
