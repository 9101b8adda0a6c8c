"""Writes checkpoints as T5X does: msgpack for the tree, tensorstore for the large arrays.

Names of the authors' parameters are paired with diffusers' names as in the script that converted
the authors' checkpoint to the published model.
"""

import re
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from spectro_render.checkpoints.names import FOLDERS, stored_name

ENCODER = {
    "Embed_0.embedding": "position_encoding",
    "layers_*.pre_attention_layer_norm.scale": "encoders.*.layer.0.layer_norm",
    "layers_*.attention.query.kernel": "encoders.*.layer.0.SelfAttention.q",
    "layers_*.attention.key.kernel": "encoders.*.layer.0.SelfAttention.k",
    "layers_*.attention.value.kernel": "encoders.*.layer.0.SelfAttention.v",
    "layers_*.attention.out.kernel": "encoders.*.layer.0.SelfAttention.o",
    "layers_*.pre_mlp_layer_norm.scale": "encoders.*.layer.1.layer_norm",
    "layers_*.mlp.wi_0.kernel": "encoders.*.layer.1.DenseReluDense.wi_0",
    "layers_*.mlp.wi_1.kernel": "encoders.*.layer.1.DenseReluDense.wi_1",
    "layers_*.mlp.wo.kernel": "encoders.*.layer.1.DenseReluDense.wo",
    "encoder_norm.scale": "layer_norm",
}
MODULES = {  # folder of diffusers -> module of the authors, and their names in it
    "notes_encoder": ("token_encoder", {"token_embedder.embedding": "token_embedder", **ENCODER}),
    "continuous_encoder": ("continuous_encoder", {"input_proj.kernel": "input_proj", **ENCODER}),
    "decoder": (
        "decoder",
        {
            "time_emb_dense0.kernel": "conditioning_emb.0",
            "time_emb_dense1.kernel": "conditioning_emb.2",
            "Embed_0.embedding": "position_encoding",
            "continuous_inputs_projection.kernel": "continuous_inputs_projection",
            "layers_*.pre_self_attention_layer_norm.scale": "decoders.*.layer.0.layer_norm",
            "layers_*.FiLMLayer_0.DenseGeneral_0.kernel": "decoders.*.layer.0.FiLMLayer.scale_bias",
            "layers_*.self_attention.query.kernel": "decoders.*.layer.0.attention.to_q",
            "layers_*.self_attention.key.kernel": "decoders.*.layer.0.attention.to_k",
            "layers_*.self_attention.value.kernel": "decoders.*.layer.0.attention.to_v",
            "layers_*.self_attention.out.kernel": "decoders.*.layer.0.attention.to_out.0",
            "layers_*.pre_cross_attention_layer_norm.scale": "decoders.*.layer.1.layer_norm",
            **{
                f"layers_*.MultiHeadDotProductAttention_0.{theirs}.kernel": (
                    f"decoders.*.layer.1.attention.{diffusers}"
                )
                for theirs, diffusers in {
                    "query": "to_q",
                    "key": "to_k",
                    "value": "to_v",
                    "out": "to_out.0",
                }.items()
            },
            "layers_*.pre_mlp_layer_norm.scale": "decoders.*.layer.2.layer_norm",
            "layers_*.FiLMLayer_1.DenseGeneral_0.kernel": "decoders.*.layer.2.film.scale_bias",
            "layers_*.mlp.wi_0.kernel": "decoders.*.layer.2.DenseReluDense.wi_0",
            "layers_*.mlp.wi_1.kernel": "decoders.*.layer.2.DenseReluDense.wi_1",
            "layers_*.mlp.wo.kernel": "decoders.*.layer.2.DenseReluDense.wo",
            "decoder_norm.scale": "decoder_norm",
            "spec_out_dense.kernel": "spec_out",
        },
    ),
}

Arrays = dict[str, np.ndarray]


def t5x_arrays(model: nn.Module) -> Arrays:
    """A model's parameters with the names and shapes of T5X, such as kernels (in, out)."""
    arrays = {}
    has_context = getattr(model, "context", None) is not None
    for name, tensor in model.state_dict().items():
        folder = FOLDERS[name.partition(".")[0]]
        module, names = MODULES[folder]
        if module == "token_encoder" and not has_context:
            module = "encoder"
        theirs = _t5x_name(stored_name(name).removesuffix(".weight"), names)
        array = tensor.detach().numpy()
        arrays[f"{module}.{theirs}"] = array.T if theirs.endswith(".kernel") else array
    return arrays


def _t5x_name(diffusers: str, names: Mapping[str, str]) -> str:
    number = re.search(r"(?<=coders\.)\d+", diffusers)
    general = re.sub(r"(?<=coders\.)\d+", "*", diffusers)
    (theirs,) = [name for name, paired in names.items() if paired == general]
    return theirs.replace("*", number.group() if number else "")


def write_t5x(folder: Path, arrays: Mapping[str, np.ndarray], only: Set[str] | None = None) -> None:
    """Write a checkpoint folder like T5X: norms in the index, other arrays as zarr folders.

    With `only`, the zarr folders of other arrays exist already and are not written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    leaves: dict[str, Any] = {}
    for name, array in arrays.items():
        is_small = name.endswith(".scale")
        leaves[name] = array if is_small else describe(f"target.{name}", array)
        if not is_small and (only is None or name in only):
            write_zarr(folder, f"target.{name}", array)
    write_index(folder, leaves)


def describe(place: str, array: np.ndarray) -> dict[str, Any]:
    """The description of an array in the index; the array is stored in two chunks."""
    import tensorstore

    rows, *rest = array.shape
    metadata = {
        "compressor": {"id": "gzip", "level": 1},
        "shape": array.shape,
        "chunks": [-(-rows // 2), *rest],
    }
    kvstore = {"driver": "file", "path": place}
    spec = {"driver": "zarr", "dtype": array.dtype.name, "kvstore": kvstore, "metadata": metadata}
    return dict(tensorstore.Spec(spec).to_json())


def write_zarr(folder: Path, name: str, array: np.ndarray) -> None:
    """Write an array as a zarr folder."""
    import tensorstore

    spec = describe(str(folder / name), array)
    tensorstore.open(spec, create=True, delete_existing=True).result().write(array).result()


def write_index(folder: Path, leaves: Mapping[str, Any], version: int = 3) -> None:
    """Write the file `checkpoint`, with parameters and the state of an optimizer."""
    import msgpack

    target: dict[str, Any] = {}
    for name, leaf in leaves.items():
        *path, last = name.split(".")
        node = target
        for key in path:
            node = node.setdefault(key, {})
        node[last] = leaf
    state = {"step": np.asarray(500_000), "param_states": {"decoder": {"v": zarr_elsewhere()}}}
    tree = {"version": version, "optimizer": {"target": target, "state": state}}
    (folder / "checkpoint").write_bytes(msgpack.packb(tree, default=_pack, strict_types=True))


def zarr_elsewhere(path: str = "state.param_states.decoder.v") -> dict[str, Any]:
    """The description of an array that does not exist."""
    return {"driver": "zarr", "dtype": "float32", "kvstore": {"driver": "gfile", "path": path}}


def _pack(value: Any) -> Any:
    """Pack an array like flax.serialization."""
    import msgpack

    parts = (value.shape, value.dtype.name, value.tobytes())
    return msgpack.ExtType(1, msgpack.packb(parts, use_bin_type=True))
