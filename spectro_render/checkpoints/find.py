"""Finds models by name: those that come with the program, directories, and those of the Hub.

Nothing is loaded here. A model of the Hub that is not on this machine yet is fetched.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from spectro_render.checkpoints.hub import KNOWN_MODELS, pull
from spectro_render.checkpoints.hub_cache import (
    HubName,
    cache_folder,
    cached,
    cached_models,
    cached_name,
    is_begun,
    is_hub_name,
    size_of,
)
from spectro_render.checkpoints.manifest import (
    INDEX,
    VOCODERS,
    ModelFiles,
    fingerprint,
    has_vocoder,
    is_onnx,
    model_files,
    sha256,
    verify_vocoder,
    vocoder_files,
    vocoder_kinds,
)
from spectro_render.errors import WeightsError, WeightsNotFound
from spectro_render.report import Reporter

PACKAGE = Path(__file__).resolve().parents[1]
MODEL_FOLDERS = (PACKAGE.parent / "weights", PACKAGE / "_weights")  # of a checkout, of a wheel


@dataclass(frozen=True)
class ModelEntry:
    """A model that may be named."""

    name: str
    state: str  # "bundled", "downloaded", "incomplete" or "not downloaded"
    size: int  # bytes
    path: Path | None  # None: nothing of it is here


def available_models() -> dict[str, Path]:
    """The models that come with the program: name -> directory."""
    found: dict[str, Path] = {}
    for folder in MODEL_FOLDERS:
        for index in sorted(folder.glob(f"*/{INDEX}")):
            found.setdefault(index.parent.name, index.parent)
    return found


def list_models() -> list[ModelEntry]:
    """The models that come with the program, those in the Hub's cache, and the known ones."""
    entries = [
        ModelEntry(name, "bundled", size_of(path), path)
        for name, path in available_models().items()
    ]
    for model in cached_models():
        state = "downloaded" if model.is_whole else "incomplete"
        entries.append(ModelEntry(model.name, state, size_of(model.path), model.path))
    names = {entry.name for entry in entries}
    for name, size in KNOWN_MODELS.items():
        if name not in names:
            state = "incomplete" if is_begun(HubName(name)) else "not downloaded"
            entries.append(ModelEntry(name, state, size, None))
    return entries


def find_model(name: str | os.PathLike[str]) -> Path:
    """The directory of a model that is here, given by name or by path; a name wins over a path.

    Raises WeightsNotFound, with the known names and every place looked at.
    """
    path = _find(name)
    if path is None:
        raise _not_found(name)
    return path


def get_model(
    name: str | os.PathLike[str], reporter: Reporter, *, vocoder_only: bool = False
) -> Path:
    """The directory of a model given by name or by path; one of the Hub is fetched if need be.

    `vocoder_only` fetches no more than the vocoder. Raises as `find_model` and `hub.pull` do.
    """
    path = _find(name, vocoder_only=vocoder_only)
    if path is not None:
        return path
    if is_hub_name(name):
        return pull(str(name), reporter, vocoder_only=vocoder_only)
    raise _not_found(name)


def refresh_model(name: str, reporter: Reporter) -> Path:
    """The directory of a model; one of the Hub is brought to the newest state of its name.

    Raises as `find_model` and `hub.pull` do.
    """
    is_local = name in available_models() or os.path.isdir(name) or not is_hub_name(name)
    return find_model(name) if is_local else pull(name, reporter)


def resolve_model(
    name: str | os.PathLike[str] = "default",
    vocoder: str | os.PathLike[str] | None = None,
    reporter: Reporter | None = None,
) -> ModelFiles:
    """Find the files of a model and of the vocoder that goes with it; fetch what is not here.

    `vocoder` insists on one of the model's own, a kind of VOCODERS, or takes that of another model
    (a name or a directory) or an ONNX file; None takes the best that the model has. Without a
    `reporter` a download is told of on standard error. Raises WeightsNotFound, DownloadError,
    WeightsCorrupt, and WeightsError for another model that holds no vocoder.
    """
    reporter = reporter or Reporter()
    path = get_model(name, reporter)
    place, kind = path, vocoder_kinds(path)[0]
    if vocoder in VOCODERS:
        kind = str(vocoder)
    elif vocoder is not None:
        place, kind = _find_vocoder(vocoder, reporter)
    return ModelFiles(model_name(path), path, place, kind)


def _find_vocoder(choice: str | os.PathLike[str], reporter: Reporter) -> tuple[Path, str]:
    """An ONNX file, or the directory of a model that holds a vocoder; and the vocoder's kind."""
    if is_onnx(choice):
        if not os.path.isfile(choice):
            raise WeightsNotFound(f"no ONNX file {str(choice)!r}", "check the path")
        return Path(choice), "onnx"
    try:
        path = get_model(choice, reporter, vocoder_only=True)
    except WeightsNotFound as error:
        kinds = ", ".join(VOCODERS)
        hint = f"one of {kinds}, a model or an ONNX file"
        raise WeightsNotFound(f"no vocoder {str(choice)!r}: {error.message}", hint) from error
    if not has_vocoder(path):
        raise WeightsError(f"{path} holds no vocoder", "choose another model, or griffin-lim")
    verify_vocoder(path)
    return path, vocoder_kinds(path)[0]


def fingerprint_of(files: ModelFiles) -> str:
    """A hash of the files that loading this model would read; equal hashes mean equal weights.

    Raises WeightsError, WeightsCorrupt.
    """
    own = fingerprint(files.directory, model_files(files.directory))
    if files.vocoder == files.directory:
        return own
    place = files.vocoder
    other = fingerprint(place, vocoder_files(place)) if place.is_dir() else sha256(place)
    return f"{own} {other}"


def bytes_of(files: ModelFiles) -> int:
    """The size of the files that loading this model may read. Raises WeightsError."""
    return sum(os.path.getsize(files.directory / file) for file in model_files(files.directory))


def is_vocoder(name: str) -> bool:
    """Whether this may be asked for: a kind, an ONNX file, a model that is here or on the Hub."""
    return name in VOCODERS or is_onnx(name) or may_be_model(name)


def models_at_hand() -> list[str]:
    """The names of all models that can be rendered with at once."""
    return [entry.name for entry in list_models() if entry.state in ("bundled", "downloaded")]


def may_be_model(name: str) -> bool:
    """Whether the name is that of a model here, or could be that of one on the Hub."""
    return is_hub_name(name) or _find(name) is not None


def model_name(path: Path) -> str:
    """What to call the model in a directory."""
    return cached_name(path) or path.resolve().name


def _find(name: str | os.PathLike[str], *, vocoder_only: bool = False) -> Path | None:
    models = available_models()
    if name in models:
        return models[str(name)]
    if os.path.isdir(name):
        return Path(name)
    return cached(name, vocoder_only=vocoder_only)


def _not_found(name: str | os.PathLike[str]) -> WeightsNotFound:
    if is_hub_name(name):
        message = f"no model {str(name)!r} here: looked at {Path(name)} and {cache_folder()}"
        return WeightsNotFound(message, f"spectro-render models pull {name}, if the Hub has it")
    places = [*(root / name for root in MODEL_FOLDERS), Path(name)]
    names = ", ".join((*available_models(), *KNOWN_MODELS))
    message = f"no model {str(name)!r}: looked at {', '.join(map(str, places))}"
    return WeightsNotFound(message, f"known names: {names}")
