"""Finds models by name or path, and fetches missing ones from the Hub.

Files are only found here; `load.py` loads them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from spectro_render.checkpoints.files import read_json
from spectro_render.checkpoints.hub import KNOWN_MODELS, VocoderUse, cached, pull
from spectro_render.checkpoints.hub_cache import (
    HubName,
    cache_folder,
    name_of_snapshot,
    parse_hub_name,
    snapshots,
)
from spectro_render.checkpoints.manifest import (
    INDEX,
    VOCODERS,
    ModelFiles,
    choose_vocoder_files,
    fingerprint,
    has_vocoder,
    is_onnx,
    is_whole,
    model_files,
    sha256,
    verify_vocoder,
    vocoder_files,
    vocoder_kinds,
)
from spectro_render.checkpoints.names import FOLDERS
from spectro_render.errors import WeightsError, WeightsNotFound
from spectro_render.report import Reporter

PACKAGE = Path(__file__).resolve().parents[1]
MODEL_FOLDERS = (PACKAGE.parent / "weights", PACKAGE / "_weights")  # in a checkout, in a wheel


@dataclass(frozen=True)
class ModelEntry:
    """An entry in the list of known models."""

    name: str
    state: str  # "bundled", "downloaded", "incomplete" or "not downloaded"
    size: int  # bytes
    path: Path | None  # None: it has no directory on this machine


def available_models() -> dict[str, Path]:
    """The models that come with the program: name -> directory."""
    found: dict[str, Path] = {}
    for folder in MODEL_FOLDERS:
        for index in sorted(folder.glob(f"*/{INDEX}")):
            found.setdefault(index.parent.name, index.parent)
    return found


def model_entries() -> list[ModelEntry]:
    """List the models that come with the program, those in the Hub's cache, and the known ones."""
    entries = [
        ModelEntry(name, "bundled", _size_of(path), path)
        for name, path in available_models().items()
    ]
    for path in filter(_is_model, snapshots()):
        state = "downloaded" if is_whole(path) else "incomplete"
        entries.append(ModelEntry(model_name(path), state, _size_of(path), path))
    names = {entry.name for entry in entries}
    for name, size in KNOWN_MODELS.items():
        if name not in names:
            state = "incomplete" if HubName(name).is_begun else "not downloaded"
            entries.append(ModelEntry(name, state, size, None))
    return entries


def _is_model(path: Path) -> bool:
    """Whether the index of a directory lists our networks; the cache holds models of any kind."""
    try:
        return {FOLDERS["notes"], FOLDERS["decoder"]} <= set(read_json(path / INDEX))
    except WeightsError:
        return False


