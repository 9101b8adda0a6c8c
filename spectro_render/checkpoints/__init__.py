"""Finds, fetches, verifies, loads, saves and converts model directories."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spectro_render.checkpoints.load import Checkpoint
    from spectro_render.report import Reporter


def load_checkpoint(
    name: str | os.PathLike[str] = "default",
    vocoder: str | os.PathLike[str] | None = None,
    reporter: Reporter | None = None,
) -> Checkpoint:
    """Find a model by name or directory and load it onto the CPU, in float32.

    For arguments and errors see `find.resolve_model` and `load.load_model`.
    """
    from spectro_render.checkpoints.find import resolve_model
    from spectro_render.checkpoints.load import load_model

    return load_model(resolve_model(name, vocoder, reporter))
