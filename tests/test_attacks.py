"""Onsets that the vocoder makes sudden: short rises, what is left alone, pieces of a long sound."""

import math

import pytest
import torch
from torch import Tensor

from spectro_render.constants import HOP_LENGTH, SAMPLE_RATE
from spectro_render.mel import log_mel
from spectro_render.training.lines import _delay
from spectro_render.vocoder.attacks import clear_onsets, sharpen_attacks
from spectro_render.vocoder.lines import LineTable, source_of
from spectro_render.vocoder.melgan import VocoderConfig

ONSET = 25.0  # frames: half a second


def tone(hertz: float, begin: float, seconds: float = 1.0, rise: float = 0.0) -> Tensor:
    """A sine that begins at `begin` seconds and takes `rise` seconds to become loud."""
    time = torch.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    loudness = ((time - begin) / max(rise, 1e-6)).clamp(0, 1)
    return 0.3 * loudness * torch.sin(2 * math.pi * hertz * time)


def level(samples: Tensor, first: float, last: float) -> float:
    """Level in dB between two times in seconds."""
    part = samples[round(first * SAMPLE_RATE) : round(last * SAMPLE_RATE)]
    return 10 * math.log10(part.square().mean().item() + 1e-12)


def test_a_smeared_onset_becomes_sudden() -> None:
    true, smeared = tone(600, 0.5), tone(600, 0.45, rise=0.08)
    assert level(smeared, 0.48, 0.495) > -25
    sharp = sharpen_attacks(smeared, log_mel(true), torch.tensor([ONSET]))
    assert level(sharp, 0.48, 0.495) < -45
    assert level(sharp, 0.505, 0.515) > level(true, 0.505, 0.515) - 3
    torch.testing.assert_close(sharp[: 7000 - 128], smeared[: 7000 - 128], atol=1e-6, rtol=0)
    torch.testing.assert_close(sharp[8600:], smeared[8600:], atol=1e-6, rtol=0)


def test_a_soft_onset_and_sound_that_goes_on_are_left_alone() -> None:
    for true in (tone(600, 0.5, rise=0.3), tone(600, 0.0), tone(600, 0.5) + 2 * tone(700, 0.0)):
        sharp = sharpen_attacks(true, log_mel(true), torch.tensor([ONSET]))
        assert abs(level(sharp, 0.4, 0.495) - level(true, 0.4, 0.495)) < 1.5
        assert (sharp - true).abs().max() < 0.1


def test_one_band_begins_while_another_goes_on() -> None:
    """A drum's highs begin suddenly; a bass that sounds already is as before."""
    bass, highs = tone(100, 0.0), tone(5000, 0.45, rise=0.08)
    true = bass + tone(5000, 0.5)
    sharp = sharpen_attacks(bass + highs, log_mel(true), torch.tensor([ONSET]))
    rest = sharp - bass  # what is not the bass
    assert level(rest, 0.47, 0.495) < level(highs, 0.47, 0.495) - 15
    assert abs(level(sharp, 0.3, 0.44) - level(bass, 0.3, 0.44)) < 0.1


def test_onsets_that_follow_each_other_closely_are_left_alone() -> None:
    found = clear_onsets(torch.tensor([10.0, 11.0, 13.4, 20.0, 20.0]))
    assert found.tolist() == [10.0, 20.0]


def test_silence_and_onsets_outside_change_nothing() -> None:
    silence, samples = torch.zeros(SAMPLE_RATE), tone(600, 0.5)
    assert not sharpen_attacks(silence, log_mel(silence), torch.tensor([ONSET])).any()
    for onsets in (torch.zeros(0), torch.tensor([-3.0, 400.0])):
        assert sharpen_attacks(samples, log_mel(samples), onsets).equal(samples)


def test_a_piece_has_the_samples_of_the_whole() -> None:
    generator = torch.Generator().manual_seed(0)
    whole = 0.1 * torch.randn(100 * HOP_LENGTH, generator=generator)
    mel = log_mel(whole) + torch.randn(100, 1, generator=generator)
    onsets = 3.0 * torch.arange(33) + torch.rand(33, generator=generator, dtype=torch.float64) / 2
    expected = sharpen_attacks(whole, mel, onsets)
    assert (expected - whole).abs().max() > 0.05
    first, last = 40, 60
    piece = whole[(first - 4) * HOP_LENGTH : (last + 6) * HOP_LENGTH]
    near = onsets[(onsets > first - 5) & (onsets < last + 6)] - (first - 4)
    got = sharpen_attacks(piece, mel[first - 4 : last + 6], near)
    middle = expected[first * HOP_LENGTH : last * HOP_LENGTH]
    torch.testing.assert_close(got[4 * HOP_LENGTH : -6 * HOP_LENGTH], middle, atol=1e-5, rtol=0)


def test_a_sound_begins_as_late_as_its_source_does() -> None:
    table = LineTable(1, delays=True)
    table.delay[source_of(torch.tensor([40]), torch.tensor([60]))] = 160.0
    table.delay[source_of(torch.tensor([0]), torch.tensor([60]))] = 5000.0
    notes = torch.tensor([[40, 60, 1, 10, 20], [0, 60, 1, 10, 20], [1, 60, 1, 10, 20]]).double()
    assert table.begins(notes).tolist() == [10.5, 10.75, 10.175]  # 10 ms, at most 15, the usual
    assert "delay" in table.state_dict()
    assert "delay" not in LineTable(1).state_dict()
    with pytest.raises(ValueError, match="parts of a line table"):
        VocoderConfig(delays=True)


@pytest.mark.parametrize("late", [0.002, 0.01])
def test_a_delay_is_measured_in_a_sound(late: float) -> None:
    assert float(_delay(tone(600, late))) / SAMPLE_RATE == pytest.approx(late, abs=0.0015)
