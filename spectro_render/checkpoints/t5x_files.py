"""Opens T5X checkpoints: trees of named arrays, in a folder or in a zip file.

    base_with_context/
        config.gin             what was trained
        checkpoint_500000/
            checkpoint         the tree, in msgpack: each leaf an array as flax.serialization packs
                               it or, where it is large, a description of a zarr array beside it:
            target.decoder.layers_0.self_attention.query.kernel/

A description may only name a folder within the checkpoint: nothing outside is ever opened. A zip
file is read without unpacking it to the disk. The optimizer's arrays are not read.
"""

from __future__ import annotations

import math
import os
import re
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from spectro_render.checkpoints.files import GET_AGAIN, unreadable
from spectro_render.errors import WeightsCorrupt, WeightsError, WeightsNotFound, install_hint

if TYPE_CHECKING:
    from torch import Tensor

TREE = "checkpoint"  # the file with the tree
GIN = "config.gin"
VERSION = 3  # of the format, since June 2021
FLOATS = ("float32", "bfloat16", "float16", "float64")
NDARRAY = 1  # flax.serialization's number for arrays among the extensions of msgpack

# A zip file that claims to hold more than this times its size is rejected: weights hardly compress.
MAX_RATIO = 100
SLACK = 1 << 20  # bytes more than that, for names and empty space

Node = dict[str, Any]  # a branch of the tree, or a description in tensorstore's JSON


@dataclass(frozen=True)
class StoredArray:
    """An array of a checkpoint: its shape, and a function that reads its numbers."""

    shape: tuple[int, ...]
    read: Callable[[], Tensor]


@dataclass(frozen=True)
class T5XCheckpoint:
    """An open checkpoint: arrays by name, such as 'decoder.decoder_norm.scale', and config.gin."""

    place: Path
    arrays: dict[str, StoredArray]
    gin: str  # empty if there is none


def open_checkpoint(path: Path) -> T5XCheckpoint:
    """Open the checkpoint in a folder, in a folder around it, or in a zip file.

    Of several the one of the latest step is taken. Raises WeightsNotFound where there is none,
    WeightsCorrupt if it is damaged, WeightsError if a package is missing or a file unreadable.
    """
    _require_packages()
    files = _open_files(path)
    trees = files.trees()
    if not trees:
        message = f"{path} holds no T5X checkpoint: there is no file named {TREE}"
        raise WeightsNotFound(message, "name the folder that holds checkpoint_500000, or its zip")
    latest = max(trees, key=_step)
    folder = latest.removesuffix(TREE)
    tree = _parse_tree(files.read(latest), path)
    arrays = {name: _open_array(name, leaf, files, folder, path) for name, leaf in _leaves(tree)}
    return T5XCheckpoint(path, arrays, _read_gin(files, folder))


def holds_t5x(path: Path) -> bool:
    """Whether a path looks like a T5X checkpoint: a folder with a tree in it, or any file."""
    return path.is_file() or (path.is_dir() and bool(_Folder(path).trees()))


def _require_packages() -> None:
    try:
        import msgpack  # noqa: F401
        import tensorstore  # noqa: F401
    except ImportError as error:
        message = f"a T5X checkpoint needs the package {error.name}, which is not installed"
        raise WeightsError(message, install_hint("t5x")) from None


def _step(tree: str) -> int:
    """The training step in a path such as checkpoint_500000/checkpoint; -1 if there is none."""
    number = re.search(r"_(\d+)/checkpoint$", tree)
    return int(number[1]) if number else -1


def _read_gin(files: _Files, folder: str) -> str:
    """Read config.gin in the checkpoint's folder or beside it; empty if there is none."""
    for place in (folder, re.sub(r"[^/]+/$", "", folder)):
        if files.has(place + GIN):
            return files.read(place + GIN).decode("utf-8", errors="replace")
    return ""


# --- where the files lie ----------------------------------------------------------------------


class _Files(Protocol):
    """The interface of a folder or a zip file; names are relative to it and have `/`."""

    def trees(self) -> list[str]:
        """The paths of all files with a tree, one in each checkpoint."""

    def has(self, name: str) -> bool:
        """Whether a file of this name exists."""

    def read(self, name: str) -> bytes:
        """Read the content of a file. Raises WeightsError, WeightsCorrupt."""

    def kvstore(self, name: str) -> Node:
        """The description of a folder by which tensorstore opens it."""


def _open_files(path: Path) -> _Files:
    if path.is_dir():
        return _Folder(path)
    if path.name == TREE and path.is_file():
        return _Folder(path.parent)
    if path.exists():
        return _ZipFile(path)
    raise WeightsNotFound(f"{path} is missing", "name a T5X checkpoint: a folder or a zip file")


class _Folder:
    def __init__(self, path: Path) -> None:
        path = Path(os.path.abspath(path))
        is_checkpoint = (path / TREE).is_file()
        self._root = path.parent if is_checkpoint else path  # config.gin may lie beside it
        self._folders = [path.name] if is_checkpoint else _list(path)

    def trees(self) -> list[str]:
        names = [f"{folder}/{TREE}" for folder in self._folders]
        return [name for name in names if self.has(name)]

    def has(self, name: str) -> bool:
        return (self._root / name).is_file()

    def read(self, name: str) -> bytes:
        try:
            return (self._root / name).read_bytes()
        except OSError as error:
            raise unreadable(self._root / name, error) from error

    def kvstore(self, name: str) -> Node:
        return {"driver": "file", "path": f"{(self._root / name).as_posix()}/"}


