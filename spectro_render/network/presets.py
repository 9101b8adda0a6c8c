"""Networks by name: the paper's sizes and variants, and this project's own."""

from dataclasses import replace
from typing import Any

from spectro_render.errors import OptionError
from spectro_render.network.config import ModelConfig

# The paper's networks (section 3): T5 1.1 in two sizes, with and without the context encoder.
_BASE = ModelConfig()
_SMALL = ModelConfig(
    width=512,
    heads=6,
    mlp_width=1024,
    note_layers=8,
    context_layers=8,
    decoder_layers=8,
    level_width=4 * 512,
)

# This project's networks: few layers, and notes aligned with frames.
_BUNDLED = ModelConfig(
    width=128,
    heads=2,
    mlp_width=256,
    note_layers=2,
    context_layers=1,
    decoder_layers=4,
    level_width=256,
    dropout=0.0,
    conditioning="frame_aligned",
    target="x0",
    note_width=128,
    draft="curves",
    curve_width=96,
    curve_hidden=256,
    latent_width=48,
    # Of the soundfont of the bundled weights; training replaces both numbers by its soundfont's.
    recordings=918,
    recorded_frames=104_227,
    tail_frames=4,
    memory_steps=200,
    velocity_bins=32,
    programs="full",
)
_BUNDLED_LARGE = replace(
    _BUNDLED, width=256, heads=4, mlp_width=512, note_layers=3, decoder_layers=6, level_width=512
)


def autoregressive(config: ModelConfig) -> ModelConfig:
    """Replace the decoder of a diffusion network's configuration by the autoregressive one."""
    return replace(config, decoder="autoregressive", target="x0")


PRESETS = {
    "bundled": _BUNDLED,
    "bundled-large": _BUNDLED_LARGE,
    "base": _BASE,
    "base-no-context": replace(_BASE, context_layers=0),
    "base-autoregressive": autoregressive(replace(_BASE, context_layers=0)),
    "small": _SMALL,
    "small-no-context": replace(_SMALL, context_layers=0),
    "small-autoregressive": autoregressive(replace(_SMALL, context_layers=0)),
}

# Option beside a preset -> the decoder or the output function that it is meant for.
_MEANT_FOR = {
    "target": "diffusion",
    "loss": "diffusion",
    "output_function": "autoregressive",
    "components": "gaussian_mixture",
    "min_sigma": "gaussian_mixture",
    "max_sigma": "gaussian_mixture",
    "dither": "deterministic",
}


def choose_network(preset: str, decoder: str | None = None, **choices: Any) -> ModelConfig:
    """The configuration of a preset, with the user's choices in place of its own.

    `choices` are fields of ModelConfig, and 'loss', which is only checked. None means the preset's
    own. Raises OptionError for an unknown preset, and for choices that do not go together.
    """
    config = _with_decoder(preset, decoder)
    chosen = {name: value for name, value in choices.items() if value is not None}
    try:
        config = replace(config, **{name: chosen[name] for name in chosen if name != "loss"})
    except ValueError as error:
        raise OptionError(str(error), "choose other numbers") from error
    is_diffusion = config.decoder == "diffusion"
    kinds = {config.decoder} if is_diffusion else {config.decoder, config.output_function}
    for name in chosen:
        if _MEANT_FOR[name] not in kinds:
            option = f"--{name.replace('_', '-')}"
            raise OptionError(f"{option} is for {_MEANT_FOR[name]} models only", "leave it out")
    return config


def _with_decoder(preset: str, decoder: str | None) -> ModelConfig:
    if preset not in PRESETS:
        raise OptionError(f"unknown preset {preset!r}", f"use one of {', '.join(PRESETS)}")
    config = PRESETS[preset]
    if decoder == "autoregressive":
        return autoregressive(config)
    if decoder not in (None, config.decoder):
        message = f"the preset {preset!r} has the decoder {config.decoder!r}, not {decoder!r}"
        raise OptionError(message, "choose another --preset")
    return config
