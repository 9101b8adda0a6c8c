"""The device that computes, and the number format of the network's matrix products on it.

bfloat16 halves the memory of the weights and the time of products, but only on a processor that
computes in it. On others it is emulated, which is slower than float32. Log-mels of the default
model in bfloat16 differ from those in float32 by up to 0.1 nats, by 0.01 on average.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from spectro_render.errors import DeviceError

if TYPE_CHECKING:
    from spectro_render.network.config import ModelConfig

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

MARGIN = 1.2  # how many times faster products must be to be worth the coarser rounding
FRAMES = 256  # rows of the product that is timed, as many as a window has frames
REPEATS = 5  # how often it is timed


def check_dtype(name: str) -> None:
    """Raise DeviceError unless this is 'auto', 'float32', 'bfloat16' or 'float16'."""
    if name not in ("auto", *DTYPES):
        raise DeviceError(
            f"unknown number format {name!r}", f"use one of auto, {', '.join(DTYPES)}"
        )


def choose_dtype(name: str, config: ModelConfig, device: torch.device) -> torch.dtype:
    """The number format that a name stands for; 'auto' depends on the network and the device.

    'auto' is bfloat16 where the device multiplies it without emulation and at least MARGIN times
    faster than float32; elsewhere it is float32. Raises DeviceError for an unknown name.
    """
    check_dtype(name)
    if name != "auto":
        return DTYPES[name]
    faster = has_native_bfloat16(device) and bfloat16_gain(config, device) >= MARGIN
    return torch.bfloat16 if faster else torch.float32


def has_native_bfloat16(device: torch.device | None = None) -> bool:
    """Whether a device (None: the processor) multiplies bfloat16 numbers without emulation.

    For the processor only torch 2.10 and later can tell; with an older torch the answer is False.
    """
    kind = "cpu" if device is None else device.type
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities: Callable[[], dict[str, Any]] | None
    capabilities = getattr(torch.cpu, "get_capabilities", None)
    if kind != "cpu" or capabilities is None:
        return False
    return any(capabilities().get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def bfloat16_gain(config: ModelConfig, device: torch.device) -> float:
    """How many times faster than float32 a product of the network's shape is in bfloat16.

    The times are measured on `device`, which takes a few milliseconds.
    """
    frames = torch.rand(FRAMES, config.width, device=device)
    weight = torch.rand(config.mlp_width, config.width, device=device)
    exact = _seconds(frames, weight)
    return exact / _seconds(frames.bfloat16(), weight.bfloat16())


def _seconds(frames: torch.Tensor, weight: torch.Tensor) -> float:
    """How many seconds a product takes: the least of REPEATS measurements, after a warm-up."""
    taken = []
    for _ in range(1 + REPEATS):
        _wait_for(frames.device)
        begin = time.perf_counter()
        nn.functional.linear(frames, weight)
        _wait_for(frames.device)
        taken.append(time.perf_counter() - begin)
    return min(taken[1:])


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def number_format(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """A context manager within which matrix products on a device are computed in `dtype`."""
    return torch.autocast(device.type, dtype, enabled=dtype is not torch.float32)


def find_device(name: str) -> torch.device:
    """The device named 'auto', 'cpu', 'cuda', 'cuda:N' or 'mps'.

    'auto' is a CUDA device if there is one, else the CPU. Raises DeviceError for a device that
    cannot be used here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise DeviceError(f"device {name!r} cannot be used here", "use 'auto' or 'cpu'") from error
    return device
