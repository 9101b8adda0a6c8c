"""Model directories: find, verify, load, save.

One layout for the published weights and for ours, the one that diffusers saves:

    model_index.json       what the parts are; ours also keeps the defaults for rendering here
    notes_encoder/         config.json, diffusion_pytorch_model.safetensors
    continuous_encoder/    the same (left out by models without context)
    decoder/               the same
    scheduler/             scheduler_config.json
    melgan/                model.onnx, or config.json and diffusion_pytorch_model.safetensors, or
                           nothing: then Griffin-Lim turns mels into sound
    SHA256SUMS             of all other files (ours); checked before anything is read

Nothing is ever unpickled or fetched.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from spectro_render import layout
from spectro_render.errors import OptionError, WeightsCorrupt, WeightsError, WeightsNotFound
from spectro_render.layout import Config
from spectro_render.store import (
    CONFIG,
    GET_ANEW,
    TENSORS,
    fill,
    read_json,
    require,
    unreadable,
    write_json,
    write_part,
)

if TYPE_CHECKING:
    import torch

    from spectro_render.diffusion import DiscreteSchedule
    from spectro_render.model import ModelConfig, SpectrogramModel
    from spectro_render.tokens import Vocabulary
    from spectro_render.vocoder import MelGAN, Vocoder

INDEX = "model_index.json"
SCHEDULER = Path("scheduler", "scheduler_config.json")
ONNX = Path("melgan", "model.onnx")
CHECKSUMS = "SHA256SUMS"

PACKAGE = Path(__file__).resolve().parent
MODEL_FOLDERS = (PACKAGE.parent / "weights", PACKAGE / "_weights")  # of a checkout, of a wheel

VOCODERS = ("melgan", "onnx", "griffin-lim")


@dataclass(frozen=True)
class Defaults:
    """How a model is best rendered, where the user does not say.

    Those of a directory that does not say either are what diffusers' pipeline does.
    """

    sampler: str = "diffusers"
    steps: int = 100
    guidance: float = 1.0
    gain: float | None = None  # dB; None: the program's own


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A model directory, loaded."""

    name: str
    path: Path
    config: ModelConfig
    model: SpectrogramModel
    vocoder: Vocoder
    vocoder_kind: str  # one of VOCODERS; "griffin-lim" where the directory holds none
    vocabulary: Vocabulary
    schedule: DiscreteSchedule  # of the sampler 'diffusers'
    defaults: Defaults


# --- find -------------------------------------------------------------------------------------


def available_models() -> dict[str, Path]:
    """The models that come with the program: name -> directory."""
    found: dict[str, Path] = {}
    for folder in MODEL_FOLDERS:
        for index in sorted(folder.glob(f"*/{INDEX}")):
            found.setdefault(index.parent.name, index.parent)
    return found


def find_model(name: str | os.PathLike[str]) -> Path:
    """The directory of a model, given by name or by path; a name wins over a path.

    Raises WeightsNotFound, with the known names and every place looked at.
    """
    models = available_models()
    if name in models:
        return models[str(name)]
    path = Path(name)
    if path.is_dir():
        return path
    places = ", ".join(str(place) for place in (*(root / path for root in MODEL_FOLDERS), path))
    names = ", ".join(models) or "none"
    raise WeightsNotFound(f"no model {str(name)!r}: looked at {places}", f"known names: {names}")


# --- load -------------------------------------------------------------------------------------


def load_model(
    model: str | os.PathLike[str] = "default",
    *,
    vocoder: str | None = None,
    dtype: torch.dtype | None = None,
) -> Checkpoint:
    """Load the model of this name or in this directory onto the CPU.

    `vocoder` insists on one kind, where None takes what the directory holds; `dtype` is that of
    the Transformer, None for float32, however it is stored. Raises WeightsNotFound, WeightsCorrupt
    for files that are not what they promise to be, WeightsError for what is missing or unsupported.
    """
    import torch

    path = find_model(model)
    verify(path)
    index = read_json(path / INDEX)
    config = _read_model_config(path, index)
    kind = vocoder or _vocoder_kind(path)
    return Checkpoint(
        name=path.resolve().name,
        path=path,
        config=config,
        model=_load_network(path, config, dtype or torch.float32),
        vocoder=load_vocoder(path, kind),
        vocoder_kind=kind,
        vocabulary=_read_vocabulary(config),
        schedule=layout.read_schedule(read_json(path / SCHEDULER)),
        defaults=_read_defaults(index),
    )


def _read_model_config(path: Path, index: Config) -> ModelConfig:
    parts = {
        part: read_json(path / folder / CONFIG)
        for part, folder in layout.FOLDERS.items()
        if part != "context" or folder in index
    }
    return layout.read_config(parts, read_json(path / SCHEDULER))


def _read_vocabulary(config: ModelConfig) -> Vocabulary:
    from spectro_render.tokens import Vocabulary

    try:
        return Vocabulary(config.velocity_bins, config.programs)
    except ValueError as error:
        raise WeightsError(f"notes_encoder/{CONFIG}: {error}") from error


def _read_defaults(index: Config) -> Defaults:
    from spectro_render.diffusion import check_sampling

    stored = index.get("defaults", {})
    try:
        defaults = Defaults(**stored)
        check_sampling(defaults.sampler, defaults.steps)
    except (TypeError, OptionError) as error:
        raise WeightsError(f"{INDEX}: defaults are {stored!r}") from error
    return defaults


