"""Model directories: load, save.

`manifest.py` draws the layout, `registry.py` finds a directory by name. No code in a file of
weights is ever run.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from spectro_render import layout
from spectro_render.errors import OptionError, WeightsError, WeightsNotFound
from spectro_render.layout import UNSUPPORTED, Config
from spectro_render.manifest import (
    INDEX,
    MELGAN,
    ONNX,
    SCHEDULER,
    fingerprint,
    has_part,
    has_vocoder,
    model_files,
    sha256,
    verify_listed,
    verify_vocoder,
    vocoder_files,
    write_checksums,
)
from spectro_render.registry import get_model, may_be_model, model_name
from spectro_render.store import (
    CONFIG,
    TENSORS,
    fill,
    read_json,
    tensors_file,
    without_numbers,
    write_json,
    write_part,
)

if TYPE_CHECKING:
    from spectro_render.config import ModelConfig
    from spectro_render.diffusion import DiscreteSchedule
    from spectro_render.model import MelModel
    from spectro_render.tokens import Vocabulary
    from spectro_render.vocoder import MelGAN, Vocoder

NOTES_CONFIG = Path(layout.FOLDERS["notes"], CONFIG)
VOCODERS = ("melgan", "onnx", "griffin-lim")
QUALITIES = ("fast", "best")

Preset: TypeAlias = tuple[str, int]  # sampler, steps


@dataclass(frozen=True)
class Defaults:
    """How a model is best rendered, where the user does not say."""

    sampler: str = "diffusers"
    steps: int = 100
    guidance: float = 1.0
    gain: float | None = None  # dB; None: the program's own
    fast: Preset = ("dpm++", 10)  # of `quality` "fast": sampler, steps
    best: Preset = ("ddpm", 1000)  # of "best": the paper's

    def preset(self, quality: str | None) -> Preset:
        """Sampler and steps of `quality`, one of QUALITIES or None; raises OptionError."""
        if quality is None:
            return self.sampler, self.steps
        if quality not in QUALITIES:
            raise OptionError(f"unknown quality {quality!r}", f"one of {', '.join(QUALITIES)}")
        preset: Preset = getattr(self, quality)
        return preset


# diffusers' pipeline, whose directories do not say, takes these steps. It applies no guidance, but
# the published weights were meant for this much (the notebook of their authors).
PUBLISHED_CLASS = "SpectrogramDiffusionPipeline"
PUBLISHED_DEFAULTS = Defaults("diffusers", steps=100, guidance=2.0)


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A model directory, loaded."""

    name: str
    path: Path
    config: ModelConfig
    model: MelModel
    vocoder: Vocoder
    vocoder_kind: str  # one of VOCODERS; "griffin-lim" where the directory holds none
    vocabulary: Vocabulary
    schedule: DiscreteSchedule  # of the sampler 'diffusers'
    defaults: Defaults


# --- load -------------------------------------------------------------------------------------


def load_model(
    model: str | os.PathLike[str] = "default",
    *,
    vocoder: str | os.PathLike[str] | None = None,
    quiet: bool = False,
) -> Checkpoint:
    """Load the model of this name or in this directory onto the CPU, in float32.

    One of the Hub that is not here yet is fetched, unless `quiet` with words on standard error.
    `vocoder` insists on one of the model's own, or takes that of another model (a name or a
    directory) or an ONNX file; None takes the best that the model has. Raises WeightsNotFound,
    DownloadError, WeightsCorrupt for files that are not what they promise to be, WeightsError for
    what is missing or unsupported.
    """
    path = get_model(model, quiet=quiet)
    verify_listed(path)
    index = read_json(path / INDEX)
    config = _read_model_config(path, index)
    schedule = layout.read_schedule(read_json(path / SCHEDULER))
    place, kind = _choose_vocoder(path, vocoder, quiet)
    return Checkpoint(
        name=model_name(path),
        path=path,
        config=config,
        model=_load_network(path, config),
        vocoder=load_vocoder(place, kind),
        vocoder_kind=kind,
        vocabulary=read_vocabulary(path),
        schedule=schedule,
        defaults=_read_defaults(index, schedule),
    )


def _read_model_config(path: Path, index: Config) -> ModelConfig:
    parts = {
        part: read_json(path / folder / CONFIG)
        for part, folder in layout.FOLDERS.items()
        if has_part(part, index)
    }
    return layout.read_config(parts, read_json(path / SCHEDULER))


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

    is_published = index.get("_class_name") == PUBLISHED_CLASS
    stored = index.get("defaults", asdict(PUBLISHED_DEFAULTS) if is_published else {})
    try:
        plain: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in stored.items()
        }
        defaults = Defaults(**plain)
        for quality in (None, *QUALITIES):
            check_sampling(*defaults.preset(quality), schedule)
    except (AttributeError, TypeError, ValueError, OptionError) as error:
        raise WeightsError(f"{INDEX}: defaults are {stored!r}", UNSUPPORTED) from error
    return defaults


