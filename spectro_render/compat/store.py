"""Loads the components of diffusers' pipeline from model directories, and saves them there."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spectro_render.atomic import work_directory
from spectro_render.checkpoints import load_checkpoint
from spectro_render.checkpoints.files import Json, without_numbers, write_json
from spectro_render.checkpoints.load import save_model
from spectro_render.checkpoints.manifest import BAND, INDEX, MELGAN, ONNX, write_checksums
from spectro_render.checkpoints.names import FOLDERS, read_config, read_schedule
from spectro_render.compat.components import (
    Component,
    MelVocoder,
    SpectrogramContEncoder,
    SpectrogramNotesEncoder,
    SpectrogramScheduler,
    T5FilmDecoder,
)
from spectro_render.errors import OptionError, WeightsError, output_error
from spectro_render.network.model import SpectrogramModel, TokenEncoder

NO_FILE = "griffin-lim"  # the kind of vocoder that needs no file
DIFFUSERS = "0.24.0"  # the release of diffusers whose layout is written

# Part of the network -> the module of diffusers that has its class.
LIBRARIES = {
    "notes": "spectrogram_diffusion",
    "context": "spectrogram_diffusion",
    "decoder": "diffusers",
}


def load_components(name: str, *, with_melgan: bool = True) -> dict[str, Any]:
    """Load a model as components, keyed by the names of the pipeline's arguments.

    `melgan` is None where the model has no vocoder, or without `with_melgan`. Raises WeightsError
    for a model that is not of the published form, and the errors of `load_checkpoint`.
    """
    loaded = load_checkpoint(name, None if with_melgan else NO_FILE)
    config, model = loaded.config, loaded.model
    is_diffusion = isinstance(model, SpectrogramModel) and isinstance(model.notes, TokenEncoder)
    if not is_diffusion or not loaded.vocabulary.is_published:
        message = f"{loaded.name} is not a model that diffusers' pipeline can render"
        raise WeightsError(message, "render it with spectro_render.Renderer")
    context, has_file = model.context, loaded.vocoder_kind != NO_FILE
    return {
        "notes_encoder": SpectrogramNotesEncoder.around(model.notes, config),
        "continuous_encoder": context and SpectrogramContEncoder.around(context, config),
        "decoder": T5FilmDecoder.around(model.decoder, config),
        "scheduler": SpectrogramScheduler(config, loaded.schedule),
        "melgan": MelVocoder(loaded.vocoder, loaded.path / MELGAN) if has_file else None,
    }


def save_components(path: Path, components: Mapping[str, Any]) -> None:
    """Write components as a model directory; its parts get their names when all are written.

    Raises OptionError for a scheduler or vocoder that such a directory cannot hold, WeightsError
    for parts whose settings contradict each other, OutputError where the system refuses to write.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(str(path), error) from error
    with work_directory(path, str(path)) as work:
        _write(work, components)
        for folder in (*FOLDERS.values(), "scheduler", MELGAN, BAND):  # other files there stay
            shutil.rmtree(path / folder, ignore_errors=True)
        for entry in work.iterdir():
            entry.replace(path / entry.name)


def _write(path: Path, components: Mapping[str, Any]) -> None:
    parts: dict[str, Component] = {
        part: components[folder]
        for part, folder in FOLDERS.items()
        if components[folder] is not None
    }
    scheduler = _scheduler_config(components["scheduler"])
    model, schedule = _joined(parts, scheduler), read_schedule(scheduler)
    dtype = str(components["decoder"].dtype).removeprefix("torch.")
    save_model(path, model, schedule=schedule, dtype=dtype)
    if components["melgan"] is not None:
        _write_melgan(path / MELGAN, components["melgan"])
    write_json(path / INDEX, _index(path, parts))
    write_checksums(path)


def _scheduler_config(scheduler: Any) -> Json:
    name = type(scheduler).__name__
    if name not in (SpectrogramScheduler.__name__, "DDPMScheduler"):
        hint = "save the pipeline with the scheduler that it had, and set this one after loading"
        raise OptionError(f"a {name} cannot be saved with the model", hint)
    return dict(scheduler.config)


def _joined(parts: Mapping[str, Component], scheduler: Json) -> SpectrogramModel:
    """Join the parts to one network. Raises WeightsError if their settings contradict."""
    settings = {part: component.config for part, component in parts.items()}
    with without_numbers():
        model = SpectrogramModel(read_config(settings, scheduler))
    for part, component in parts.items():
        setattr(model, part, component.network)
    return model


def _write_melgan(folder: Path, melgan: Any) -> None:
    if not hasattr(melgan, "save_pretrained"):
        name = type(melgan).__name__
        raise OptionError(f"a melgan of type {name} cannot be saved", "set it to None")
    folder.mkdir()
    melgan.save_pretrained(folder)


def _index(path: Path, parts: Mapping[str, Component]) -> Json:
    """Make model_index.json as diffusers writes it: the library and the class of each part."""
    melgan: list[str | None] = [None, None]
    if (path / ONNX).exists():
        melgan = ["diffusers", "OnnxRuntimeModel"]
    elif (path / MELGAN).exists():
        melgan = ["spectro_render", "MelGAN"]
    classes = {
        FOLDERS[part]: [LIBRARIES[part], type(component).__name__]
        for part, component in parts.items()
    }
    return {
        "_class_name": "SpectrogramDiffusionPipeline",
        "_diffusers_version": DIFFUSERS,
        **classes,
        "scheduler": ["diffusers", "DDPMScheduler"],
        "melgan": melgan,
    }
