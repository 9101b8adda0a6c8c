"""Reads the T5X checkpoints of the model's authors into our names and shapes.

Their names and shapes are those of the models in github.com/magenta/music-spectrogram-diffusion.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from spectro_render.checkpoints.files import GET_AGAIN, as_weights, some, without_numbers
from spectro_render.checkpoints.settings import MAX_SETTING, UNSUPPORTED
from spectro_render.checkpoints.t5x_files import StoredArray, open_checkpoint
from spectro_render.errors import WeightsCorrupt, WeightsError
from spectro_render.tokens.vocabulary import Vocabulary

if TYPE_CHECKING:
    from torch import Tensor

    from spectro_render.network.config import ModelConfig

HEAD_WIDTH = 64  # of every published model
VELOCITY_BINS = (1, 127)  # of the vocabularies with which the authors trained

# Our module -> theirs, in models with context and in models without.
MODULES = {"notes": "token_encoder", "context": "continuous_encoder", "decoder": "decoder"}
MODULES_WITHOUT_CONTEXT = {"notes": "encoder", "decoder": "decoder"}

# Our parameters, within their module -> theirs, within their module. `*` is the number of a layer.
# A kernel is (in, out), our weights are (out, in).
_ENCODER = {
    "encoder.position": "Embed_0.embedding",
    "encoder.layers.*.attention_norm": "layers_*.pre_attention_layer_norm.scale",
    "encoder.layers.*.attention.query": "layers_*.attention.query.kernel",
    "encoder.layers.*.attention.key": "layers_*.attention.key.kernel",
    "encoder.layers.*.attention.value": "layers_*.attention.value.kernel",
    "encoder.layers.*.attention.out": "layers_*.attention.out.kernel",
    "encoder.layers.*.mlp_norm": "layers_*.pre_mlp_layer_norm.scale",
    "encoder.layers.*.mlp.gate": "layers_*.mlp.wi_0.kernel",
    "encoder.layers.*.mlp.up": "layers_*.mlp.wi_1.kernel",
    "encoder.layers.*.mlp.down": "layers_*.mlp.wo.kernel",
    "encoder.norm": "encoder_norm.scale",
}
T5X_PARAMETERS = {
    "notes": {"embedding": "token_embedder.embedding", **_ENCODER},
    "context": {"input": "input_proj.kernel", **_ENCODER},
    "decoder": {
        "level.hidden": "time_emb_dense0.kernel",
        "level.out": "time_emb_dense1.kernel",
        "input": "continuous_inputs_projection.kernel",
        "position": "Embed_0.embedding",
        "layers.*.self_norm": "layers_*.pre_self_attention_layer_norm.scale",
        "layers.*.self_film.scale_shift": "layers_*.FiLMLayer_0.DenseGeneral_0.kernel",
        "layers.*.self_attention.query": "layers_*.self_attention.query.kernel",
        "layers.*.self_attention.key": "layers_*.self_attention.key.kernel",
        "layers.*.self_attention.value": "layers_*.self_attention.value.kernel",
        "layers.*.self_attention.out": "layers_*.self_attention.out.kernel",
        "layers.*.cross_norm": "layers_*.pre_cross_attention_layer_norm.scale",
        "layers.*.cross_attention.query": "layers_*.MultiHeadDotProductAttention_0.query.kernel",
        "layers.*.cross_attention.key": "layers_*.MultiHeadDotProductAttention_0.key.kernel",
        "layers.*.cross_attention.value": "layers_*.MultiHeadDotProductAttention_0.value.kernel",
        "layers.*.cross_attention.out": "layers_*.MultiHeadDotProductAttention_0.out.kernel",
        "layers.*.mlp_norm": "layers_*.pre_mlp_layer_norm.scale",
        "layers.*.mlp_film.scale_shift": "layers_*.FiLMLayer_1.DenseGeneral_0.kernel",
        "layers.*.mlp.gate": "layers_*.mlp.wi_0.kernel",
        "layers.*.mlp.up": "layers_*.mlp.wi_1.kernel",
        "layers.*.mlp.down": "layers_*.mlp.wo.kernel",
        "norm": "decoder_norm.scale",
        "output": "spec_out_dense.kernel",
    },
}


def read_t5x(path: Path) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Read a network's settings and its parameters, under our names, in float32 on the CPU.

    `path` is the folder of a checkpoint, a folder that contains one, or a zip file of either. Of
    several checkpoints the one of the latest step is read. Raises WeightsNotFound where there is
    none, WeightsCorrupt where anything is missing, unknown, damaged or of a shape that does not fit
    the rest, WeightsError if tensorstore is not installed or the network is not supported.
    """
    checkpoint = open_checkpoint(path)
    place, arrays = checkpoint.place, checkpoint.arrays
    has_context = any(name.startswith(f"{MODULES['context']}.") for name in arrays)
    modules = MODULES if has_context else MODULES_WITHOUT_CONTEXT
    shapes = {name: array.shape for name, array in arrays.items()}
    config = _Sizes(shapes, modules, place).config(_head_width(checkpoint.gin))
    ours = _shapes(config)
    theirs = {name: t5x_name(name, modules) for name in ours}
    _check_names(set(theirs.values()), set(arrays), place)
    tensors = {
        name: _as_weights(arrays[theirs[name]], theirs[name], shape, place)
        for name, shape in ours.items()
    }
    return config, tensors


