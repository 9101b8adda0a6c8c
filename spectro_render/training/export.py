"""Writes the result of a training run as a model directory."""

import json
from pathlib import Path

import torch

from spectro_render.checkpoints.load import Defaults, save_model
from spectro_render.errors import SpectroRenderError
from spectro_render.network.build import make_model
from spectro_render.network.config import ModelConfig
from spectro_render.training.vocoder import load_trained_vocoder


def export(work: Path, output: Path) -> None:
    """Write the averaged weights as a model directory, with the vocoder if one was trained.

    `work` is the work folder of the training. Raises SpectroRenderError if it has no Transformer.
    """
    checkpoint = work / "diffusion" / "checkpoint.pt"
    if not checkpoint.exists():
        raise SpectroRenderError(f"{checkpoint} is missing", "run the diffusion stage first")
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    model = make_model(ModelConfig(**state["config"]))
    model.load_state_dict(state["average"])
    vocoder = work / "vocoder"
    save_model(
        output,
        model,
        load_trained_vocoder(vocoder) if vocoder.exists() else None,
        defaults=Defaults(sampler="dpm++", steps=10, guidance=1.0),
    )
    print(json.dumps({"model": str(output), "steps": state["step"]}))
