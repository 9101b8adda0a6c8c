"""Loads and saves model directories.

`manifest.py` describes their layout, `find.py` finds a directory by its name. Code in a file of
weights is never run.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from spectro_render.checkpoints.copies import drop_copy, find_copy, keep_copy
from spectro_render.checkpoints.files import (
    CONFIG,
    GET_AGAIN,
    TENSORS,
    Json,
    fill,
    open_tensors,
    read_json,
    tensors_file,
    without_numbers,
    write_json,
    write_part,
)
from spectro_render.checkpoints.kept import recall, remember
from spectro_render.checkpoints.manifest import (
    BAND,
    INDEX,
    MELGAN,
    ONNX,
    VOCODERS,
    ModelFiles,
    checksum_of,
    has_band,
    has_part,
    is_onnx,
    model_files,
    verify_listed,
    vocoder_kinds,
    write_checksums,
)
from spectro_render.checkpoints.names import (
    FOLDERS,
    SCHEDULER,
    read_config,
    read_schedule,
    stored_name,
    write_config,
    write_schedule,
)
from spectro_render.checkpoints.settings import (
    BAND_SETTINGS,
    DEFAULTS_SETTINGS,
    INDEX_SETTINGS,
    NETWORK_SETTINGS,
    UNSUPPORTED,
    VOCODER_SETTINGS,
    check_names,
    check_settings,
)
from spectro_render.checkpoints.timbres import put_timbres, table_of
from spectro_render.errors import OptionError, WeightsCorrupt, WeightsError

if TYPE_CHECKING:
    from torch import Tensor

    from spectro_render.diffusion import DiscreteSchedule
    from spectro_render.network.config import ModelConfig
    from spectro_render.network.model import MelModel
    from spectro_render.tokens.vocabulary import Vocabulary
    from spectro_render.vocoder.band import HighBand
    from spectro_render.vocoder.melgan import MelGAN, Vocoder

NOTES_CONFIG = Path(FOLDERS["notes"], CONFIG)
REACH = "reach-of-vocoders"  # what is kept of ONNX files, by their SHA-256
MAX_REACH = 1024  # frames of context of a vocoder: 20 s of sound, which are held in memory
QUALITIES = ("fast", "best")

SamplerAndSteps: TypeAlias = tuple[str, int]  # sampler, steps


@dataclass(frozen=True)
class Defaults:
    """A model's default options for rendering, used where the user chooses none."""

    sampler: str = "diffusers"
    steps: int = 100
    guidance: float = 1.0
    gain: float | None = None  # dB; None: the program's default
    fast: SamplerAndSteps = ("dpm++", 10)  # for quality "fast"
    best: SamplerAndSteps = ("ddpm", 1000)  # for quality "best": as in the paper

    def sampler_and_steps(self, quality: str | None) -> SamplerAndSteps:
        """The sampler and number of steps for a quality; None means the model's default.

        Raises OptionError for a quality that is not among QUALITIES.
        """
        if quality is None:
            return self.sampler, self.steps
        if quality not in QUALITIES:
            raise OptionError(f"unknown quality {quality!r}", f"use one of {', '.join(QUALITIES)}")
        chosen: SamplerAndSteps = getattr(self, quality)
        return chosen