def _size_of(path: Path) -> int:
    """Bytes of all files in a model directory."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def find_model(name: str | os.PathLike[str]) -> Path:
    """Find the directory of a model on this machine by name or path; names take precedence.

    Raises WeightsNotFound, whose hint is the name that may be meant, or all known names.
    """
    path = _find(name)
    if path is None:
        raise _not_found(name)
    return path


def check_name(name: str) -> None:
    """Raise WeightsError for a name that no model can have here or on the Hub."""
    if name in available_models():
        return
    if os.path.isdir(name):
        if not os.path.lexists(os.path.join(name, INDEX)):
            message = f"{name} is no model directory, as it has no {INDEX}"
            makers = "'spectro-render train' and 'spectro-render models convert' make one"
            raise WeightsError(message, f"{makers}, 'spectro-render models list' lists models")
    elif not parse_hub_name(name):
        raise _not_found(name)


def get_model(
    name: str | os.PathLike[str], reporter: Reporter, vocoder_use: VocoderUse = "now"
) -> Path:
    """Find the directory of a model by name or path; fetch it from the Hub if it is missing.

    Raises WeightsNotFound, and the errors of `hub.pull`.
    """
    path = _find(name)
    if path is not None:
        return path
    if parse_hub_name(name):
        return pull(str(name), reporter, vocoder_use=vocoder_use)
    raise _not_found(name)


def refresh_model(name: str, reporter: Reporter) -> Path:
    """Find the directory of a model by name or path; update it first if it is from the Hub.

    Raises WeightsNotFound, and the errors of `hub.pull`.
    """
    is_local = name in available_models() or os.path.isdir(name) or not parse_hub_name(name)
    return find_model(name) if is_local else pull(name, reporter, vocoder_use="later")


def resolve_model(
    name: str | os.PathLike[str] = "default",
    vocoder: str | os.PathLike[str] | None = None,
    reporter: Reporter | None = None,
    timbres: Iterable[tuple[int, str | os.PathLike[str]]] = (),
) -> ModelFiles:
    """Find the files of a model and of its vocoder, and fetch what is not on this machine.

    `vocoder` is a kind of vocoder that the model has, one of VOCODERS; or the name or directory of
    another model that has the vocoder to use; or an ONNX file. None means the model's best one.
    `timbres` are files of timbres (see `timbres.py`), each with its program, 0 to 127. Without a
    `reporter`, downloads are reported on standard error. Raises WeightsNotFound, DownloadError,
    WeightsCorrupt, and WeightsError for another model that holds no vocoder.
    """
    reporter = reporter or Reporter()
    path = get_model(name, reporter, "now" if vocoder in (None, "onnx") else "never")
    place, kind = path, vocoder_kinds(path)[0]
    if vocoder in VOCODERS:
        kind = str(vocoder)
    elif vocoder is not None:
        place, kind = _find_vocoder(vocoder, reporter)
    given = tuple((program, Path(timbre)) for program, timbre in timbres)
    return ModelFiles(model_name(path), path, place, kind, reporter.say, given)


def require_at_hand(name: str | os.PathLike[str], vocoder: str | os.PathLike[str] | None) -> None:
    """Raise WeightsNotFound if `resolve_model` would have to fetch something."""
    find_model(name)
    if vocoder is not None and vocoder not in VOCODERS and not is_onnx(vocoder):
        if _find(vocoder, has_vocoder) is None:
            raise _not_found(vocoder)


def _find_vocoder(choice: str | os.PathLike[str], reporter: Reporter) -> tuple[Path, str]:
    """Find an ONNX file or the directory of a model with a vocoder; returns also its kind."""
    if is_onnx(choice):
        if not os.path.isfile(choice):
            raise WeightsNotFound(f"no ONNX file {str(choice)!r}", "check the path")
        return Path(choice), "onnx"
    path = _find(choice, has_vocoder)
    try:
        if path is None and not parse_hub_name(choice):
            raise _not_found(choice)
        path = path or pull(str(choice), reporter, choose=choose_vocoder_files)
    except WeightsNotFound as error:
        hint = f"use one of {', '.join(VOCODERS)}, a model or an ONNX file"
        raise WeightsNotFound(f"no vocoder {str(choice)!r}: {error.message}", hint) from error
    if not has_vocoder(path):
        raise WeightsError(f"{path} holds no vocoder", "choose another model, or griffin-lim")
    verify_vocoder(path)
    return path, vocoder_kinds(path)[0]


def fingerprint_of(files: ModelFiles) -> str:
    """A hash of the files that loading this model would read; equal hashes mean equal weights.

    Raises WeightsError, WeightsCorrupt.
    """
    parts = [fingerprint(files.directory, _files_to_load(files))]
    place = files.vocoder
    if place != files.directory:
        is_model = place.is_dir()
        parts.append(fingerprint(place, vocoder_files(place)) if is_model else sha256(place))
    parts += [f"{program}={sha256(timbre)}" for program, timbre in files.timbres]
    return " ".join(parts)


def bytes_of(files: ModelFiles) -> int:
    """The size of the files that loading this model may read. Raises WeightsError."""
    return sum(os.path.getsize(files.directory / file) for file in _files_to_load(files))


def _files_to_load(files: ModelFiles) -> list[Path]:
    return model_files(files.directory, read_json(files.directory / INDEX))


def is_vocoder(name: str) -> bool:
    """Whether a name can be that of a vocoder: a kind, an ONNX file, a model here or on the Hub."""
    return name in VOCODERS or is_onnx(name) or bool(parse_hub_name(name) or _find(name))


def models_at_hand() -> list[str]:
    """The names of all models that can render without a download."""
    return [entry.name for entry in model_entries() if entry.state in ("bundled", "downloaded")]


def model_name(path: Path) -> str:
    """The name of the model in a directory: its name on the Hub, or else the directory's name."""
    return str(name_of_snapshot(path) or path.resolve().name)


def _find(name: str | os.PathLike[str], is_ready: Callable[[Path], bool] = is_whole) -> Path | None:
    """Find a model's directory on this machine; one in the Hub's cache must be `is_ready`."""
    models = available_models()
    if name in models:
        return models[str(name)]
    if os.path.isdir(name):
        return Path(name)
    return cached(name, is_ready)


def _not_found(name: str | os.PathLike[str]) -> WeightsNotFound:
    if parse_hub_name(name):
        message = f"no model {str(name)!r} here: looked at {Path(name)} and {cache_folder()}"
        return WeightsNotFound(message, f"spectro-render models pull {name}, if the Hub has it")
    known = [*available_models(), *KNOWN_MODELS]
    near = get_close_matches(str(name), known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known names: {', '.join(known)}"
    return WeightsNotFound(f"no model {str(name)!r}, and no such directory", hint)
