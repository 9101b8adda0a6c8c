"""Translates our names of parameters and settings into those of diffusers, and back.

A model directory has one folder for each part of the network. Directories that diffusers wrote and
our own use the same names; ours add a few settings, which default to those of the published model.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectro_render.checkpoints.settings import (
    FIXED,
    FIXED_SCHEDULER,
    NETWORK_SETTINGS,
    PREDICTION_TYPES,
    SCHEDULER_SETTINGS,
    UNSUPPORTED,
    check_settings,
)
from spectro_render.errors import WeightsError

if TYPE_CHECKING:
    from spectro_render.checkpoints.files import Json
    from spectro_render.diffusion import DiscreteSchedule
    from spectro_render.network.config import ModelConfig

# Our module -> its folder.
FOLDERS = {"notes": "notes_encoder", "context": "continuous_encoder", "decoder": "decoder"}

SCHEDULER = Path("scheduler", "scheduler_config.json")
_HERE = Path()

# Our parameters, within their module -> diffusers', within their folder. `*` is the number of a
# layer; what follows the names given here, such as ".weight", is the same on both sides.
_ENCODER = {
    "encoder.position": "position_encoding",
    "encoder.layers.*.attention_norm": "encoders.*.layer.0.layer_norm",
    "encoder.layers.*.attention.query": "encoders.*.layer.0.SelfAttention.q",
    "encoder.layers.*.attention.key": "encoders.*.layer.0.SelfAttention.k",
    "encoder.layers.*.attention.value": "encoders.*.layer.0.SelfAttention.v",
    "encoder.layers.*.attention.out": "encoders.*.layer.0.SelfAttention.o",
    "encoder.layers.*.mlp_norm": "encoders.*.layer.1.layer_norm",
    "encoder.layers.*.mlp.gate": "encoders.*.layer.1.DenseReluDense.wi_0",
    "encoder.layers.*.mlp.up": "encoders.*.layer.1.DenseReluDense.wi_1",
    "encoder.layers.*.mlp.down": "encoders.*.layer.1.DenseReluDense.wo",
    "encoder.norm": "layer_norm",
}
DIFFUSERS_PARAMETERS = {
    "notes": {
        "embedding": "token_embedder",
        "notes": "note_frames",  # frame-aligned models only, and unknown to diffusers
        **_ENCODER,
    },
    "context": {"input": "input_proj", "tail": "tail", **_ENCODER},  # the tail is ours alone
    "decoder": {
        "level.hidden": "conditioning_emb.0",
        "level.out": "conditioning_emb.2",
        "input": "continuous_inputs_projection",
        "position": "position_encoding",
        "layers.*.self_norm": "decoders.*.layer.0.layer_norm",
        "layers.*.self_film.scale_shift": "decoders.*.layer.0.FiLMLayer.scale_bias",
        "layers.*.self_attention.query": "decoders.*.layer.0.attention.to_q",
        "layers.*.self_attention.key": "decoders.*.layer.0.attention.to_k",
        "layers.*.self_attention.value": "decoders.*.layer.0.attention.to_v",
        "layers.*.self_attention.out": "decoders.*.layer.0.attention.to_out.0",
        "layers.*.cross_norm": "decoders.*.layer.1.layer_norm",
        "layers.*.cross_attention.query": "decoders.*.layer.1.attention.to_q",
        "layers.*.cross_attention.key": "decoders.*.layer.1.attention.to_k",
        "layers.*.cross_attention.value": "decoders.*.layer.1.attention.to_v",
        "layers.*.cross_attention.out": "decoders.*.layer.1.attention.to_out.0",
        "layers.*.mlp_norm": "decoders.*.layer.2.layer_norm",
        "layers.*.mlp_film.scale_shift": "decoders.*.layer.2.film.scale_bias",
        "layers.*.mlp.gate": "decoders.*.layer.2.DenseReluDense.wi_0",
        "layers.*.mlp.up": "decoders.*.layer.2.DenseReluDense.wi_1",
        "layers.*.mlp.down": "decoders.*.layer.2.DenseReluDense.wo",
        "norm": "decoder_norm",
        "output": "spec_out",
    },
}

# Fields of ModelConfig -> keys of the folders' config.json.
_SIZES = {
    "width": "d_model",
    "heads": "num_heads",
    "head_width": "d_kv",
    "mlp_width": "d_ff",
    "dropout": "dropout_rate",
}
SETTINGS = {
    "notes": {**_SIZES, "note_layers": "num_layers", "num_embeddings": "vocab_size"},
    "context": {**_SIZES, "context_layers": "num_layers"},
    "decoder": {**_SIZES, "decoder_layers": "num_layers"},
}
OWN_SETTINGS = {  # under their own names; absent from directories that diffusers wrote
    "notes": (
        "note_width",
        "draft",
        "curve_width",
        "curve_hidden",
        "latent_width",
        "recordings",
        "recorded_frames",
        "memory_steps",
        "velocity_bins",
        "programs",
    ),
    "context": ("tail_frames",),
    "decoder": ("conditioning", "level_width", "decoder"),
}
AUTOREGRESSIVE_SETTINGS = (  # further ones of the decoder, in autoregressive models only
    "output_function",
    "components",
    "min_sigma",
    "max_sigma",
    "dither",
)

DIFFUSERS_CLASSES = {
    "notes": "SpectrogramNotesEncoder",
    "context": "SpectrogramContEncoder",
    "decoder": "T5FilmDecoder",
}
OWN_CLASSES = {"notes": "FrameEncoder", "context": "ContextEncoder", "decoder": "Decoder"}


def stored_name(parameter: str) -> str:
    """The name on disk of one of our parameters: 'decoder.norm.weight' -> 'decoder_norm.weight'."""
    part, _, name = parameter.partition(".")
    layer = re.search(r"(?<=\blayers\.)\d+", name)
    number = layer.group() if layer else ""
    for ours, theirs in DIFFUSERS_PARAMETERS[part].items():
        prefix = ours.replace("*", number)
        if name.startswith(f"{prefix}."):
            return theirs.replace("*", number) + name.removeprefix(prefix)
    raise KeyError(parameter)


def read_config(parts: Mapping[str, Json], scheduler: Json, folder: Path = _HERE) -> ModelConfig:
    """Read the settings of a network from its parts' config.json and from scheduler_config.json.

    `parts` has the keys of FOLDERS; a model without context lacks "context". `folder` is the model
    directory, for errors. Raises WeightsError for a setting that is missing, contradicts another or
    is not supported.
    """
    from spectro_render.network.config import ModelConfig

    check_settings(scheduler, SCHEDULER_SETTINGS, folder / SCHEDULER)
    values: Json = {"target": _read_target(scheduler)}
    for part, config in parts.items():
        place = folder / FOLDERS[part] / "config.json"
        check_settings(config, NETWORK_SETTINGS[part], place)
        for name, value in _read_settings(part, config, place):
            if values.setdefault(name, value) != value:
                message = f"{place}: {name} is {value}, but {values[name]} in another part"
                raise WeightsError(message, UNSUPPORTED)
    values.setdefault("context_layers", 0)  # no such part
    values.setdefault("level_width", 4 * values["width"])  # as published
    try:
        return ModelConfig(**values)
    except ValueError as error:
        raise WeightsError(f"{folder / _place(str(error))}: {error}", UNSUPPORTED) from error


def _place(error: str) -> str:
    """The file with the setting that an error of ModelConfig names first."""
    setting = error.split()[0]
    part = next((part for part, names in OWN_SETTINGS.items() if setting in names), "decoder")
    return f"{FOLDERS[part]}/config.json"


def write_config(config: ModelConfig) -> dict[str, Json]:
    """Make the config.json of each part, as `read_config` reads them: part -> JSON object.

    Models that diffusers can load get the names of its classes, others the names of ours.
    """
    published = config.conditioning == "cross_attention" and config.level_width == 4 * config.width
    classes = DIFFUSERS_CLASSES if published else OWN_CLASSES
    if config.decoder == "autoregressive":
        classes = {**classes, "decoder": "CausalDecoder"}
    return {
        part: {
            "_class_name": classes[part],
            **FIXED[part],
            **{theirs: getattr(config, ours) for ours, theirs in SETTINGS[part].items()},
            **{name: getattr(config, name) for name in _own_settings(part, config.decoder)},
        }
        for part in SETTINGS
        if part != "context" or config.context_layers
    }


def _own_settings(part: str, decoder: str) -> tuple[str, ...]:
    is_other = part == "decoder" and decoder == "autoregressive"
    return OWN_SETTINGS[part] + (AUTOREGRESSIVE_SETTINGS if is_other else ())


def read_schedule(scheduler: Json, folder: Path = _HERE) -> DiscreteSchedule:
    """Read the noise schedule in scheduler_config.json of the model directory `folder`.

    Raises WeightsError for an unknown kind.
    """
    from spectro_render.diffusion import DiscreteSchedule

    check_settings(scheduler, SCHEDULER_SETTINGS, folder / SCHEDULER)
    steps, offset = scheduler.get("num_train_timesteps", 1000), scheduler.get("steps_offset", 0)
    if offset >= steps:
        message = f"{folder / SCHEDULER}: steps_offset is {offset}, but must be below {steps}"
        raise WeightsError(message, UNSUPPORTED)
    return DiscreteSchedule(steps, offset)


def write_schedule(config: ModelConfig, schedule: DiscreteSchedule) -> Json:
    """Make scheduler_config.json, which diffusers' DDPMScheduler can read as well."""
    return {
        **FIXED_SCHEDULER,
        "num_train_timesteps": schedule.train_steps,
        "steps_offset": schedule.steps_offset,
        "prediction_type": PREDICTION_TYPES[config.target],
    }


def _read_target(scheduler: Json) -> str:
    stored = scheduler.get("prediction_type", "epsilon")
    return next(target for target, name in PREDICTION_TYPES.items() if name == stored)


def _read_settings(part: str, config: Json, place: Path) -> Iterator[tuple[str, Any]]:
    for ours, theirs in SETTINGS[part].items():
        if theirs not in config:
            raise WeightsError(f"{place} lacks the setting {theirs}", UNSUPPORTED)
        yield ours, config[theirs]
    for name in _own_settings(part, config.get("decoder", "diffusion")):
        if name in config:
            yield name, config[name]
