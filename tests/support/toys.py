"""A tiny model of the default model's kind, with random weights."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from spectro_render.network.config import ModelConfig
    from spectro_render.options import RenderOptions
    from spectro_render.render.renderer import Renderer
    from spectro_render.tokens.vocabulary import TokenWindow


def toy_config(**changes: object) -> "ModelConfig":
    """The smallest network that has every part."""
    from spectro_render.network.config import ModelConfig

    shape = {
        "width": 32,
        "heads": 2,
        "head_width": 16,
        "mlp_width": 32,
        "note_layers": 1,
        "context_layers": 1,
        "decoder_layers": 1,
        "level_width": 64,
        "dropout": 0.0,
        "conditioning": "frame_aligned",
        "target": "x0",
        "note_width": 16,
        "velocity_bins": 32,
        "programs": "full",
    }
    shape |= changes
    joins = shape["conditioning"] == "frame_aligned" and shape["context_layers"]
    return ModelConfig(**{"tail_frames": 4 if joins else 0, **shape})


def write_toy_model(path: Path) -> None:
    """Write a model directory that is small and fast; its sound is noise."""
    import torch

    from spectro_render.checkpoints.load import Defaults, save_model
    from spectro_render.network.model import SpectrogramModel
    from spectro_render.vocoder.melgan import MelGAN, VocoderConfig

    torch.manual_seed(0)
    vocoder = MelGAN(VocoderConfig(channels=16, dilations=(1,), iterations=0))
    save_model(path, SpectrogramModel(toy_config()), vocoder, defaults=Defaults("dpm++", 2))


def write_toy_band(path: Path) -> None:
    """Give a model directory a tiny network for the band above 8 kHz; its sound is noise."""
    import json

    import torch

    from spectro_render.checkpoints.files import write_part
    from spectro_render.checkpoints.manifest import BAND, INDEX, write_checksums
    from spectro_render.vocoder.band import BandConfig, HighBand

    torch.manual_seed(0)
    band = HighBand(BandConfig(width=16))
    band.output.bias.data.fill_(1.0)
    write_part(path / BAND, band.config.to_dict(), band.state_dict(), "float16")
    index = json.loads((path / INDEX).read_text())
    (path / INDEX).write_text(json.dumps({**index, BAND: ["spectro_render", "HighBand"]}))
    write_checksums(path)


def window_alone(
    renderer: "Renderer",
    window: "TokenWindow",
    before: "Tensor | None",
    options: "RenderOptions | None" = None,
) -> "Tensor":
    """Render a window alone, with the mel `before` as its context: log-mel (256, 128)."""
    from spectro_render.render.voice import WindowCursor

    cursor = WindowCursor([window], renderer.vocabulary, 0)
    cursor.previous_mel = before
    (log_mel,) = renderer.next_mels([cursor], renderer.sampling(options))
    return log_mel
