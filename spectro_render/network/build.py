"""Builds the network that a configuration describes."""

from spectro_render.network.autoregressive import AutoregressiveModel
from spectro_render.network.config import ModelConfig
from spectro_render.network.model import MelModel, SpectrogramModel


def make_model(config: ModelConfig) -> MelModel:
    """Make a network with random weights, and with the decoder that its configuration names."""
    if config.decoder == "autoregressive":
        return AutoregressiveModel(config)
    return SpectrogramModel(config)
