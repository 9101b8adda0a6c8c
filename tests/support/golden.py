"""Stored results of the public implementations, and the tiny model that they were made with."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from spectro_render.checkpoints import load_checkpoint
from spectro_render.checkpoints.load import Checkpoint

DATA = Path(__file__).parents[1] / "data" / "golden"
PIPELINE = DATA / "tiny_pipeline"


@lru_cache
def arrays(name: str) -> dict[str, Tensor]:
    with np.load(DATA / f"{name}.npz") as stored:
        return {key: torch.from_numpy(stored[key]) for key in stored}


@lru_cache
def checkpoint() -> Checkpoint:
    torch.set_num_threads(1)
    return load_checkpoint(PIPELINE, vocoder="griffin-lim")


def tokens(window: int) -> Tensor:
    """Token ids (1, L) of one of the three windows."""
    return arrays("runs")[f"tokens_{window}"].long()[None]


def golden_noise(seed: int) -> Callable[[], Tensor]:
    """A function that draws the noise (1, 256, 128) of one window after another."""
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(1, 256, 128, generator=generator)


def difference(ours: Tensor, reference: Tensor) -> float:
    assert ours.shape == reference.shape
    return float((ours - reference).abs().max())
