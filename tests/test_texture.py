"""The fluctuation of noise and beating partials that is added to smooth mels."""

import math

import pytest
import torch
from torch import Tensor

from spectro_render.constants import HOP_LENGTH, LOG_MEL_MIN, SAMPLE_RATE
from spectro_render.mel import log_mel
from spectro_render.midi.score import Note, Score
from spectro_render.render.renderer import Renderer
from spectro_render.vocoder.lines import DRUM_KIT, MELODIC_SOURCES, LineTable
from spectro_render.vocoder.texture import AMOUNT, LOW_SHARE, add_texture

LENGTH = 256


def table(lines: int = 1, noise: float = -9.0) -> LineTable:
    """Lines that last, and the natural log of the noise beside them."""
    made = LineTable(lines, courses=True)
    made.decay[:], made.noise[:] = 1000, noise
    return made


def notes(*pitches: float, program: int = 40) -> Tensor:
    rows = [[program, pitch, 1.0, 0.0, 300.0] for pitch in pitches]
    return torch.tensor(rows, dtype=torch.float64)


def textured(mel: Tensor, rows: Tensor, lines: LineTable, seed: int = 0) -> Tensor:
    return add_texture(mel, rows, lines, torch.Generator().manual_seed(seed))


def changes(mel: Tensor) -> Tensor:
    """The mean change from frame to frame of each band."""
    return mel.diff(dim=0).abs().mean(0)


def test_noise_fluctuates_as_noise_does_in_a_mel() -> None:
    """... by its share of it, and its mean level stays."""
    lines = table()
    lines.noise[MELODIC_SOURCES + 36] = 0.0
    samples = 0.1 * torch.randn(LENGTH * HOP_LENGTH, generator=torch.Generator().manual_seed(1))
    true = log_mel(samples)
    smooth = true.mean(0).expand(LENGTH, 128)
    made = textured(smooth, notes(36, program=DRUM_KIT), lines)
    ratio = changes(made)[2:] / changes(true)[2:]
    assert ratio[:28].mean() == pytest.approx(AMOUNT * LOW_SHARE, rel=0.1)
    assert ratio[80:].mean() == pytest.approx(AMOUNT, rel=0.1)
    assert (made - smooth).mean(0).abs().max() < 0.02


def test_a_partial_that_stands_alone_is_steady() -> None:
    time = torch.arange(LENGTH * HOP_LENGTH) / SAMPLE_RATE
    mel = log_mel(0.1 * torch.sin(2 * math.pi * 3520 * time))
    made = textured(mel, notes(105), table())
    loud = int(mel[100].argmax())
    assert changes(made)[loud] < changes(mel)[loud] + 0.005


def test_partials_that_share_a_band_beat() -> None:
    """Two notes 14 cents apart near 3520 Hz: 29 times a second, which frames show as 21."""
    lines = table()
    lines.cents[:] = 0
    lines.cents[40 * 30 + 28] = 14.0  # of another program's pitch 105
    time = torch.arange(LENGTH * HOP_LENGTH) / SAMPLE_RATE
    mel = log_mel(0.1 * torch.sin(2 * math.pi * 3520 * time))
    pair = torch.cat([notes(105), notes(105, program=41)])
    alone, together = (textured(mel, rows, lines)[20:-20] for rows in (notes(105), pair))
    loud = int(mel[100].argmax())
    assert alone[:, loud].std() < 0.01
    assert together[:, loud].std() > 0.2
    spectrum = torch.fft.rfft(together[:, loud] - together[:, loud].mean()).abs()
    rate = 3520 * (2 ** (14 / 1200) - 1)
    expected = 50 - rate  # aliased
    assert float(spectrum.argmax()) * 50 / len(together) == pytest.approx(expected, abs=0.6)


def test_silence_stays_silent() -> None:
    mel = torch.full((LENGTH, 128), LOG_MEL_MIN)
    mel[100:, 40:] = -3.0
    made = textured(mel, notes(36, program=DRUM_KIT), table(noise=0.0))
    assert (made[:100] == LOG_MEL_MIN).all()
    assert (made[:, :40] == LOG_MEL_MIN).all()
    assert (made >= LOG_MEL_MIN).all()
    assert textured(mel, notes(60)[:0], table()).isfinite().all()


def test_it_depends_on_the_seed_alone() -> None:
    mel, rows = torch.full((LENGTH, 128), -3.0), notes(60, 64)
    one, same, other = (textured(mel, rows, table(), seed) for seed in (5, 5, 6))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


class TestRenderer:
    SCORE = Score(
        tuple(Note(k * 0.5, k * 0.5 + 0.4, 36 + k, 90, 0, k % 2 == 0) for k in range(24)), 12
    )

    def test_the_network_continues_the_mel_without_texture(self) -> None:
        renderer = Renderer.load("default", device="cpu")
        windows, sampling = renderer.windows(self.SCORE), renderer.sampling()
        cursors = [renderer._cursor(windows) for _ in range(2)]
        made = renderer.next_mels(cursors[:1], sampling)[0]
        renderer._lines = None
        smooth = renderer.next_mels(cursors[1:], sampling)[0]
        assert torch.equal(cursors[0].previous_mel, smooth)  # type: ignore[arg-type]
        assert 0.02 < (made - smooth).abs().mean() < 0.5

    def test_models_without_curves_get_none(self, tiny_model: str) -> None:
        assert Renderer.load(tiny_model, device="cpu")._lines is None

    def test_another_vocoder_gets_none(self) -> None:
        assert Renderer.load("default", device="cpu", vocoder="griffin-lim")._lines is None
