"""Which number format is chosen, and how near its mels are to those of float32."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from spectro_render.checkpoints import load_checkpoint
from spectro_render.diffusion import noise_source
from spectro_render.errors import DeviceError
from spectro_render.mel import from_model
from spectro_render.network import device
from spectro_render.network.device import (
    check_dtype,
    choose_dtype,
    has_native_bfloat16,
    number_format,
)
from spectro_render.network.frames import note_table
from spectro_render.network.model import MelModel, SpectrogramModel
from spectro_render.network.presets import PRESETS
from spectro_render.options import Sampling
from spectro_render.tokens.vocabulary import WindowNote
from tests.support.golden import tokens
from tests.support.toys import toy_config

CPU = torch.device("cpu")
MAX_ERROR, MEAN_ERROR = 0.2, 0.015  # nats of log-mel, of the default model in bfloat16
NOTES = [WindowNote(48 + 3 * k, 10 * k, 20, False, False, 40 * k, 40 * k + 60) for k in range(10)]


@pytest.fixture(scope="module")
def default() -> MelModel:
    return load_checkpoint().model


# --- the choice -------------------------------------------------------------------------------


@pytest.fixture
def native(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Make the machine one that computes in bfloat16, or one that does not."""

    def pretend(answer: bool) -> None:
        monkeypatch.setattr(device, "has_native_bfloat16", lambda _: answer)

    return pretend


def test_a_name_is_what_it_says(native: Callable[[bool], None]) -> None:
    native(False)
    for name in ("float32", "bfloat16", "float16"):
        assert choose_dtype(name, toy_config(), CPU) is getattr(torch, name)


@pytest.mark.parametrize("preset", PRESETS)
def test_auto_is_bfloat16_for_wide_networks_where_it_is_native(
    native: Callable[[bool], None], preset: str
) -> None:
    native(True)
    wide = torch.float32 if preset.startswith("bundled") else torch.bfloat16
    assert choose_dtype("auto", PRESETS[preset], CPU) is wide
    native(False)
    assert choose_dtype("auto", PRESETS[preset], CPU) is torch.float32


def test_unknown_format() -> None:
    check_dtype("auto")
    with pytest.raises(DeviceError, match="unknown number format 'int3'; use one of auto, float32"):
        choose_dtype("int3", toy_config(), CPU)


def test_this_machine() -> None:
    wide = choose_dtype("auto", PRESETS["base"], CPU)
    assert (wide is torch.bfloat16) == has_native_bfloat16()
    assert not has_native_bfloat16(torch.device("mps"))


# --- narrow weights ---------------------------------------------------------------------------


def mel(model: MelModel, notes: Tensor, dtype: torch.dtype, steps: int = 3) -> Tensor:
    """Two windows' natural log-mels, (2, T, M), the second after the first."""
    mels: list[Tensor] = []
    with torch.inference_mode():
        for index in range(2):
            with number_format(CPU, dtype):
                memory = model.encode(notes, mels[-1] if mels else None)
            noise, sampling = noise_source(0, [index], CPU), Sampling("dpm++", steps, 1.0, 0)
            mels.append(model.draw(memory, noise, sampling, dtype=dtype))
    return from_model(torch.cat(mels))


@pytest.mark.parametrize("conditioning", ["frame_aligned", "cross_attention"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_weights_change_nothing(conditioning: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = SpectrogramModel(toy_config(conditioning=conditioning)).eval().requires_grad_(False)
    notes = note_table([NOTES]) if conditioning == "frame_aligned" else tokens(0)
    before = mel(model, notes, dtype)
    narrowed = copy.deepcopy(model)
    narrowed.narrow(dtype)
    assert narrowed.decoder.layers[0].mlp.gate.weight.dtype is dtype
    assert torch.equal(mel(narrowed, notes, dtype), before)


def test_float32_is_left_alone(default: MelModel) -> None:
    default.narrow(torch.float32)
    assert {weight.dtype for weight in default.parameters()} == {torch.float32}


# --- how near ---------------------------------------------------------------------------------


def error(model: MelModel, notes: Tensor, steps: int) -> tuple[float, float]:
    """The largest and the mean difference of a bfloat16 log-mel from the float32 one, in nats."""
    exact, near = (mel(model, notes, dtype, steps) for dtype in (torch.float32, torch.bfloat16))
    return float((near - exact).abs().max()), float((near - exact).abs().mean())


def test_bfloat16_keeps_the_mel(default: MelModel) -> None:
    assert default.config.conditioning == "frame_aligned"
    largest, mean = error(default, note_table([NOTES]), steps=10)
    assert 0 < mean < MEAN_ERROR and largest < MAX_ERROR
