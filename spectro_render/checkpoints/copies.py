"""Keeps weights that the Hub has as .bin files as safetensors, for later starts.

The copy is made when a model has been loaded for the first time, so its numbers have been checked:
later starts map the copy into memory, and neither read a pickle nor look at each number. It lies in
the folder of `kept.py`, and is used as long as the file that it was made from, and its own files,
are unchanged by size and time. Several processes may try to make it: one does, the others go on.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectro_render.atomic import new_file
from spectro_render.checkpoints.files import PICKLE, TENSORS, Json, read_json
from spectro_render.checkpoints.hub_cache import commit_of_snapshot
from spectro_render.checkpoints.kept import OFF, VARIABLE, kept_folder
from spectro_render.checkpoints.manifest import check
from spectro_render.errors import OutputBusy, OutputError, WeightsError
from spectro_render.report import as_size

if TYPE_CHECKING:
    from torch import Tensor

RECORD = "copy.json"
LEAST_ROOM = 1 << 30  # bytes that stay free on the disk


def find_copy(directory: Path) -> Path | None:
    """The folder with a copy of a model's weights that may be used; None if there is none."""
    folder = _folder(directory)
    if folder is None:
        return None
    try:
        record = read_json(folder / RECORD)
        parts = record["parts"]
        # In a folder that others may write, such as /tmp, anybody might have made it.
        owner, owners = (folder / RECORD).stat().st_uid, {directory.stat().st_uid, _user()}
        if owner not in owners or record["sources"] != _sources(directory, parts):
            return None
        is_whole = all(_stamp(folder / part / TENSORS) == parts[part]["stamp"] for part in parts)
    except (WeightsError, OSError, KeyError, TypeError):
        return None
    return folder if is_whole else None


def keep_copy(
    directory: Path, parts: Mapping[str, Mapping[str, Tensor]], say: Callable[[str], None]
) -> None:
    """Make a copy of a model's weights, if they are .bin files of the Hub's cache.

    `parts` has their tensors in float32, by folder and by name. `say` gets a line when the copy is
    begun, or cannot be made.
    """
    folder = _folder(directory)
    if folder is None or not all((directory / part / PICKLE).is_file() for part in parts):
        return
    needed = sum(4 * tensor.numel() for part in parts.values() for tensor in part.values())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(folder).free < needed + LEAST_ROOM:
            say(f"no copy of the weights is kept for later starts: {folder} needs more room")
            return
        # The lock of the record keeps other processes away until all parts are there.
        with new_file(folder / RECORD) as path:
            note = f"keeping the weights as safetensors in {folder}: {as_size(needed)}"
            say(f"{note} (none with {VARIABLE}={OFF})")
            sources = _sources(directory, parts)
            made: Json = {}
            for part, tensors in parts.items():
                (folder / part).mkdir(exist_ok=True)
                with new_file(folder / part / TENSORS) as file:
                    checksum = _write(file, tensors)
                made[part] = {"stamp": _stamp(folder / part / TENSORS), "sha256": checksum}
            path.write_text(json.dumps({"sources": sources, "parts": made}, indent=1) + "\n")
    except OutputBusy:
        pass  # another process makes it
    except (OutputError, OSError) as error:
        say(f"no copy of the weights is kept for later starts: {error}")


def verify_copy(directory: Path) -> None:
    """Compare the copy of a model's weights, if there is one, with its checksums.

    Raises WeightsCorrupt.
    """
    folder = find_copy(directory)
    if folder is None:
        return
    for part, made in read_json(folder / RECORD)["parts"].items():
        check(folder / part / TENSORS, str(made["sha256"]), hint=f"remove {folder}")


def drop_copy(folder: Path) -> None:
    """Remove a copy that turned out to be damaged."""
    shutil.rmtree(folder, ignore_errors=True)


def _folder(directory: Path) -> Path | None:
    """Where the copy of a directory's weights is; None for what is not in the Hub's cache."""
    snapshot, kept = commit_of_snapshot(directory), kept_folder()
    if snapshot is None or kept is None:
        return None
    return kept / "weights" / f"{snapshot.repo.replace('/', '--')}--{snapshot.revision}"


def _user() -> int:
    return os.geteuid() if sys.platform != "win32" else 0


def _sources(directory: Path, parts: Mapping[str, object]) -> Json:
    """What the files of a model's weights can be told by, without reading them. Raises OSError."""
    return {part: _stamp(directory / part / PICKLE) for part in parts}


def _stamp(path: Path) -> list[int]:
    """The size and the time of the last change of a file. Raises OSError."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _write(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Write tensors of float32 as a safetensors file, without a copy in memory; its SHA-256.

    The format is that of safetensors' documentation: the length of a header, the header in JSON,
    padded to 8 bytes, and the numbers.
    """
    header: Json = {"__metadata__": {"format": "pt"}}
    begin = 0
    for name, tensor in tensors.items():
        end = begin + 4 * tensor.numel()
        header[name] = {
            "dtype": "F32",
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
        begin = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with open(path, "wb") as file:
        for block in (len(text).to_bytes(8, "little"), text):
            file.write(block)
            digest.update(block)
        for tensor in tensors.values():
            numbers: Any = tensor.detach().contiguous().view(-1).numpy()
            file.write(numbers)
            digest.update(numbers)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()
