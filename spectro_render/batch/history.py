"""Records how the outputs in a folder were made, so that a second run renders what is missing.

The file `.spectro-render.jsonl` in that folder has a line, a JSON object, for every output that was
made and for every input that failed. If there are several lines about one output, the last one
counts. A line is appended in one write after the output has got its name. So a run that is killed
can at worst leave an incomplete line, which the next run skips.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from spectro_render.atomic import open_regular

NAME = ".spectro-render.jsonl"
_MAX_LINE = 1 << 20  # bytes; longer lines are no records
_NO_LINKS = getattr(os, "O_NOFOLLOW", 0)  # what a link points at is not ours to append to
_NO_WAITING = getattr(os, "O_NONBLOCK", 0)  # for the other end of a pipe
_ORIGIN = ("sha256", "settings", "model_sha256")  # an output is outdated if one of them differs


def checksum(data: bytes) -> str:
    """The SHA-256 of an input, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


class History:
    """The records of one folder, compared with the settings of this run."""

    def __init__(
        self, folder: Path, settings: Mapping[str, Any], fingerprint: Callable[[], str]
    ) -> None:
        """`settings` can be written as JSON; `fingerprint` returns a hash of the model's files."""
        self.folder, self.path = folder, folder / NAME
        self._settings = settings
        self._fingerprint = fingerprint
        self._file = -1

    @cached_property
    def _model(self) -> str:
        return self._fingerprint()

    @cached_property
    def _origins(self) -> dict[str, tuple[Any, ...]]:
        """How each output was made, by the last record about it. Raises OSError."""
        return dict(_read(self.path))

    def knows(self, output: Path) -> bool:
        """Whether there is a record of an output; a file without one may be the user's own.

        Raises OSError if there are records that cannot be read.
        """
        return self._name(output) in self._origins

    def is_outdated(
        self, output: Path, sha256: str, settings: Mapping[str, Any] | None = None
    ) -> bool:
        """Whether an output was made from another input, with other settings or another model.

        `settings` are those of its song, if they are not those of all songs.
        """
        return self._origins[self._name(output)] != _origin(self._now(sha256, settings))

    def add(
        self,
        output: Path,
        sha256: str | None,
        fields: Mapping[str, Any],
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """Append a record with these fields. Raises OSError if it cannot be written."""
        origin = self._now(sha256, settings) if sha256 else {}
        record = {**fields, **origin, "output": self._name(output)}
        line = (json.dumps(record) + "\n").encode()
        if self._file < 0:
            self._file = _open_to_append(self.path)
        if os.write(self._file, line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def close(self) -> None:
        """Close the file. `add` opens it again. Raises OSError if records may not be written."""
        if self._file >= 0:
            file, self._file = self._file, -1
            os.close(file)

    def _now(self, sha256: str, settings: Mapping[str, Any] | None) -> dict[str, Any]:
        """How an output would be made if it were rendered now."""
        settings = self._settings if settings is None else settings
        return dict(zip(_ORIGIN, (sha256, settings, self._model), strict=True))

    def _name(self, output: Path) -> str:
        """An output's name in records: relative to the folder, so that this can be moved."""
        return os.path.relpath(output, self.folder).replace(os.sep, "/")


def _origin(record: Mapping[str, Any]) -> tuple[Any, ...]:
    """The fields of a record that say how an output was made.

    Equal strings are shared in memory, as most of a million records have equal settings.
    """
    sha256, settings, model = map(record.get, _ORIGIN)
    return sha256, sys.intern(json.dumps(settings, sort_keys=True)), sys.intern(str(model))


def _read(path: Path) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """The records of a file, each as the name of an output and how it was made.

    Incomplete and damaged lines are skipped; there are no records if there is no file. Raises
    OSError for a file that cannot be read.
    """
    try:
        file = open_regular(path, os.O_RDONLY | _NO_LINKS)
    except FileNotFoundError:
        return
    with file:
        is_rest = False  # of a line that is too long
        while line := file.readline(_MAX_LINE):
            is_skipped, is_rest = is_rest, not line.endswith(b"\n")
            if is_skipped:
                continue
            try:
                record = json.loads(line)
                if isinstance(record, dict) and isinstance(record.get("output"), str):
                    yield record["output"], _origin(record)
            except (ValueError, RecursionError):  # incomplete, or nested too deeply
                continue


def _open_to_append(path: Path) -> int:
    """Open a file for appending; an incomplete last line is ended first. Raises OSError."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | _NO_LINKS | _NO_WAITING, 0o666)
    status = os.fstat(file)
    if not stat.S_ISREG(status.st_mode):
        os.close(file)
        raise OSError("not a regular file")
    if status.st_size:
        os.lseek(file, status.st_size - 1, os.SEEK_SET)
        if os.read(file, 1) != b"\n":
            os.write(file, b"\n")
    return file