def _load_network(path: Path, config: ModelConfig, dtype: torch.dtype) -> SpectrogramModel:
    """Build on the meta device, where nothing is initialised, and put the stored tensors in."""
    import torch

    from spectro_render.model import SpectrogramModel

    with torch.device("meta"):
        model = SpectrogramModel(config)
    for part, folder in layout.FOLDERS.items():
        module = getattr(model, part)
        if module is not None:
            names = {name: layout.stored_name(f"{part}.{name}") for name in module.state_dict()}
            fill(module, path / folder / TENSORS, names, dtype)
    return model.eval().requires_grad_(False)


# --- vocoder ----------------------------------------------------------------------------------


def load_vocoder(path: Path, kind: str) -> Vocoder:
    """The vocoder of this kind in a model directory; 'griffin-lim' needs no file.

    Raises OptionError for an unknown kind, WeightsError where the directory has none of that kind.
    """
    if kind == "griffin-lim":
        from spectro_render.vocoder import GriffinLim

        return GriffinLim()
    if kind == "onnx":
        from spectro_render.vocoder_onnx import OnnxVocoder

        require(path / ONNX)
        return OnnxVocoder(path / ONNX)
    if kind == "melgan":
        return _load_melgan(path / "melgan")
    raise OptionError(f"unknown vocoder {kind!r}", f"one of {', '.join(VOCODERS)}")


def _vocoder_kind(path: Path) -> str:
    if (path / "melgan" / TENSORS).exists():
        return "melgan"
    return "onnx" if (path / ONNX).exists() else "griffin-lim"


def _load_melgan(path: Path) -> MelGAN:
    import torch

    from spectro_render.vocoder import MelGAN, VocoderConfig

    stored = read_json(path / CONFIG)
    settings = {key: value for key, value in stored.items() if not key.startswith("_")}
    try:
        vocoder = MelGAN(VocoderConfig.from_dict(settings))
    except (TypeError, ValueError, RuntimeError) as error:
        raise WeightsError(f"{path / CONFIG} describes no vocoder: {error}") from error
    fill(vocoder, path / TENSORS, {name: name for name in vocoder.state_dict()}, torch.float32)
    return vocoder.eval().requires_grad_(False).fold_weight_norm()


# --- save -------------------------------------------------------------------------------------


def save_model(
    directory: str | os.PathLike[str],
    model: SpectrogramModel,
    vocoder: MelGAN | None = None,
    *,
    defaults: Defaults | None = None,
    schedule: DiscreteSchedule | None = None,
    dtype: str = "float16",
) -> None:
    """Write a model directory in the number format `dtype`, a name of torch's.

    Folders of earlier weights in it are replaced, other files (a model card) stay and are covered
    by the checksums. Raises WeightsError for weights that are not finite in that format.
    """
    from spectro_render.diffusion import DiscreteSchedule

    path = Path(directory)
    for folder in (*layout.FOLDERS.values(), "scheduler", "melgan"):
        shutil.rmtree(path / folder, ignore_errors=True)
    parts = layout.write_config(model.config)
    for part, config in parts.items():
        state = getattr(model, part).state_dict()
        tensors = {layout.stored_name(f"{part}.{name}"): state[name] for name in state}
        write_part(path / layout.FOLDERS[part], config, tensors, dtype)
    if vocoder is not None:
        config = {"_class_name": "MelGAN", **vocoder.config.to_dict()}
        write_part(path / "melgan", config, vocoder.state_dict(), dtype)
    scheduler = layout.write_schedule(model.config, schedule or DiscreteSchedule())
    write_json(path / SCHEDULER, scheduler)
    write_json(path / INDEX, _index(parts, defaults or Defaults()))
    write_checksums(path)


def _index(parts: Mapping[str, Config], defaults: Defaults) -> Config:
    """model_index.json: each part's library and class, as diffusers has it."""
    classes = {
        layout.FOLDERS[part]: ["spectro_render", config["_class_name"]]
        for part, config in parts.items()
    }
    return {"_class_name": "SpectroRenderModel", **classes, "defaults": asdict(defaults)}


# --- checksums --------------------------------------------------------------------------------


def write_checksums(directory: Path) -> None:
    """Write SHA256SUMS over every other file, in the format that `sha256sum -c` reads."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    lines = [
        f"{_sha256(path)}  {path.relative_to(directory).as_posix()}\n"
        for path in files
        if path.name != CHECKSUMS
    ]
    (directory / CHECKSUMS).write_text("".join(lines), encoding="utf-8")


def verify(directory: Path) -> None:
    """Compare every file that SHA256SUMS lists, if there is one; WeightsCorrupt if one differs."""
    listing = directory / CHECKSUMS
    if not listing.is_file():
        return
    for line in listing.read_text(encoding="utf-8", errors="replace").splitlines():
        expected, _, name = line.partition(" ")
        path = directory / name.lstrip(" *")
        require(path)
        found = _sha256(path)
        if found != expected:
            raise WeightsCorrupt(f"{path} has the SHA-256 {found}, not {expected}", GET_ANEW)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise unreadable(path, error) from error
    return digest.hexdigest()