def t5x_name(parameter: str, modules: Mapping[str, str] = MODULES) -> str:
    """The authors' name of our parameter: 'decoder.norm.weight' -> 'decoder.decoder_norm.scale'."""
    part, _, name = parameter.removesuffix(".weight").partition(".")
    layer = re.search(r"(?<=\blayers\.)\d+", name)
    number = layer.group() if layer else ""
    general = re.sub(r"\blayers\.\d+", "layers.*", name)
    return f"{modules[part]}.{T5X_PARAMETERS[part][general]}".replace("*", number)


def _shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The shape of each of our parameters of a network."""
    from spectro_render.network.model import SpectrogramModel

    with without_numbers():
        state = SpectrogramModel(config).state_dict()
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def _check_names(expected: set[str], found: set[str], place: Path) -> None:
    missing, unknown = expected - found, found - expected
    if missing:
        raise WeightsCorrupt(f"{place} lacks {some(missing)}", GET_AGAIN)
    if unknown:
        raise WeightsCorrupt(f"{place} holds unknown {some(unknown)}", UNSUPPORTED)


def _as_weights(array: StoredArray, name: str, shape: tuple[int, ...], place: Path) -> Tensor:
    """Read a parameter; kernels are transposed. Raises WeightsCorrupt unless it has `shape`."""
    is_kernel = name.endswith(".kernel")
    expected = shape[::-1] if is_kernel else shape
    if array.shape != expected:
        message = f"{place}: {name} has the shape {list(array.shape)}, not {list(expected)}"
        raise WeightsCorrupt(f"{message} like the rest", GET_AGAIN)
    tensor = array.read()
    return as_weights(tensor.T if is_kernel else tensor, shape, f"{place}: {name}")


# --- settings ---------------------------------------------------------------------------------


class _Sizes:
    """Derives a network's settings from the shapes of a checkpoint's arrays, (in, out) each."""

    def __init__(
        self, shapes: Mapping[str, tuple[int, ...]], modules: Mapping[str, str], place: Path
    ) -> None:
        self._shapes, self._modules, self._place = shapes, modules, place

    def config(self, head_width: int) -> ModelConfig:
        from spectro_render.network.config import ModelConfig

        rows, width = self._shape("notes.embedding")
        _, inner = self._shape("notes.encoder.layers.0.attention.query")
        _, mlp_width = self._shape("notes.encoder.layers.0.mlp.gate")
        _, level_width = self._shape("decoder.level.hidden")
        if inner % head_width:
            message = f"{self._place}: {inner} is not a multiple of a head's width, {head_width}"
            hint = "put the config.gin that came with the checkpoint beside it"
            raise WeightsError(message, hint)
        return ModelConfig(
            width=width,
            heads=inner // head_width,
            head_width=head_width,
            mlp_width=mlp_width,
            note_layers=self._layers("notes"),
            context_layers=self._layers("context"),
            decoder_layers=self._layers("decoder"),
            level_width=level_width,
            num_embeddings=rows,
            velocity_bins=self._velocity_bins(rows),
        )

    def _shape(self, parameter: str) -> tuple[int, ...]:
        name = t5x_name(parameter, self._modules)
        if name not in self._shapes:
            raise WeightsCorrupt(
                f"{self._place} lacks {name}", "check that it is one of the authors' models"
            )
        shape = self._shapes[name]
        if len(shape) != 2 or not all(0 < size <= MAX_SETTING for size in shape):
            message = f"{self._place}: {name} has the shape {list(shape)}"
            raise WeightsCorrupt(message, GET_AGAIN)
        return shape

    def _layers(self, part: str) -> int:
        """The number of a module's layers; gaps in their numbering are found by `_check_names`."""
        module = re.escape(self._modules.get(part, "none"))
        numbers = (re.match(rf"{module}\.layers_(\d+)\.", name) for name in self._shapes)
        return len({number[1] for number in numbers if number})

    def _velocity_bins(self, rows: int) -> int:
        """The velocity bins of the authors' vocabulary with this many embeddings."""
        for bins in VELOCITY_BINS:
            if Vocabulary(bins).num_embeddings == rows:
                return bins
        message = f"{self._place}: {rows} token embeddings belong to no vocabulary of the authors"
        raise WeightsError(message, UNSUPPORTED)


def _head_width(gin: str) -> int:
    """The width of an attention head from config.gin, as shapes do not determine it."""
    found = re.search(r"^(?:.*T5Config\.|\s+)head_dim\s*=\s*(\d+)\s*$", gin, re.MULTILINE)
    width = int(found[1]) if found else HEAD_WIDTH
    return width if 0 < width <= MAX_SETTING else HEAD_WIDTH
