"""Lists the files of a model directory, and verifies them by checksums.

The published weights and ours have one layout, that of diffusers:

    model_index.json       the library and the class of each part; in our models also the defaults
                           for rendering
    notes_encoder/         config.json, diffusion_pytorch_model.safetensors (or .bin)
    continuous_encoder/    likewise, in models with context
    decoder/               likewise
    scheduler/             scheduler_config.json
    melgan/                model.onnx, or config.json and diffusion_pytorch_model.safetensors, or
                           nothing: then Griffin-Lim turns mels into sound. The tensors of a vocoder
                           that reads notes include its line table
    band/                  config.json, diffusion_pytorch_model.safetensors, in some of our models:
                           the band above the mel's, for `--full-band`
    SHA256SUMS             checksums of all other files, in our models; checked before loading

Directories without SHA256SUMS that lie in the Hub's cache are verified by what is pinned of their
commit (`published.py`), and by the cache: their files are links to blobs, which are named after the
checksums that the Hub gave. Where a file system has no links they are copies, and only pinned
commits can be verified.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from spectro_render.atomic import read_regular
from spectro_render.checkpoints.files import (
    CONFIG,
    GET_AGAIN,
    MAX_BYTES,
    PICKLE,
    TENSORS,
    Json,
    read_json,
    require,
    tensors_file,
    unreadable,
)
from spectro_render.checkpoints.hub_cache import MAIN, commit_of_snapshot
from spectro_render.checkpoints.kept import recall, remember
from spectro_render.checkpoints.names import FOLDERS, SCHEDULER
from spectro_render.checkpoints.published import pin_of
from spectro_render.errors import WeightsCorrupt, WeightsError

INDEX = "model_index.json"
VOCODERS = ("melgan", "onnx", "griffin-lim")  # the kinds of vocoder
MELGAN = "melgan"  # the folder of any vocoder
ONNX = Path(MELGAN, "model.onnx")
BAND = "band"  # the folder of the network for the band above the mel's
_VOCODER_FILES = (Path(MELGAN, CONFIG), Path(MELGAN, TENSORS), ONNX)
CHECKSUMS = "SHA256SUMS"
LARGE = 1 << 27  # bytes; hashing takes longer than a tenth of a second
KNOWN = "checksums"  # what is kept of large files, by their paths
SETTLED = 2_000_000_000  # ns since the last change of a file


@dataclass(frozen=True)
class ModelFiles:
    """The directory of a model that has been found, and the vocoder to use with it."""

    name: str
    directory: Path
    vocoder: Path  # a model directory, or an ONNX file
    vocoder_kind: str  # one of VOCODERS; "griffin-lim" where the directory holds none
    say: Callable[[str], None] = lambda _: None  # prints a line, as far as the user wants any
    timbres: tuple[tuple[int, Path], ...] = ()  # programs that have another timbre, and its files


# --- which files ------------------------------------------------------------------------------


def has_part(part: str, index: Json) -> bool:
    """Whether a model with this model_index.json has a network of this name, a key of FOLDERS."""
    return part != "context" or _is_listed(index, FOLDERS[part])


def _is_listed(index: Json, folder: str) -> bool:
    """Whether a model_index.json lists this folder; diffusers may write `[null, null]` for none."""
    return index.get(folder) not in (None, [None, None])


def has_band(index: Json) -> bool:
    """Whether a model with this model_index.json has a network for the band above the mel's."""
    return _is_listed(index, BAND)


def model_files(directory: Path, index: Json) -> list[Path]:
    """All files that loading may read, relative to the directory; `index` is its model_index.json.

    Raises WeightsError where the tensors of a listed network are missing.
    """
    files = [Path(INDEX), SCHEDULER]
    for part, folder in FOLDERS.items():
        if has_part(part, index):
            tensors = tensors_file(directory / folder)
            files += [Path(folder, CONFIG), tensors.relative_to(directory)]
    if has_band(index):
        files += [Path(BAND, CONFIG), Path(BAND, TENSORS)]
    return [*files, *vocoder_files(directory)]


def vocoder_files(directory: Path) -> list[Path]:
    """The files of the vocoders that the directory holds, relative to it."""
    return [file for file in _VOCODER_FILES if os.path.exists(directory / file)]


