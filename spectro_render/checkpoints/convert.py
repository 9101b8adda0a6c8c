"""Converts T5X checkpoints and model directories into model directories of safetensors files."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from spectro_render.atomic import new_directory
from spectro_render.checkpoints.files import (
    CONFIG,
    TENSORS,
    open_tensors,
    read_json,
    without_numbers,
    write_json,
    write_part,
)
from spectro_render.checkpoints.manifest import (
    BAND,
    INDEX,
    MELGAN,
    ONNX,
    ModelFiles,
    has_vocoder,
    write_checksums,
)
from spectro_render.checkpoints.names import FOLDERS, SCHEDULER, stored_name
from spectro_render.checkpoints.t5x import read_t5x
from spectro_render.checkpoints.t5x_files import holds_t5x
from spectro_render.errors import OptionError, OutputError, WeightsNotFound
from spectro_render.report import as_size, complain

if TYPE_CHECKING:
    from spectro_render.network.model import MelModel

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}  # bytes of a number in each format
CARDS = ("README.md", "MODEL_CARD.md", "LICENSE", "LICENSE.txt", "NOTICE")  # copied along


def convert(
    source: Path, destination: Path, *, dtype: str = "float32", quiet: bool = False
) -> None:
    """Write the model in `source` as a directory of safetensors files with checksums.

    `source` is a model directory, whose settings, defaults, vocoder and card are kept, or a T5X
    checkpoint of the authors: a folder or a zip file. `dtype`, a key of BYTES, is the format of the
    numbers. The directory gets its name when it is complete. Unless `quiet`, a note on standard
    error is printed if it holds no vocoder.

    Raises OptionError for an unknown `dtype`, OutputError where `destination` exists or cannot be
    written, WeightsNotFound where `source` is neither kind, WeightsError and WeightsCorrupt for
    weights that cannot be read.
    """
    if dtype not in BYTES:
        raise OptionError(f"unknown number format {dtype!r}", f"use one of {', '.join(BYTES)}")
    with new_directory(destination) as folder:
        if (source / INDEX).is_file():
            _convert_directory(source, folder, dtype)
        elif holds_t5x(source):
            _convert_t5x(source, folder, dtype)
        else:
            message = f"{source} is neither a model directory nor a T5X checkpoint"
            raise WeightsNotFound(message, f"name a folder with {INDEX} or checkpoint_500000 in it")
    if not quiet and not has_vocoder(destination):
        note = "holds no vocoder: Griffin-Lim is used unless --vocoder names another model's"
        complain(f"{destination} {note}")


def _convert_directory(source: Path, folder: Path, dtype: str) -> None:
    """Copy a model directory with its tensors in another format, and everything else as it is."""
    from spectro_render.checkpoints.load import load_model

    checkpoint = load_model(ModelFiles(source.name, source, source, "griffin-lim"))
    model, band = checkpoint.model, checkpoint.band
    files = [source / name for name in (*CARDS, ONNX) if os.path.isfile(source / name)]
    _check_space(folder, model, dtype, sum(file.stat().st_size for file in files))
    for part, name in FOLDERS.items():
        if getattr(model, part) is not None:
            state = getattr(model, part).state_dict()
            tensors = {stored_name(f"{part}.{key}"): state[key] for key in state}
            write_part(folder / name, read_json(source / name / CONFIG), tensors, dtype)
    if band is not None:
        write_part(folder / BAND, read_json(source / BAND / CONFIG), band.state_dict(), dtype)
    _convert_vocoder(source, folder, dtype)
    for path in (INDEX, SCHEDULER):
        write_json(folder / path, read_json(source / path))
    for file in files:
        copy = folder / file.relative_to(source)
        copy.parent.mkdir(exist_ok=True)
        shutil.copyfile(file, copy)
    write_checksums(folder)


def _convert_vocoder(source: Path, folder: Path, dtype: str) -> None:
    """Copy the MelGAN vocoder, if the source has one, in another number format."""
    from spectro_render.checkpoints.load import load_vocoder

    if not os.path.exists(source / MELGAN / TENSORS):
        return
    load_vocoder(source, "melgan")  # raises if it is damaged
    stored = open_tensors(source / MELGAN / TENSORS)
    tensors = {name: stored.read(name) for name in stored.names}
    write_part(folder / MELGAN, read_json(source / MELGAN / CONFIG), tensors, dtype)


def _convert_t5x(source: Path, folder: Path, dtype: str) -> None:
    from spectro_render.checkpoints.load import PUBLISHED_DEFAULTS, save_model
    from spectro_render.network.build import make_model

    config, tensors = read_t5x(source)
    with without_numbers():
        model = make_model(config)
    model.load_state_dict(tensors, assign=True)
    _check_space(folder, model, dtype)
    save_model(folder, model, defaults=PUBLISHED_DEFAULTS, dtype=dtype)


def _check_space(folder: Path, model: MelModel, dtype: str, others: int = 0) -> None:
    """Raise OutputError if a model's numbers and `others`, in bytes, do not fit on the disk."""
    numbers = sum(tensor.numel() for tensor in model.state_dict().values())
    needed, free = BYTES[dtype] * numbers + others, shutil.disk_usage(folder).free
    if needed > free:
        message = f"{folder.parent}: {as_size(needed)} are needed, {as_size(free)} are free"
        raise OutputError(message, "make room, or choose another disk")
