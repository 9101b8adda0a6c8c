"""Writes model directories in the layout of the published one, with random weights."""

import io
import json
import pickle
import struct
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

# The JSON files of google/music-spectrogram-diffusion, in the form in which they have the sizes
# that the Hub's pages give.
_ALL = {"_diffusers_version": "0.14.0.dev0"}
_NETWORK = {"d_ff": 2048, "d_kv": 64, "d_model": 768, "dropout_rate": 0.1}
_NETWORK |= {"num_heads": 12, "num_layers": 12}
_ENCODER = {"feed_forward_proj": "gated-gelu", "is_decoder": False}
CONFIGS: dict[str, dict[str, Any]] = {
    "model_index.json": {
        "_class_name": "SpectrogramDiffusionPipeline",
        "continuous_encoder": ["spectrogram_diffusion", "SpectrogramContEncoder"],
        "decoder": ["diffusers", "T5FilmDecoder"],
        "melgan": ["diffusers", "OnnxRuntimeModel"],
        "notes_encoder": ["spectrogram_diffusion", "SpectrogramNotesEncoder"],
        "scheduler": ["diffusers", "DDPMScheduler"],
    },
    "notes_encoder/config.json": {
        "_class_name": "SpectrogramNotesEncoder",
        "max_length": 2048,
        "vocab_size": 1536,
        **_ENCODER,
        **_NETWORK,
    },
    "continuous_encoder/config.json": {
        "_class_name": "SpectrogramContEncoder",
        "input_dims": 128,
        "targets_context_length": 256,
        **_ENCODER,
        **_NETWORK,
    },
    "decoder/config.json": {
        "_class_name": "T5FilmDecoder",
        "input_dims": 128,
        "max_decoder_noise_time": 20000.0,
        "targets_length": 256,
        **_NETWORK,
    },
    "scheduler/scheduler_config.json": {
        "_class_name": "DDPMScheduler",
        "beta_end": 0.02,
        "beta_schedule": "squaredcos_cap_v2",
        "beta_start": 0.0001,
        "clip_sample": True,
        "clip_sample_range": 1.0,
        "num_train_timesteps": 1000,
        "prediction_type": "epsilon",
        "trained_betas": None,
        "variance_type": "fixed_large",
    },
}


def write_configs(folder: Path) -> None:
    """Write the JSON files of the published model."""
    for name, content in CONFIGS.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({**_ALL, **content}, indent=2, sort_keys=True) + "\n")


# --- weights ----------------------------------------------------------------------------------

WIDTH, HEADS, HIDDEN, LAYERS = 768, 768, 2048, 12
PICKLE = "diffusion_pytorch_model.bin"


class Parts(nn.Module):
    """A module that has others by their names, and computes nothing."""

    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)


class Norm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH))


def linear(wide: int, out: int) -> nn.Linear:
    return nn.Linear(wide, out, bias=False)


def mlp(film: bool = False) -> Parts:
    dense = Parts(
        wi_0=linear(WIDTH, HIDDEN),
        wi_1=linear(WIDTH, HIDDEN),
        wo=linear(HIDDEN, WIDTH),
        dropout=nn.Dropout(),
        act=nn.ReLU(),
    )
    films = {"film": Parts(scale_bias=linear(4 * WIDTH, 2 * WIDTH))} if film else {}
    return Parts(DenseReluDense=dense, **films, layer_norm=Norm(), dropout=nn.Dropout())


def encoder(first: dict[str, nn.Module], frames: int) -> Parts:
    def block() -> Parts:
        heads = {name: linear(WIDTH, HEADS) for name in "qkv"}
        attention = Parts(**heads, o=linear(HEADS, WIDTH))
        layer = Parts(SelfAttention=attention, layer_norm=Norm(), dropout=nn.Dropout())
        return Parts(layer=nn.ModuleList([layer, mlp()]))

    return Parts(
        **first,
        position_encoding=nn.Embedding(frames, WIDTH),
        dropout_pre=nn.Dropout(),
        encoders=nn.ModuleList(block() for _ in range(LAYERS)),
        layer_norm=Norm(),
        dropout_post=nn.Dropout(),
    )