# Directories that diffusers wrote hold no defaults. The steps are those of its pipeline. It applies
# no guidance, but the authors' notebook for the published weights does, with this weight.
PUBLISHED_CLASS = "SpectrogramDiffusionPipeline"
PUBLISHED_DEFAULTS = Defaults("diffusers", steps=100, guidance=2.0)


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A loaded model: its network, vocoder and vocabulary, on the CPU and in float32."""

    name: str
    path: Path
    config: ModelConfig
    model: MelModel
    vocoder: Vocoder
    vocoder_kind: str  # one of VOCODERS; "griffin-lim" where the directory holds none
    reads_notes: bool  # whether the vocoder was trained with the model, on notes and mels
    band: HighBand | None  # the network for the band above the mel's, if the model has one
    vocabulary: Vocabulary
    schedule: DiscreteSchedule  # of the sampler 'diffusers'
    defaults: Defaults


# --- load -------------------------------------------------------------------------------------


def load_model(files: ModelFiles) -> Checkpoint:
    """Load a model, which `find.resolve_model` has found, onto the CPU in float32.

    Raises WeightsCorrupt for damaged files, WeightsError for files that are missing or unsupported.
    """
    path = files.directory
    index = read_json(path / INDEX)
    check_settings(index, INDEX_SETTINGS, path / INDEX)
    verify_listed(path, model_files(path, index))
    configs = {
        part: read_json(path / folder / CONFIG)
        for part, folder in FOLDERS.items()
        if has_part(part, index)
    }
    scheduler = read_json(path / SCHEDULER)
    config, schedule = read_config(configs, scheduler, path), read_schedule(scheduler, path)
    vocabulary = read_vocabulary(path)
    _check_vocabulary(vocabulary, config, path)
    defaults = _read_defaults(index, schedule, path / INDEX)
    vocoder = load_vocoder(files.vocoder, files.vocoder_kind)
    model = _load_checked(path, config)
    if model is None:
        model = _load_network(path, config)
        keep_copy(path, _stored_tensors(model), files.say)
    reads_notes = files.vocoder == path and vocoder.reads_notes
    put_timbres(files, model, table_of(vocoder) if reads_notes else None)
    return Checkpoint(
        name=files.name,
        path=path,
        config=config,
        model=model,
        vocoder=vocoder,
        vocoder_kind=files.vocoder_kind,
        reads_notes=reads_notes,
        band=_read_band(path / BAND) if has_band(index) else None,
        vocabulary=vocabulary,
        schedule=schedule,
        defaults=defaults,
    )


def read_vocabulary(path: Path) -> Vocabulary:
    """Read the vocabulary of the model in a directory, from its configuration alone.

    Raises WeightsError if that is missing or not supported, WeightsCorrupt if it is damaged.
    """
    from spectro_render.tokens.vocabulary import Vocabulary

    stored = read_json(path / NOTES_CONFIG)
    check_settings(stored, NETWORK_SETTINGS["notes"], path / NOTES_CONFIG)
    settings = {name: stored[name] for name in ("velocity_bins", "programs") if name in stored}
    return Vocabulary(**settings)


def _check_vocabulary(vocabulary: Vocabulary, config: ModelConfig, path: Path) -> None:
    """Raise WeightsError if a network that reads ids has no embedding for some of them."""
    ids, rows = vocabulary.size, config.num_embeddings
    if config.conditioning == "cross_attention" and rows < ids:
        message = f"{path / NOTES_CONFIG}: vocab_size is {rows}, but there are {ids} token ids"
        raise WeightsError(message, UNSUPPORTED)


def _read_defaults(index: Json, schedule: DiscreteSchedule, place: Path) -> Defaults:
    from spectro_render.diffusion import check_sampling

    is_published = index.get("_class_name") == PUBLISHED_CLASS
    stored = index.get("defaults", asdict(PUBLISHED_DEFAULTS) if is_published else {})
    check_names(stored, DEFAULTS_SETTINGS, place)
    check_settings(stored, DEFAULTS_SETTINGS, place)
    plain: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in stored.items()
    }
    defaults = Defaults(**plain)
    try:
        for quality in (None, *QUALITIES):
            check_sampling(*defaults.sampler_and_steps(quality), schedule)
    except OptionError as error:
        raise WeightsError(f"{place}: {error.message} in its defaults", UNSUPPORTED) from error
    return defaults


def _load_checked(path: Path, config: ModelConfig) -> MelModel | None:
    """Load the network from the copy that is kept of a directory's weights; None without a copy."""
    copy = find_copy(path)
    if copy is None:
        return None
    try:
        return _load_network(copy, config, are_finite=True)
    except WeightsError:
        drop_copy(copy)
        return None


def _stored_tensors(model: MelModel) -> dict[str, dict[str, Tensor]]:
    """The tensors of a network, by folder and by their names in files."""
    parts: dict[str, dict[str, Tensor]] = {}
    for part, folder in FOLDERS.items():
        if getattr(model, part) is not None:
            state = getattr(model, part).state_dict()
            parts[folder] = {stored_name(f"{part}.{name}"): state[name] for name in state}
    return parts


def _load_network(path: Path, config: ModelConfig, *, are_finite: bool = False) -> MelModel:
    """Build the network without memory for its numbers, and put the stored tensors in."""
    from spectro_render.network.build import make_model
    from spectro_render.network.curves import NoteCurves

    with without_numbers():
        model = make_model(config)
    for part, folder in FOLDERS.items():
        module = getattr(model, part)
        if module is not None:
            names = {name: stored_name(f"{part}.{name}") for name in module.state_dict()}
            fill(module, tensors_file(path / folder), names, are_finite=are_finite)
    for module in model.modules():
        if isinstance(module, NoteCurves):
            try:
                module.check()
            except ValueError as error:
                place = path / FOLDERS["notes"]
                raise WeightsCorrupt(f"{place}: {error}", GET_AGAIN) from error
    return model.eval().requires_grad_(False)


# --- vocoder ----------------------------------------------------------------------------------


def load_vocoder(path: Path, kind: str) -> Vocoder:
    """Load a vocoder from a model directory or an ONNX file.

    `kind` is one of VOCODERS; 'griffin-lim' needs no file. Raises OptionError for an unknown kind,
    WeightsError where the directory has no such vocoder or onnxruntime is not installed,
    WeightsCorrupt for a damaged file.
    """
    if kind not in VOCODERS:
        raise OptionError(f"unknown vocoder {kind!r}", f"use one of {', '.join(VOCODERS)}")
    if kind == "onnx" and is_onnx(path):
        return _load_onnx(path)
    kinds = vocoder_kinds(path)
    if kind not in kinds:
        raise WeightsError(f"{path} holds no vocoder {kind!r}", f"choose {' or '.join(kinds)}")
    if kind == "melgan":
        return read_melgan(path / MELGAN).requires_grad_(False).fold_weight_norm()
    if kind == "onnx":
        return _load_onnx(path / ONNX)
    from spectro_render.vocoder.griffin_lim import GriffinLim

    return GriffinLim()


