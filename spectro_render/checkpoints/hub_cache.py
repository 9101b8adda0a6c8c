"""What is here already of the Hugging Face Hub: names, and the cache that its tools share.

The cache is only read, without the Hub's client, so that a model that was fetched once renders with
nothing but this package. A repository lies in it like this:

    models--OWNER--REPO/refs/main           the commit that this branch or tag was at
    models--OWNER--REPO/snapshots/COMMIT/   the files, as links to
    models--OWNER--REPO/blobs/              their content, named after its checksum
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from spectro_render.checkpoints import names as layout
from spectro_render.checkpoints.files import read_json
from spectro_render.checkpoints.manifest import INDEX, has_vocoder, is_whole
from spectro_render.errors import WeightsError

_WORD = r"[A-Za-z0-9](?:(?!--|\.\.)[\w.-]){0,95}"  # `--` and `..` are never in a repository's name
_NAME = re.compile(rf"({_WORD}/{_WORD})(?:@({_WORD}(?:/{_WORD})*))?", re.ASCII)
DEFAULT_REVISION = "main"


@dataclass(frozen=True)
class HubName:
    """A repository of the Hub and which state of it: a branch, a tag or a commit."""

    repo: str  # OWNER/REPO
    revision: str = DEFAULT_REVISION

    def __str__(self) -> str:
        return self.repo if self.revision == DEFAULT_REVISION else f"{self.repo}@{self.revision}"

    @property
    def folder(self) -> Path:
        """Where the cache keeps the repository."""
        return cache_folder() / f"models--{self.repo.replace('/', '--')}"


@dataclass(frozen=True)
class CachedModel:
    """A model in the cache; `is_whole` unless files are missing."""

    name: str
    path: Path
    is_whole: bool


def parse_hub_name(name: str | os.PathLike[str]) -> HubName | None:
    """`owner/repo` or `owner/repo@revision`; None for what cannot be one."""
    found = _NAME.fullmatch(str(name))
    return HubName(found[1], found[2] or DEFAULT_REVISION) if found else None


def is_hub_name(name: str | os.PathLike[str]) -> bool:
    """Whether the Hub might have a model of this name."""
    return parse_hub_name(name) is not None


def cache_folder() -> Path:
    """Where the Hub's tools keep what they fetched, by the variables that all of them heed."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache")
    home = os.environ.get("HF_HOME") or os.path.join(home, "huggingface")
    older = os.environ.get("HUGGINGFACE_HUB_CACHE")
    folder = os.environ.get("HF_HUB_CACHE") or older or os.path.join(home, "hub")
    return Path(os.path.expandvars(os.path.expanduser(folder)))


def cached(name: str | os.PathLike[str], *, vocoder_only: bool = False) -> Path | None:
    """The directory of a model of the Hub, if all that loading it reads is in the cache."""
    hub_name = parse_hub_name(name)
    path = _snapshot(hub_name) if hub_name else None
    is_ready = has_vocoder if vocoder_only else is_whole
    return path if path and is_ready(path) else None


def _snapshot(name: HubName) -> Path | None:
    """The directory of this state of the repository, in part or whole."""
    try:
        commit = (name.folder / "refs" / name.revision).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        commit = name.revision
    path = name.folder / "snapshots" / commit
    return path if os.path.isdir(path) else None


def is_begun(name: HubName) -> bool:
    """Whether a part of the repository has been fetched."""
    return any(blob.stat().st_size for blob in (name.folder / "blobs").glob("*"))


def cached_models() -> Iterator[CachedModel]:
    """All models of ours or of the published kind that are in the cache."""
    for path in sorted(cache_folder().glob("models--*--*/snapshots/*")):
        if _is_model(path):
            yield CachedModel(cached_name(path) or path.name, path, is_whole(path))


def _is_model(path: Path) -> bool:
    """Whether its index speaks of our networks; the cache holds models of every kind."""
    try:
        index = read_json(path / INDEX)
    except WeightsError:
        return False
    return {layout.FOLDERS["notes"], layout.FOLDERS["decoder"]} <= set(index)


def cached_name(path: Path) -> str | None:
    """`owner/repo@revision` of a directory of the cache; None for any other."""
    repository = path.parent.parent
    _, *words = repository.name.split("--")
    if path.parent.name != "snapshots" or len(words) != 2:
        return None
    return str(HubName("/".join(words), _revision(repository, path.name)))


def _revision(repository: Path, commit: str) -> str:
    """What leads to the commit: the main branch, another one or a tag, or itself."""
    refs = repository / "refs"
    names = sorted(path.relative_to(refs).as_posix() for path in refs.rglob("*") if path.is_file())
    heads = [name for name in names if (refs / name).read_bytes().strip() == commit.encode()]
    return DEFAULT_REVISION if DEFAULT_REVISION in heads else (*heads, commit)[0]


def size_of(path: Path) -> int:
    """Bytes of all files in a model directory."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