def decoder() -> Parts:
    def attention() -> Parts:
        heads = {f"to_{name}": linear(WIDTH, HEADS) for name in "qkv"}
        return Parts(**heads, to_out=nn.ModuleList([linear(HEADS, WIDTH), nn.Dropout()]))

    def block() -> Parts:
        film = Parts(scale_bias=linear(4 * WIDTH, 2 * WIDTH))
        self_attention = Parts(
            layer_norm=Norm(), FiLMLayer=film, attention=attention(), dropout=nn.Dropout()
        )
        cross = Parts(attention=attention(), layer_norm=Norm(), dropout=nn.Dropout())
        return Parts(layer=nn.ModuleList([self_attention, cross, mlp(film=True)]))

    level = [linear(WIDTH, 4 * WIDTH), nn.SiLU(), linear(4 * WIDTH, 4 * WIDTH), nn.SiLU()]
    return Parts(
        conditioning_emb=nn.Sequential(*level),
        position_encoding=nn.Embedding(256, WIDTH),
        continuous_inputs_projection=linear(128, WIDTH),
        dropout=nn.Dropout(),
        decoders=nn.ModuleList(block() for _ in range(LAYERS)),
        decoder_norm=Norm(),
        post_dropout=nn.Dropout(),
        spec_out=linear(WIDTH, 128),
    )


def write_weights(folder: Path) -> None:
    """Write .bin files with the names, shapes and sizes of the published ones: 1.6 GB."""
    with torch.device("meta"):
        parts = {
            "notes_encoder": encoder({"token_embedder": nn.Embedding(1536, WIDTH)}, 2048),
            "continuous_encoder": encoder({"input_proj": linear(128, WIDTH)}, 256),
            "decoder": decoder(),
        }
    generator = torch.Generator().manual_seed(0)
    for name in list(parts):
        part = parts.pop(name).to_empty(device="cpu")
        for parameter, tensor in part.named_parameters():
            if "norm" in parameter:
                nn.init.ones_(tensor)
            else:
                nn.init.normal_(tensor, std=0.02, generator=generator)
        save(part.state_dict(), folder / name / PICKLE)


def save(state: Mapping[str, Tensor], path: Path) -> None:
    """Save tensors as torch 1.13 did, with which the published weights were saved."""
    tensors = list(state.values())
    pickled = io.BytesIO()

    class Pickler(pickle.Pickler):
        count = 0

        def persistent_id(self, value: object) -> tuple[object, ...] | None:
            if not isinstance(value, torch.storage.TypedStorage):
                return None
            self.count += 1
            return ("storage", torch.FloatStorage, str(self.count - 1), "cpu", len(value))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of typed storages, which are no longer public
        Pickler(pickled, 2).dump(state)
    writer = torch._C.PyTorchFileWriter(str(path))
    writer.write_record("data.pkl", pickled.getvalue(), len(pickled.getvalue()))
    for number, tensor in enumerate(tensors):
        writer.write_record(f"data/{number}", tensor.untyped_storage(), 4 * tensor.numel())
    writer.write_end_of_file()
    drop_new_records(path)


def drop_new_records(path: Path) -> None:
    """Remove the two records at the end of an archive that torch before 2.1 did not write.

    Zip64's fields are at the places that APPNOTE.TXT gives them (4.3.14 to 4.3.16).
    """
    with zipfile.ZipFile(path) as archive:
        records, begin = archive.infolist(), archive.start_dir
    last = records[-2:]
    assert [record.filename.split("/", 1)[1] for record in last] == [
        "byteorder",
        ".data/serialization_id",
    ]
    end, count = last[0].header_offset, len(records) - 2
    with path.open("r+b") as file:
        file.seek(begin)
        directory = file.read()[:-98]  # the records at the end: 56, 20 and 22 bytes
        directory = directory[: -sum(46 + len(record.filename) for record in last)]
        size, after = len(directory), end + len(directory)
        file.seek(end)
        file.write(directory)
        file.write(
            struct.pack("<IQHHIIQQQQ", 0x06064B50, 44, 798, 45, 0, 0, count, count, size, end)
        )
        file.write(struct.pack("<IIQI", 0x07064B50, 0, after, 1))
        file.write(struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, count, count, size, end, 0))
        file.truncate()