def is_whole(directory: Path) -> bool:
    """Whether all files of a model are there, with the vocoder if its index lists one."""
    try:
        index = read_json(directory / INDEX)
        files = model_files(directory, index)
    except WeightsError:
        return False
    is_there = all(os.path.isfile(directory / file) for file in files)
    return is_there and (has_vocoder(directory) or not _is_listed(index, MELGAN))


def is_onnx(name: str | os.PathLike[str]) -> bool:
    """Whether this is the name of an ONNX file."""
    return Path(name).suffix == ONNX.suffix


def vocoder_kinds(directory: Path) -> list[str]:
    """The kinds of vocoder that work with a model directory, the best first."""
    files = {"melgan": directory / MELGAN / TENSORS, "onnx": directory / ONNX}
    return [*(kind for kind, file in files.items() if os.path.exists(file)), "griffin-lim"]


def has_vocoder(directory: Path) -> bool:
    """Whether a model directory holds a vocoder."""
    return any(file.suffix != ".json" for file in vocoder_files(directory))


def choose_files(names: Collection[str]) -> list[str]:
    """Choose the files that loading a model reads from a repository's, named with `/`.

    Tensors are taken as safetensors or, where there are none, as a pickle, never as both.
    """
    wanted = [*choose_vocoder_files(names), SCHEDULER.as_posix()]
    for folder in FOLDERS.values():
        is_safe = f"{folder}/{TENSORS}" in names
        wanted += [f"{folder}/{CONFIG}", f"{folder}/{TENSORS if is_safe else PICKLE}"]
    wanted += [f"{BAND}/{CONFIG}", f"{BAND}/{TENSORS}"]
    return [name for name in wanted if name in names]


def choose_vocoder_files(names: Collection[str]) -> list[str]:
    """Choose the index and the files of vocoders from a repository's, named with `/`."""
    wanted = [INDEX, *(file.as_posix() for file in _VOCODER_FILES)]
    return [name for name in wanted if name in names]


# --- checksums --------------------------------------------------------------------------------


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
    """Compare all files of a model with their checksums: False if there are no checksums.

    No network is used. Raises WeightsError for a file that is missing, WeightsCorrupt for one that
    differs from its checksum or that loading reads although SHA256SUMS does not list it.
    """
    files = model_files(directory, read_json(directory / INDEX))
    if verify_listed(directory, files, sha256):
        return True
    pinned = _verify_pinned(directory, files)
    others = [file for file in files if file not in pinned]
    return _verify_blobs(directory, others) or bool(pinned)


def verify_listed(
    directory: Path, files: Sequence[Path], digest: Callable[[Path], str] | None = None
) -> bool:
    """Compare files of a model with SHA256SUMS alone: False if there is no such list.

    `files` is the result of `model_files`. By default large files that have not changed since they
    were read are not read again, see `known_sha256`. Raises as `verify` does.
    """
    expected = _read_checksums(directory)
    for file in files:
        require(directory / file)
    if expected is not None:
        _check_listed(directory, expected, {*expected, *files}, digest or known_sha256)
    return expected is not None


def verify_vocoder(directory: Path) -> None:
    """Compare the files of vocoders with SHA256SUMS, if there is one. Raises as `verify` does."""
    expected = _read_checksums(directory)
    if expected is not None:
        _check_listed(directory, expected, set(vocoder_files(directory)), known_sha256)


def _check_listed(
    directory: Path,
    expected: Mapping[Path, str],
    files: Set[Path],
    digest: Callable[[Path], str],
) -> None:
    for file in sorted(files):
        if file not in expected:
            raise WeightsCorrupt(f"{directory / CHECKSUMS} does not list {file}", GET_AGAIN)
        check(directory / file, expected[file], digest=digest)


def fingerprint(directory: Path, files: Iterable[Path]) -> str:
    """Hash the checksums of files, from SHA256SUMS or the Hub's cache, or else computed."""
    listed = _read_checksums(directory) or {}

    lines = (
        f"{listed.get(file) or checksum_of(directory / file)} {file.as_posix()}" for file in files
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def checksum_of(path: Path) -> str:
    """The checksum of a file: the one that the Hub's cache has for it, or else its SHA-256."""
    blob = _blob_of(path)
    return blob.name if blob and path.exists() else known_sha256(path)


def known_sha256(path: Path) -> str:
    """The SHA-256 of a file; that of a large one is remembered as long as the file is unchanged.

    A file is taken as unchanged by its place, size, times and number. One that changed in the last
    seconds is not remembered, as a second change might leave all of these the same.
    """
    require(path)
    status = path.stat()
    if status.st_size < LARGE:
        return sha256(path)
    key = str(path.resolve())
    stamp = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
    known = recall(KNOWN, key)
    if isinstance(known, list) and known[:-1] == stamp:
        return str(known[-1])
    found = sha256(path)
    if time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) > SETTLED:
        remember(KNOWN, key, [*stamp, found])
    return found


