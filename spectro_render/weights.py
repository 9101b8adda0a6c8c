"""Model directories: find, verify, load, save.

One layout for the published weights and for ours, the one that diffusers saves:

    model_index.json       what the parts are; ours also keeps the defaults for rendering here
    notes_encoder/         config.json, diffusion_pytorch_model.safetensors
    continuous_encoder/    the same (left out by models without context)
    decoder/               the same
    scheduler/             scheduler_config.json
    melgan/                model.onnx, or config.json and diffusion_pytorch_model.safetensors, or
                           nothing: then Griffin-Lim turns mels into sound
    SHA256SUMS             of all other files (ours); checked before anything is loaded

Nothing is ever unpickled or fetched.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from spectro_render import layout
from spectro_render.errors import OptionError, WeightsCorrupt, WeightsError, WeightsNotFound
from spectro_render.layout import UNSUPPORTED, Config
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
    from spectro_render.diffusion import DiscreteSchedule
    from spectro_render.model import ModelConfig, SpectrogramModel
    from spectro_render.tokens import Vocabulary
    from spectro_render.vocoder import MelGAN, Vocoder

INDEX = "model_index.json"
NOTES_CONFIG = Path(layout.FOLDERS["notes"], CONFIG)
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
    if os.path.isdir(path):
        return path
    places = ", ".join(str(place) for place in (*(root / path for root in MODEL_FOLDERS), path))
    names = ", ".join(models) or "none"
    raise WeightsNotFound(f"no model {str(name)!r}: looked at {places}", f"known names: {names}")


# --- load -------------------------------------------------------------------------------------


def load_model(
    model: str | os.PathLike[str] = "default",
    *,
    vocoder: str | None = None,
) -> Checkpoint:
    """Load the model of this name or in this directory onto the CPU, in float32.

    `vocoder` insists on one kind, where None takes the best that the directory holds. Raises
    WeightsNotFound, WeightsCorrupt for files that are not what they promise to be, WeightsError for
    what is missing or unsupported.
    """
    path = find_model(model)
    verify(path)
    index = read_json(path / INDEX)
    config = _read_model_config(path, index)
    schedule = layout.read_schedule(read_json(path / SCHEDULER))
    kind = vocoder or _vocoder_kinds(path)[0]
    return Checkpoint(
        name=path.resolve().name,
        path=path,
        config=config,
        model=_load_network(path, config),
        vocoder=load_vocoder(path, kind),
        vocoder_kind=kind,
        vocabulary=read_vocabulary(path),
        schedule=schedule,
        defaults=_read_defaults(index, schedule),
    )


def _read_model_config(path: Path, index: Config) -> ModelConfig:
    parts = {
        part: read_json(path / folder / CONFIG)
        for part, folder in layout.FOLDERS.items()
        if _has_part(part, index)
    }
    return layout.read_config(parts, read_json(path / SCHEDULER))


def _has_part(part: str, index: Config) -> bool:
    return part != "context" or layout.FOLDERS[part] in index


def read_vocabulary(path: Path) -> Vocabulary:
    """What the model in this directory reads, from its configuration alone.

    Raises WeightsError, WeightsCorrupt.
    """
    from spectro_render.tokens import Vocabulary

    stored = read_json(path / NOTES_CONFIG)
    settings = {name: stored[name] for name in ("velocity_bins", "programs") if name in stored}
    try:
        return Vocabulary(**settings)
    except (TypeError, ValueError) as error:
        raise WeightsError(f"{NOTES_CONFIG}: {error}", UNSUPPORTED) from error


def _read_defaults(index: Config, schedule: DiscreteSchedule) -> Defaults:
    from spectro_render.diffusion import check_sampling

    stored = index.get("defaults", {})
    try:
        defaults = Defaults(**stored)
        check_sampling(defaults.sampler, defaults.steps, schedule)
    except (TypeError, OptionError) as error:
        raise WeightsError(f"{INDEX}: defaults are {stored!r}", UNSUPPORTED) from error
    return defaults


def _load_network(path: Path, config: ModelConfig) -> SpectrogramModel:
    """Build on the meta device, where nothing is initialised, and put the stored tensors in."""
    import torch

    from spectro_render.model import SpectrogramModel

    with torch.device("meta"):
        model = SpectrogramModel(config)
    for part, folder in layout.FOLDERS.items():
        module = getattr(model, part)
        if module is not None:
            names = {name: layout.stored_name(f"{part}.{name}") for name in module.state_dict()}
            fill(module, path / folder / TENSORS, names)
    return model.eval().requires_grad_(False)


# --- vocoder ----------------------------------------------------------------------------------


def load_vocoder(path: Path, kind: str) -> Vocoder:
    """The vocoder of this kind in a model directory; 'griffin-lim' needs no file.

    Raises OptionError for an unknown kind, WeightsError where the directory has none of that kind.
    """
    if kind not in VOCODERS:
        raise OptionError(f"unknown vocoder {kind!r}", f"one of {', '.join(VOCODERS)}")
    kinds = _vocoder_kinds(path)
    if kind not in kinds:
        raise WeightsError(f"{path} holds no vocoder {kind!r}", f"choose {' or '.join(kinds)}")
    if kind == "melgan":
        return _load_melgan(path / "melgan")
    if kind == "onnx":
        from spectro_render.vocoder_onnx import OnnxVocoder

        return OnnxVocoder(path / ONNX)
    from spectro_render.vocoder import GriffinLim

    return GriffinLim()


def _vocoder_kinds(path: Path) -> list[str]:
    """The vocoders that work with a model directory, the best first."""
    files = {"melgan": path / "melgan" / TENSORS, "onnx": path / ONNX}
    return [*(kind for kind, file in files.items() if os.path.exists(file)), "griffin-lim"]


def _load_melgan(path: Path) -> MelGAN:
    from spectro_render.vocoder import MelGAN, VocoderConfig

    stored = read_json(path / CONFIG)
    settings = {key: value for key, value in stored.items() if not key.startswith("_")}
    try:
        vocoder = MelGAN(VocoderConfig.from_dict(settings))
    except (TypeError, ValueError, RuntimeError) as error:
        message = f"{path / CONFIG} describes no vocoder: {error}"
        raise WeightsError(message, UNSUPPORTED) from error
    fill(vocoder, path / TENSORS, {name: name for name in vocoder.state_dict()})
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


def verify(directory: Path) -> bool:
    """Check the files of a model: True if SHA256SUMS vouches for them, False if there is none.

    Raises WeightsError for a file that is missing, WeightsCorrupt for one that differs from its
    checksum or that loading reads although SHA256SUMS does not list it.
    """
    expected = _read_checksums(directory)
    for file, checksum in (expected or {}).items():
        found = _sha256(directory / file)
        if found != checksum:
            raise WeightsCorrupt(
                f"{directory / file} has the SHA-256 {found}, not {checksum}", GET_ANEW
            )
    for file in _files(directory):
        require(directory / file)
        if expected is not None and file not in expected:
            raise WeightsCorrupt(f"{directory / CHECKSUMS} does not list {file}", GET_ANEW)
    return expected is not None


def _read_checksums(directory: Path) -> dict[Path, str] | None:
    """What SHA256SUMS lists: file -> SHA-256; None where there is no list."""
    listing = directory / CHECKSUMS
    try:
        lines = listing.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise unreadable(listing, error) from error
    pairs = (line.partition(" ") for line in lines)
    return {Path(name.lstrip(" *")): checksum for checksum, _, name in pairs}


def _files(directory: Path) -> Iterator[Path]:
    """All that loading may read, within the directory."""
    yield from (Path(INDEX), SCHEDULER)
    index = read_json(directory / INDEX)
    for part, folder in layout.FOLDERS.items():
        if _has_part(part, index):
            yield from (Path(folder, CONFIG), Path(folder, TENSORS))
    for vocoder in (Path("melgan", CONFIG), Path("melgan", TENSORS), ONNX):
        if os.path.exists(directory / vocoder):
            yield vocoder


def _sha256(path: Path) -> str:
    require(path)
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise unreadable(path, error) from error
    return digest.hexdigest()
