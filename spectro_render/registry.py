"""Finds models by name: those that come with the program, directories, and those of the Hub."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from spectro_render.errors import WeightsNotFound
from spectro_render.hub import KNOWN_MODELS, pull
from spectro_render.hub_cache import (
    HubName,
    cache_folder,
    cached,
    cached_models,
    cached_name,
    is_begun,
    is_hub_name,
    size_of,
)
from spectro_render.manifest import INDEX

PACKAGE = Path(__file__).resolve().parent
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
    name: str | os.PathLike[str], *, quiet: bool = False, vocoder_only: bool = False
) -> Path:
    """The same, but a model of the Hub that is not here yet is fetched, as `hub.pull` does.

    With `vocoder_only` it need not be there but for its vocoder.
    """
    path = _find(name, vocoder_only=vocoder_only)
    if path is not None:
        return path
    if is_hub_name(name):
        return pull(str(name), quiet=quiet, vocoder_only=vocoder_only)
    raise _not_found(name)


def refresh_model(name: str, *, quiet: bool = False) -> Path:
    """The same, but a model of the Hub is brought to the newest state that its name stands for."""
    is_local = name in available_models() or os.path.isdir(name) or not is_hub_name(name)
    return find_model(name) if is_local else pull(name, quiet=quiet)


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
