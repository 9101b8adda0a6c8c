"""Writes the result of a training run as a model directory."""

import json
from pathlib import Path

import torch

from spectro_render.checkpoints.load import Defaults, save_model
from spectro_render.errors import SpectroRenderError
from spectro_render.network.build import make_model
from spectro_render.network.config import ModelConfig
from spectro_render.network.model import MelModel
from spectro_render.training.band import load_trained_band
from spectro_render.training.vocoder import load_trained_vocoder

TRANSFORMER = Path("diffusion", "checkpoint.pt")  # in the work folder


def trained_transformer(work: Path) -> tuple[MelModel, int]:
    """The Transformer trained in a work folder, with its averaged weights, and its steps so far."""
    state = torch.load(work / TRANSFORMER, map_location="cpu", weights_only=True)
    model = make_model(ModelConfig(**state["config"]))
    model.load_state_dict(state["average"])
    return model.eval(), state["step"]


def export(work: Path, output: Path) -> None:
    """Write the averaged weights as a model directory, with vocoder and band if these were trained.

    `work` is the work folder of the training. Raises SpectroRenderError if it has no Transformer.
    """
    if not (work / TRANSFORMER).exists():
        raise SpectroRenderError(
            f"{work / TRANSFORMER} is missing", "run the diffusion stage first"
        )
    model, steps = trained_transformer(work)
    vocoder = work / "vocoder"
    save_model(
        output,
        model,
        load_trained_vocoder(vocoder) if vocoder.exists() else None,
        load_trained_band(work / "band"),
        defaults=Defaults(sampler="dpm++", steps=10, guidance=1.0),
    )
    print(json.dumps({"model": str(output), "steps": steps}))
