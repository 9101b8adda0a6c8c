"""Log-mels equal TensorFlow's, and their scaling can be undone."""

import math

import pytest
import torch

from spectro_render.constants import LOG_MEL_MAX, LOG_MEL_MIN, MEL_FLOOR
from spectro_render.mel import from_model, hann_window, log_mel, mel_matrix, to_model
from tests.support.golden import arrays, difference

AUDIBLE = 9.0  # nats below a frame's loudest band: 78 dB


def test_matrix_is_tensorflows() -> None:
    # TensorFlow makes it in float32.
    assert difference(mel_matrix(), arrays("mel")["mel_matrix"]) < 2e-5


def test_log_mel_is_tensorflows() -> None:
    reference = arrays("mel")["log_mel"].double()
    ours = log_mel(arrays("mel")["samples"].double())
    off = (ours - reference).abs()
    audible = reference > reference.amax(-1, keepdim=True) - AUDIBLE
    assert float(off[audible].max()) < 1e-4
    # Deeper down the reference's own float32 rounding shows, in one of 12 928 numbers.
    assert int((off >= 1e-4).sum()) <= 1
    assert float(off.max()) < 1.1e-4


def test_float32_is_as_good_where_it_can_be_heard() -> None:
    reference = arrays("mel")["log_mel"]
    off = (log_mel(arrays("mel")["samples"]) - reference).abs()
    assert float(off[reference > reference.amax(-1, keepdim=True) - AUDIBLE].max()) < 2e-4


@pytest.mark.parametrize(
    ("samples", "frames"), [(1, 1), (320, 1), (321, 2), (640, 2), (81_920, 256)]
)
def test_a_frame_every_320_samples(samples: int, frames: int) -> None:
    assert log_mel(torch.zeros(2, samples)).shape == (2, frames, 128)


def test_silence_is_the_floor() -> None:
    assert torch.allclose(log_mel(torch.zeros(640)), torch.tensor(math.log(MEL_FLOOR)))


def test_scaling_round_trip() -> None:
    mel = torch.linspace(LOG_MEL_MIN, LOG_MEL_MAX, 1001, dtype=torch.float64)
    assert difference(from_model(to_model(mel)), mel) < 1e-12
    assert to_model(mel).aminmax() == (-1, 1)


def test_scaling_clips() -> None:
    beyond = torch.tensor([LOG_MEL_MIN - 5, LOG_MEL_MAX + 5])
    assert to_model(beyond).tolist() == [-1, 1]


def test_constants_first_asked_for_while_rendering_serve_training() -> None:
    mel_matrix.cache_clear()
    hann_window.cache_clear()
    with torch.inference_mode():
        log_mel(torch.zeros(640))
    samples = torch.randn(640, requires_grad=True)
    log_mel(samples).sum().backward()
    assert samples.grad is not None
