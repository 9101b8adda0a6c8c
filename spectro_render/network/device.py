"""The device that computes, and the number format of the network's matrix products on it.

bfloat16 halves the memory of the weights and the time of products, but only on a processor that
computes in it. On others it is emulated, which is slower than float32. Log-mels of the default
model in bfloat16 differ from those in float32 by up to 0.1 nats, by 0.01 on average.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch

from spectro_render.errors import DeviceError

if TYPE_CHECKING:
    from spectro_render.network.config import ModelConfig

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# From this width on a network gains from bfloat16: on an AMD EPYC with AVX-512 it was 1.5 times as
# fast as in float32 at a width of 512 and 1.4 times at 768, but only 1.03 times at 128.
BFLOAT16_WIDTH = 512


def check_dtype(name: str) -> None:
    """Raise DeviceError unless this is 'auto', 'float32', 'bfloat16' or 'float16'."""
    if name not in ("auto", *DTYPES):
        raise DeviceError(
            f"unknown number format {name!r}", f"use one of auto, {', '.join(DTYPES)}"
        )


def choose_dtype(name: str, config: ModelConfig, device: torch.device) -> torch.dtype:
    """The number format that a name stands for; 'auto' depends on the network and the device.

    'auto' is bfloat16 for a network of at least BFLOAT16_WIDTH on a device that multiplies it
    without emulation, else float32. Nothing is timed, so a busy machine chooses the same. Raises
    DeviceError for an unknown name.
    """
    check_dtype(name)
    if name != "auto":
        return DTYPES[name]
    is_faster = config.width >= BFLOAT16_WIDTH and has_native_bfloat16(device)
    return torch.bfloat16 if is_faster else torch.float32


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
        why = ""
        if name.startswith("cuda") and torch.version.cuda is None:
            why = ": this PyTorch is built for CPUs"
        message = f"device {name!r} cannot be used here{why}"
        raise DeviceError(message, "use 'auto' or 'cpu'") from error
    return device