def _list(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError as error:
        raise unreadable(folder, error) from error


class _ZipFile:
    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with zipfile.ZipFile(path) as archive:
                self._names = set(archive.namelist())
                size = sum(member.file_size for member in archive.infolist())
        except OSError as error:
            raise unreadable(path, error) from error
        except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            message = f"{path} is neither a folder nor a whole zip file: {error}"
            raise WeightsCorrupt(message, GET_AGAIN) from error
        if size > MAX_RATIO * path.stat().st_size + SLACK:
            message = f"{path} claims to hold {size} bytes, too many for a file of its size"
            raise WeightsCorrupt(message, GET_AGAIN)

    def trees(self) -> list[str]:
        return [name for name in self._names if f"/{name}".endswith(f"/{TREE}")]

    def has(self, name: str) -> bool:
        return name in self._names

    def read(self, name: str) -> bytes:
        try:
            with zipfile.ZipFile(self._path) as archive:
                return archive.read(name)
        except Exception as error:  # each compression method has its own errors
            if isinstance(error, OSError) and error.errno:
                raise unreadable(self._path, error) from error
            message = f"{self._path}: {name} cannot be unpacked: {error}"
            raise WeightsCorrupt(message, GET_AGAIN) from error

    def kvstore(self, name: str) -> Node:
        file = {"driver": "file", "path": Path(os.path.abspath(self._path)).as_posix()}
        return {"driver": "zip", "base": file, "path": f"{name}/"}


# --- the tree ---------------------------------------------------------------------------------


def _parse_tree(content: bytes, place: Path) -> Node:
    """Read the tree of parameters from the content of a file `checkpoint`."""
    import msgpack

    try:
        stored = msgpack.unpackb(content)
    except (ValueError, RecursionError, msgpack.UnpackException) as error:
        raise WeightsCorrupt(f"{place}: {TREE} is not whole msgpack: {error}", GET_AGAIN) from error
    match stored:
        case {"version": int(version), "optimizer": {"target": dict(target)}}:
            if version == VERSION:
                return target
    message = f"{place}: {TREE} is no T5X checkpoint of version {VERSION}"
    raise WeightsCorrupt(message, "check that it is one of the authors' checkpoints")


def _leaves(tree: Node, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict) and "driver" not in value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _open_array(name: str, leaf: Any, files: _Files, folder: str, place: Path) -> StoredArray:
    """Open a leaf of the tree. Raises WeightsCorrupt unless it is an array of floats."""
    if isinstance(leaf, dict):
        return _open_zarr(files.kvstore(folder + _zarr_folder(leaf, name, place)), name, place)
    try:
        return _unpack_array(leaf)
    except (ValueError, TypeError, AttributeError) as error:
        raise WeightsCorrupt(f"{place}: {name} is no array: {error}", GET_AGAIN) from error


def _unpack_array(leaf: Any) -> StoredArray:
    """Open an array within the tree: a tuple of shape, name of the number format and bytes."""
    import msgpack
    import torch

    if leaf.code != NDARRAY:
        raise ValueError(f"msgpack extension {leaf.code}")
    shape, dtype, content = msgpack.unpackb(leaf.data)
    if dtype not in FLOATS:
        raise ValueError(f"holds {dtype}")
    numbers = torch.frombuffer(bytearray(content), dtype=getattr(torch, dtype))
    if math.prod(shape) != len(numbers):
        raise ValueError(f"{len(numbers)} numbers for the shape {shape}")
    return StoredArray(tuple(shape), lambda: numbers.reshape(shape))


def _zarr_folder(description: Node, name: str, place: Path) -> str:
    """The folder of an array in the checkpoint. Raises WeightsCorrupt if it is outside."""
    if description["driver"] != "zarr":
        message = f"{place}: {name} is stored as {description['driver']!r}, not as zarr"
        raise WeightsCorrupt(message, "check that it is one of the authors' checkpoints")
    store = description.get("kvstore")
    path = store.get("path", description.get("path")) if isinstance(store, dict) else store
    if isinstance(path, str) and re.fullmatch(r"[\w.-]+(/[\w.-]+)*/?", path, re.ASCII):
        folder = path.rstrip("/")
        if ".." not in folder.split("/"):
            return folder
    message = f"{place}: {name} should be at {path!r}, outside the checkpoint"
    raise WeightsCorrupt(message, GET_AGAIN)


def _open_zarr(kvstore: Node, name: str, place: Path) -> StoredArray:
    import tensorstore

    # An absent piece would be read as zeros: a download that was cut off must not pass for whole.
    spec = {"driver": "zarr", "kvstore": kvstore, "fill_missing_data_reads": False}
    with _tensorstore_errors(name, place):
        array = tensorstore.open(spec, open=True, read=True).result()
    if array.dtype.name not in FLOATS:
        message = f"{place}: {name} holds {array.dtype.name}, not floating-point numbers"
        raise WeightsCorrupt(message, GET_AGAIN)

    def read() -> Tensor:
        import torch

        with _tensorstore_errors(name, place):
            return torch.from_numpy(tensorstore.cast(array, tensorstore.float32).read().result())

    return StoredArray(array.shape, read)


@contextmanager
def _tensorstore_errors(name: str, place: Path) -> Iterator[None]:
    """Turn errors of tensorstore into WeightsCorrupt with a message of one line."""
    try:
        yield
    except (ValueError, OSError, RuntimeError, NotImplementedError) as error:
        reason = re.split(r"\n| \[", str(error), maxsplit=1)[0]
        raise WeightsCorrupt(f"{place}: {name} cannot be read: {reason}", GET_AGAIN) from error
