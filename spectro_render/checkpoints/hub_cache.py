"""Parses names of the Hugging Face Hub, and finds models in the cache of the Hub's tools.

The cache is only read, without the Hub's client, so a model that was fetched once can be rendered
without further packages. A repository lies in it like this:

    models--OWNER--REPO/refs/main           the commit of this branch or tag
    models--OWNER--REPO/snapshots/COMMIT/   the files, as links to
    models--OWNER--REPO/blobs/              their content, named after its checksum
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from spectro_render.checkpoints.published import PINS

_WORD = r"[A-Za-z0-9](?:(?!--|\.\.)[\w.-]){0,95}"  # `--` and `..` are never in a repository's name
_NAME = re.compile(rf"({_WORD}/{_WORD})(?:@({_WORD}(?:/{_WORD})*))?", re.ASCII)
MAIN = "main"


@dataclass(frozen=True)
class HubName:
    """A repository of the Hub and a revision of it: a branch, a tag or a commit."""

    repo: str  # OWNER/REPO
    revision: str = ""  # "": the pinned commit of a published model, else the main branch

    def __post_init__(self) -> None:
        if not self.revision:
            pin = PINS.get(self.repo)
            object.__setattr__(self, "revision", pin.commit if pin else MAIN)

    def __str__(self) -> str:
        is_default = self == HubName(self.repo)
        return self.repo if is_default else f"{self.repo}@{self.revision}"

    @property
    def folder(self) -> Path:
        """Where the cache keeps the repository."""
        return cache_folder() / f"models--{self.repo.replace('/', '--')}"

    @property
    def snapshot(self) -> Path | None:
        """The directory with some or all of this revision's files; None if there is none."""
        try:
            commit = (self.folder / "refs" / self.revision).read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            commit = self.revision
        path = self.folder / "snapshots" / commit
        return path if os.path.isdir(path) else None

    @property
    def is_begun(self) -> bool:
        """Whether any content of the repository has been fetched."""
        return any(blob.stat().st_size for blob in (self.folder / "blobs").glob("*"))


def parse_hub_name(name: str | os.PathLike[str]) -> HubName | None:
    """Split `owner/repo` or `owner/repo@revision`; None for what cannot be such a name."""
    found = _NAME.fullmatch(str(name))
    return HubName(found[1], found[2] or "") if found else None


def cache_folder() -> Path:
    """The folder of the cache, by the environment variables that all of the Hub's tools use."""
    return _chosen_cache() or hub_folder() / "hub"


def hub_folder() -> Path:
    """The folder of the Hub's tools: the one around their cache, or a cache chosen by itself."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache")
    home = os.environ.get("HF_HOME") or os.path.join(home, "huggingface")
    return _chosen_cache() or _expand(home)


def _chosen_cache() -> Path | None:
    chosen = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    return _expand(chosen) if chosen else None


def _expand(folder: str) -> Path:
    return Path(os.path.expandvars(os.path.expanduser(folder)))


def snapshots(repo: str = "*/*") -> Iterator[Path]:
    """The directories of all revisions of repositories in the cache, of models of any kind."""
    yield from sorted(cache_folder().glob(f"models--{repo.replace('/', '--')}/snapshots/*"))


def commit_of_snapshot(path: Path) -> HubName | None:
    """The repository and the commit of a directory in the cache; None for any other directory."""
    path = Path(os.path.abspath(path))
    _, *words = path.parent.parent.name.split("--")
    if path.parent.name != "snapshots" or len(words) != 2:
        return None
    return HubName("/".join(words), path.name)


def name_of_snapshot(path: Path) -> HubName | None:
    """The shortest name of a directory in the cache; None for any other directory."""
    exact = commit_of_snapshot(path)
    if exact is None or exact == HubName(exact.repo):  # the pinned commit
        return exact
    refs, commit = path.parent.parent / "refs", path.name.encode()
    names = sorted(file.relative_to(refs).as_posix() for file in refs.rglob("*") if file.is_file())
    revisions = [name for name in names if (refs / name).read_bytes().strip() == commit]
    # The main branch if it is at this commit, else another branch or tag, else the commit itself.
    return HubName(exact.repo, MAIN if MAIN in revisions else (*revisions, exact.revision)[0])
