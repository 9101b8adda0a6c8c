"""Which files make up a model directory, and what vouches for them.

One layout for the published weights and for ours, the one that diffusers saves:

    model_index.json       what the parts are; ours also keeps the defaults for rendering here
    notes_encoder/         config.json, diffusion_pytorch_model.safetensors (or .bin)
    continuous_encoder/    the same (left out by models without context)
    decoder/               the same
    scheduler/             scheduler_config.json
    melgan/                model.onnx, or config.json and diffusion_pytorch_model.safetensors, or
                           nothing: then Griffin-Lim turns mels into sound
    SHA256SUMS             of all other files (ours); checked before anything is loaded

Directories without SHA256SUMS that lie in the Hub's cache are vouched for by the cache: their files
are links to blobs, which are named after the checksum that the Hub gave.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path

from spectro_render.checkpoints import names as layout
from spectro_render.checkpoints.files import (
    CONFIG,
    GET_ANEW,
    PICKLE,
    TENSORS,
    read_json,
    require,
    tensors_file,
    unreadable,
)
from spectro_render.checkpoints.names import Config
from spectro_render.errors import WeightsCorrupt, WeightsError

INDEX = "model_index.json"
VOCODERS = ("melgan", "onnx", "griffin-lim")  # the kinds
SCHEDULER = Path("scheduler", "scheduler_config.json")
MELGAN = "melgan"  # the folder of any vocoder
ONNX = Path(MELGAN, "model.onnx")
_VOCODER_FILES = (Path(MELGAN, CONFIG), Path(MELGAN, TENSORS), ONNX)
CHECKSUMS = "SHA256SUMS"


@dataclass(frozen=True)
class ModelFiles:
    """Where a model lies that has been found, and which vocoder goes with it."""

    name: str
    directory: Path
    vocoder: Path  # a model directory, or an ONNX file
    vocoder_kind: str  # one of VOCODERS; "griffin-lim" where the directory holds none


# --- which files ------------------------------------------------------------------------------


def has_part(part: str, index: Config) -> bool:
    """Whether a model with this model_index.json has a network of this name."""
    return part != "context" or _speaks_of(index, layout.FOLDERS[part])


def _speaks_of(index: Config, folder: str) -> bool:
    """Whether a model_index.json has this part; diffusers may write `[null, null]` for none."""
    return index.get(folder) not in (None, [None, None])


def model_files(directory: Path) -> Iterator[Path]:
    """All files that loading may read, within the directory.

    Raises WeightsError, WeightsCorrupt where the directory does not say or lacks tensors.
    """
    yield from (Path(INDEX), SCHEDULER)
    index = read_json(directory / INDEX)
    for part, folder in layout.FOLDERS.items():
        if has_part(part, index):
            yield Path(folder, CONFIG)
            yield tensors_file(directory / folder).relative_to(directory)
    yield from vocoder_files(directory)


def vocoder_files(directory: Path) -> Iterator[Path]:
    """Those of the vocoders that are there, within the directory."""
    yield from (file for file in _VOCODER_FILES if os.path.exists(directory / file))


def is_whole(directory: Path) -> bool:
    """Whether all files are there, among them the vocoder that the index speaks of."""
    try:
        files = list(model_files(directory))
        needs_vocoder = _speaks_of(read_json(directory / INDEX), MELGAN)
    except WeightsError:
        return False
    is_there = all(os.path.isfile(directory / file) for file in files)
    return is_there and (has_vocoder(directory) or not needs_vocoder)


def is_onnx(name: str | os.PathLike[str]) -> bool:
    """Whether this is the name of an ONNX file."""
    return Path(name).suffix == ONNX.suffix


def vocoder_kinds(directory: Path) -> list[str]:
    """The kinds of vocoder that work with a model directory, the best first."""
    files = {"melgan": directory / MELGAN / TENSORS, "onnx": directory / ONNX}
    return [*(kind for kind, file in files.items() if os.path.exists(file)), "griffin-lim"]


def has_vocoder(directory: Path) -> bool:
    """Whether a vocoder comes with it."""
    return any(file.suffix != ".json" for file in vocoder_files(directory))


def choose_files(names: Collection[str], *, vocoder_only: bool = False) -> list[str]:
    """Of the files of a repository, given with `/`, those that loading reads.

    Tensors are taken as safetensors or, where there are none, as a pickle; never both.
    """
    wanted = [INDEX, *(file.as_posix() for file in _VOCODER_FILES)]
    if not vocoder_only:
        wanted.append(SCHEDULER.as_posix())
        for folder in layout.FOLDERS.values():
            is_safe = f"{folder}/{TENSORS}" in names
            wanted += [f"{folder}/{CONFIG}", f"{folder}/{TENSORS if is_safe else PICKLE}"]
    return [name for name in wanted if name in names]


# --- what vouches for them --------------------------------------------------------------------


def write_checksums(directory: Path) -> None:
    """Write SHA256SUMS over every other file, in the format that `sha256sum -c` reads."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    lines = [
        f"{sha256(path)}  {path.relative_to(directory).as_posix()}\n"
        for path in files
        if path.name != CHECKSUMS
    ]
    (directory / CHECKSUMS).write_text("".join(lines), encoding="utf-8")