def _load_network(path: Path, config: ModelConfig) -> MelModel:
    """Build without numbers, and put the stored tensors in."""
    from spectro_render.build import make_model

    with without_numbers():
        model = make_model(config)
    for part, folder in layout.FOLDERS.items():
        module = getattr(model, part)
        if module is not None:
            names = {name: layout.stored_name(f"{part}.{name}") for name in module.state_dict()}
            fill(module, tensors_file(path / folder), names)
    return model.eval().requires_grad_(False)


# --- vocoder ----------------------------------------------------------------------------------


def is_vocoder(name: str) -> bool:
    """Whether this may be asked for: a kind, an ONNX file, a model that is here or on the Hub."""
    return name in VOCODERS or _is_onnx(name) or may_be_model(name)


def _is_onnx(name: str | os.PathLike[str]) -> bool:
    return Path(name).suffix == ONNX.suffix


def _choose_vocoder(
    model: Path, choice: str | os.PathLike[str] | None, quiet: bool
) -> tuple[Path, str]:
    """Where the vocoder lies, a directory or an ONNX file, and of which kind it is."""
    if choice is None:
        return model, _vocoder_kinds(model)[0]
    if choice in VOCODERS:
        return model, str(choice)
    if _is_onnx(choice):
        if not os.path.isfile(choice):
            raise WeightsNotFound(f"no ONNX file {str(choice)!r}", "check the path")
        return Path(choice), "onnx"
    try:
        path = get_model(choice, quiet=quiet, vocoder_only=True)
    except WeightsNotFound as error:
        kinds = ", ".join(VOCODERS)
        hint = f"one of {kinds}, a model or an ONNX file"
        raise WeightsNotFound(f"no vocoder {str(choice)!r}: {error.message}", hint) from error
    if not has_vocoder(path):
        raise WeightsError(f"{path} holds no vocoder", "choose another model, or griffin-lim")
    verify_vocoder(path)
    return path, _vocoder_kinds(path)[0]


def fingerprint_of(
    model: str | os.PathLike[str] = "default",
    vocoder: str | os.PathLike[str] | None = None,
    *,
    quiet: bool = False,
) -> str:
    """What differs where `load_model` with these arguments would load other files."""
    path = get_model(model, quiet=quiet)
    files = fingerprint(path, model_files(path))
    if vocoder is None or vocoder in VOCODERS:
        return files
    place, _ = _choose_vocoder(path, vocoder, quiet)
    own = fingerprint(place, vocoder_files(place)) if place.is_dir() else sha256(place)
    return f"{files} {own}"


def bytes_of(model: str | os.PathLike[str] = "default", *, quiet: bool = False) -> int:
    """The size of the files that loading may read. Raises WeightsError."""
    path = get_model(model, quiet=quiet)
    return sum(os.path.getsize(path / file) for file in model_files(path))


def load_vocoder(path: Path, kind: str) -> Vocoder:
    """The vocoder of this kind in a model directory, or in an ONNX file; 'griffin-lim' needs none.

    Raises OptionError for an unknown kind, WeightsError where the directory has none of that kind.
    """
    if kind not in VOCODERS:
        raise OptionError(f"unknown vocoder {kind!r}", f"one of {', '.join(VOCODERS)}")
    if kind == "onnx" and _is_onnx(path):
        return _load_onnx(path)
    kinds = _vocoder_kinds(path)
    if kind not in kinds:
        raise WeightsError(f"{path} holds no vocoder {kind!r}", f"choose {' or '.join(kinds)}")
    if kind == "melgan":
        return _load_melgan(path / MELGAN)
    if kind == "onnx":
        return _load_onnx(path / ONNX)
    from spectro_render.vocoder import GriffinLim

    return GriffinLim()


def _vocoder_kinds(path: Path) -> list[str]:
    """The vocoders that work with a model directory, the best first."""
    files = {"melgan": path / MELGAN / TENSORS, "onnx": path / ONNX}
    return [*(kind for kind, file in files.items() if os.path.exists(file)), "griffin-lim"]


def _load_onnx(path: Path) -> Vocoder:
    from spectro_render.vocoder_onnx import OnnxVocoder

    return OnnxVocoder(path)


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
    model: MelModel,
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
    for folder in (*layout.FOLDERS.values(), "scheduler", MELGAN):
        shutil.rmtree(path / folder, ignore_errors=True)
    parts = layout.write_config(model.config)
    for part, config in parts.items():
        state = getattr(model, part).state_dict()
        tensors = {layout.stored_name(f"{part}.{name}"): state[name] for name in state}
        write_part(path / layout.FOLDERS[part], config, tensors, dtype)
    if vocoder is not None:
        config = {"_class_name": "MelGAN", **vocoder.config.to_dict()}
        write_part(path / MELGAN, config, vocoder.state_dict(), dtype)
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
    stored = asdict(defaults)
    if parts["decoder"]["decoder"] == "autoregressive":  # has no steps to take
        stored = {"gain": defaults.gain}
    return {"_class_name": "SpectroRenderModel", **classes, "defaults": stored}