def _load_onnx(path: Path) -> Vocoder:
    from spectro_render.checkpoints.onnx_file import check_onnx
    from spectro_render.vocoder.onnx import OnnxVocoder

    check_onnx(path)
    vocoder, checksum = OnnxVocoder(path), checksum_of(path)
    kept = recall(REACH, checksum)
    frames = kept.get("frames", -1) if isinstance(kept, dict) else -1
    if frames is None or (type(frames) is int and 0 <= frames <= MAX_REACH):
        vocoder.receptive_field = frames
    else:
        vocoder.receptive_field = vocoder.measure_reach()
        remember(REACH, checksum, {"frames": vocoder.receptive_field})
    return vocoder


def read_melgan(path: Path) -> MelGAN:
    """Read the vocoder network in a folder in the form in which it is trained.

    Raises WeightsError for a missing or unsupported one, WeightsCorrupt for a damaged file.
    """
    from spectro_render.vocoder.melgan import MelGAN, VocoderConfig, count_weights

    place, stored = path / CONFIG, read_json(path / CONFIG)
    settings = {key: value for key, value in stored.items() if not key.startswith("_")}
    check_names(settings, VOCODER_SETTINGS, place)
    check_settings(settings, VOCODER_SETTINGS, place)
    try:
        config = VocoderConfig.from_dict(settings)
    except ValueError as error:
        raise WeightsError(f"{place} describes no vocoder: {error}", UNSUPPORTED) from error
    described, held = count_weights(config), open_tensors(path / TENSORS).count
    if described > held:  # found before memory is taken for them
        message = f"{place} describes {described} weights, but {path / TENSORS} holds {held}"
        raise WeightsCorrupt(message, "check that they belong together")
    vocoder = MelGAN(config)
    if vocoder.receptive_field > MAX_REACH:
        reach = f"{vocoder.receptive_field} frames of context, more than {MAX_REACH}"
        raise WeightsError(f"{place}: it would need {reach}", UNSUPPORTED)
    fill(vocoder, path / TENSORS, {name: name for name in vocoder.state_dict()})
    return vocoder.eval()


def _read_band(path: Path) -> HighBand:
    """Read the network for the band above the mel's in a folder.

    Raises WeightsError for a missing or unsupported one, WeightsCorrupt for a damaged file.
    """
    from spectro_render.vocoder.band import BandConfig, HighBand

    place, stored = path / CONFIG, read_json(path / CONFIG)
    settings = {key: value for key, value in stored.items() if not key.startswith("_")}
    check_names(settings, BAND_SETTINGS, place)
    check_settings(settings, BAND_SETTINGS, place)
    with without_numbers():
        band = HighBand(BandConfig(**settings))
    fill(band, path / TENSORS, {name: name for name in band.state_dict()})
    return band.eval().requires_grad_(False)


# --- save -------------------------------------------------------------------------------------


def save_model(
    directory: str | os.PathLike[str],
    model: MelModel,
    vocoder: MelGAN | None = None,
    band: HighBand | None = None,
    *,
    defaults: Defaults | None = None,
    schedule: DiscreteSchedule | None = None,
    dtype: str = "float16",
) -> None:
    """Write a model directory with its numbers in a format of torch, such as 'float16'.

    Folders of earlier weights in the directory are replaced. Other files, such as a model card,
    stay, and get checksums as well. Raises WeightsError for weights that are not finite in that
    format, and OSError.
    """
    from spectro_render.diffusion import DiscreteSchedule

    path = Path(directory)
    for folder in (*FOLDERS.values(), "scheduler", MELGAN, BAND):
        shutil.rmtree(path / folder, ignore_errors=True)
    parts = write_config(model.config)
    for part, config in parts.items():
        state = getattr(model, part).state_dict()
        tensors = {stored_name(f"{part}.{name}"): state[name] for name in state}
        write_part(path / FOLDERS[part], config, tensors, dtype)
    if vocoder is not None:
        config = {"_class_name": "MelGAN", **vocoder.config.to_dict()}
        write_part(path / MELGAN, config, vocoder.state_dict(), dtype)
    if band is not None:
        config = {"_class_name": "HighBand", **band.config.to_dict()}
        write_part(path / BAND, config, band.state_dict(), dtype)
    scheduler = write_schedule(model.config, schedule or DiscreteSchedule())
    write_json(path / SCHEDULER, scheduler)
    index = _index(parts, defaults or Defaults())
    if band is not None:
        index[BAND] = ["spectro_render", "HighBand"]
    write_json(path / INDEX, index)
    write_checksums(path)


def _index(parts: Mapping[str, Json], defaults: Defaults) -> Json:
    """Make model_index.json: each part's library and class, as in diffusers, and the defaults."""
    classes = {
        FOLDERS[part]: ["spectro_render", config["_class_name"]] for part, config in parts.items()
    }
    stored = asdict(defaults)
    if parts["decoder"]["decoder"] == "autoregressive":  # takes no sampler, steps or guidance
        stored = {"gain": defaults.gain}
    return {"_class_name": "SpectroRenderModel", **classes, "defaults": stored}