def verify(directory: Path) -> bool:
    """Check all files of a model: True if checksums vouch for them, False if there are none.

    Raises WeightsError for a file that is missing, WeightsCorrupt for one that differs from its
    checksum or that loading reads although SHA256SUMS does not list it.
    """
    return verify_listed(directory) or _verify_blobs(directory)


def verify_listed(directory: Path) -> bool:
    """The same by SHA256SUMS alone: False if there is none."""
    expected = _read_checksums(directory)
    for file in model_files(directory):
        require(directory / file)
    if expected is not None:
        _check_listed(directory, expected, {*expected, *model_files(directory)})
    return expected is not None


def verify_vocoder(directory: Path) -> None:
    """Check the files of the vocoders alone, if there is a SHA256SUMS."""
    expected = _read_checksums(directory)
    if expected is not None:
        _check_listed(directory, expected, set(vocoder_files(directory)))


def _check_listed(directory: Path, expected: Mapping[Path, str], files: Set[Path]) -> None:
    for file in sorted(files):
        if file not in expected:
            raise WeightsCorrupt(f"{directory / CHECKSUMS} does not list {file}", GET_ANEW)
        check(directory / file, expected[file])


def fingerprint(directory: Path, files: Iterable[Path]) -> str:
    """SHA-256 of the checksums of files: those listed, of the Hub's cache, or their own."""
    listed = _read_checksums(directory) or {}

    def checksum(file: Path) -> str:
        blob = (directory / file).resolve()
        return listed.get(file) or (blob.name if is_blob(blob) else sha256(blob))

    lines = (f"{checksum(file)} {file.as_posix()}" for file in files)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def check(path: Path, checksum: str, name: Path | str | None = None) -> None:
    """Raise WeightsCorrupt if the file, called `name`, has another SHA-256, or SHA-1 as of git."""
    found = sha256(path) if len(checksum) == 64 else git_sha1(path)
    if found != checksum:
        kind = "SHA-256" if len(checksum) == 64 else "SHA-1"
        raise WeightsCorrupt(f"{name or path} has the {kind} {found}, not {checksum}", GET_ANEW)


def _verify_blobs(directory: Path) -> bool:
    """Check files of the Hub's cache, which are links to blobs that are named after checksums."""
    blobs = {file: (directory / file).resolve() for file in model_files(directory)}
    if not all(is_blob(blob) for blob in blobs.values()):
        return False
    for file, blob in blobs.items():
        check(blob, blob.name, directory / file)
    return True


def is_blob(path: Path) -> bool:
    """Whether a file is named as the Hub's cache does: by its SHA-256, or by git's SHA-1."""
    is_hexadecimal = set(path.name) <= set("0123456789abcdef")
    return path.parent.name == "blobs" and len(path.name) in (40, 64) and is_hexadecimal


def _read_checksums(directory: Path) -> dict[Path, str] | None:
    """What SHA256SUMS lists: file -> SHA-256; None where there is no list."""
    listing = directory / CHECKSUMS
    try:
        lines = listing.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise unreadable(listing, error) from error
    pairs = (line.partition(" ") for line in lines if line.strip())
    return {Path(name.lstrip(" *")): checksum for checksum, _, name in pairs}


def sha256(path: Path) -> str:
    """In hexadecimal. Raises WeightsError for a file that cannot be read."""
    return _digest(path, lambda _: hashlib.sha256())


def git_sha1(path: Path) -> str:
    """What git calls the file's content, in hexadecimal (gitobjects, 'blob')."""
    return _digest(path, lambda size: hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False))


def _digest(path: Path, make: Callable[[int], hashlib._Hash]) -> str:
    require(path)
    try:
        with path.open("rb") as file:
            digest = make(os.fstat(file.fileno()).st_size)
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise unreadable(path, error) from error
    return digest.hexdigest()
