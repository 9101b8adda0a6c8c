"""Checks the pickles in a .bin file before torch reads it: which names of Python they may use.

A pickle builds objects by calling what it names. torch's own reader already allows only a list of
safe names, with `weights_only`. The list here has only the three names that the published weights
use, tables of tensors in float32, and holds even if torch's has a fault.
"""

from __future__ import annotations

import errno
import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from spectro_render.errors import WeightsCorrupt

ARCHIVE = b"PK\x03\x04"  # first bytes of the pickles that torch writes since 1.6: zip files
MAX_PICKLE = 1 << 24  # bytes of the pickle in an archive: names and shapes, not the numbers
LEGACY_PICKLES = 5  # at the start of older files: a mark, two about the format, tensors, keys
AS_SAFETENSORS = "get the model as safetensors"  # what to do about refused files

ALLOWED = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    "torch FloatStorage",
}


def check_pickle(path: Path) -> bool:
    """Raise WeightsCorrupt for a file whose pickles use other names; True for a zip archive.

    Nothing is unpickled. Raises OSError where the file cannot be read.
    """
    with path.open("rb") as file:
        is_archive = file.read(len(ARCHIVE)) == ARCHIVE
        file.seek(0)
        try:
            for name in _names_in_archive(file) if is_archive else _names_in_legacy(file):
                if name not in ALLOWED:
                    found = f"{name[:80]!r}, which was not run"
                    message = f"{path} holds more than float32 tensors: {found}"
                    raise WeightsCorrupt(message, AS_SAFETENSORS)
        except Exception as error:  # in a damaged file, anything can fail anywhere
            is_unreadable = isinstance(error, OSError) and error.errno != errno.EINVAL  # of a seek
            if is_unreadable or isinstance(error, WeightsCorrupt):
                raise
            message = f"{path} is damaged or holds code, which was not run"
            raise WeightsCorrupt(message, AS_SAFETENSORS) from error
    return is_archive


def _names_in_archive(file: IO[bytes]) -> Iterator[str]:
    with zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            if not member.filename.endswith(".pkl"):
                continue
            if member.file_size > MAX_PICKLE:
                raise ValueError("too large")
            with archive.open(member) as pickled:
                yield from _names(pickled)


def _names_in_legacy(file: IO[bytes]) -> Iterator[str]:
    for _ in range(LEGACY_PICKLES):
        yield from _names(file)


def _names(file: IO[bytes]) -> Iterator[str]:
    """The names that a pickle uses, as 'module name', up to its end. Raises ValueError.

    Protocol 4 takes names from a stack, which would have to be followed. torch never writes it.
    """
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name in ("GLOBAL", "INST"):
            yield str(argument)
        elif opcode.name in ("STACK_GLOBAL", "EXT1", "EXT2", "EXT4"):
            raise ValueError(f"{opcode.name} is not supported")