def check(
    path: Path,
    checksum: str,
    name: Path | str | None = None,
    hint: str = GET_AGAIN,
    digest: Callable[[Path], str] | None = None,
) -> None:
    """Raise WeightsCorrupt unless a file has this SHA-256 or, by its length, git's SHA-1.

    The message calls the file `name`, by default its path. `digest` gives the SHA-256 of a file, by
    default by reading it.
    """
    found = (digest or sha256)(path) if len(checksum) == 64 else git_sha1(path)
    if found != checksum:
        kind = "SHA-256" if len(checksum) == 64 else "SHA-1"
        raise WeightsCorrupt(f"{name or path} has the {kind} {found}, not {checksum}", hint)


def _verify_pinned(directory: Path, files: Iterable[Path]) -> set[Path]:
    """Compare files of the Hub's cache with what is pinned; returns those whose hash is pinned."""
    snapshot = commit_of_snapshot(directory)
    pin = snapshot and pin_of(snapshot.repo, snapshot.revision)
    if not snapshot or not pin:
        return set()
    hashed = set()
    hint = f"{GET_AGAIN}; for another commit, name it: {snapshot.repo}@{MAIN}"
    for file in files:
        path, pinned = directory / file, pin.files.get(file.as_posix())
        if pinned is None:
            raise WeightsCorrupt(f"{path} is no part of commit {pin.commit[:7]}", hint)
        size = path.stat().st_size
        if pinned.size not in (None, size):
            raise WeightsCorrupt(f"{path} has {size} bytes, not {pinned.size}", hint)
        if pinned.sha256:
            check(path, pinned.sha256, hint=hint)
            hashed.add(file)
    return hashed


def _verify_blobs(directory: Path, files: Iterable[Path]) -> bool:
    """Compare files of the Hub's cache with the names of their blobs: False without blobs."""
    blobs = {file: _blob_of(directory / file) for file in files}
    for file, blob in blobs.items():
        if blob is None:
            return False
        check(directory / file, blob.name)
    return True


def _blob_of(path: Path) -> Path | None:
    """The blob of the Hub's cache to which a file is a link; None for any other file.

    The blob may itself be a link, to content that several repositories share.
    """
    try:
        blob = Path(os.path.normpath(path.parent.resolve() / os.readlink(path)))
    except OSError:
        return None
    return blob if is_blob(blob) else None


def is_blob(path: Path) -> bool:
    """Whether a path is a blob of the Hub's cache, named by its SHA-256 or git's SHA-1."""
    is_hexadecimal = set(path.name) <= set("0123456789abcdef")
    return path.parent.name == "blobs" and len(path.name) in (40, 64) and is_hexadecimal


def _read_checksums(directory: Path) -> dict[Path, str] | None:
    """The content of SHA256SUMS, file -> SHA-256; None where there is no such list.

    Raises WeightsError where it cannot be read, WeightsCorrupt where it names files elsewhere.
    """
    listing = directory / CHECKSUMS
    try:
        text = read_regular(listing, MAX_BYTES).decode(errors="replace")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise unreadable(listing, error) from error
    pairs = (line.partition(" ") for line in text.splitlines() if line.strip())
    expected = {Path(name.lstrip(" *")): checksum for checksum, _, name in pairs}
    for file in expected:
        if file.is_absolute() or os.pardir in file.parts:
            raise WeightsCorrupt(f"{listing} lists {file}, which is not a file below it", GET_AGAIN)
    return expected


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal. Raises WeightsError for a file that cannot be read."""
    return _digest(path, lambda _: hashlib.sha256())


def git_sha1(path: Path) -> str:
    """The SHA-1 that git gives to a file's content, in hexadecimal (Pro Git, Git Objects)."""
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
