"""Remembers, for this user, how outputs were made that lie in no folder of outputs.

`spectro-render song.mid` writes `song.wav` beside the song, and nothing else there. So what a later
run needs is kept in a database of the user's: whether the file is the one that was written, and
from which input, with which settings and with which model it was made.
"""

from __future__ import annotations

import json
import os
import sqlite3
import sys
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

NAME = "outputs.sqlite"
_MOST = 200_000  # outputs, about 100 MB; the oldest are forgotten
_PATIENCE = 2.0  # seconds to wait for another run that writes
_TABLE = "CREATE TABLE IF NOT EXISTS outputs (path TEXT PRIMARY KEY, size, time, origin TEXT)"


def user_folder(kind: str) -> Path:
    """The folder of this program for a `kind` of files: "state" or "config".

    It follows the XDG Base Directory Specification; on Windows it is in the user's AppData.
    """
    default = {"state": ".local/state", "config": ".config"}[kind]
    if sys.platform == "win32":
        variable = {"state": "LOCALAPPDATA", "config": "APPDATA"}[kind]
    else:
        variable = f"XDG_{kind.upper()}_HOME"
    base = os.environ.get(variable, "")
    root = Path(base) if os.path.isabs(base) else Path(os.path.expanduser("~"), default)
    return root / "spectro-render"


class Outputs:
    """The user's memory of outputs, compared with the settings of this run.

    It has the interface of History. A memory that cannot be read or written is none: the outputs
    themselves are unharmed, and unknown ones are never replaced without being asked.
    """

    def __init__(self, settings: Mapping[str, Any], fingerprint: Callable[[], str]) -> None:
        """`settings` can be written as JSON; `fingerprint` returns a hash of the model's files."""
        self.path = user_folder("state") / NAME
        self._settings = settings
        self._fingerprint = fingerprint
        self._database: sqlite3.Connection | None = None

    @cached_property
    def _model(self) -> str:
        return self._fingerprint()

    def knows(self, output: Path) -> bool:
        """Whether the file at this place is the one that was written there."""
        return self._find(output) is not None

    def is_outdated(
        self, output: Path, sha256: str, settings: Mapping[str, Any] | None = None
    ) -> bool:
        """Whether an output was made from another input, with other settings or another model.

        `settings` are those of its song, if they are not those of all songs.
        """
        return self._find(output) != self._origin(sha256, settings)

    def add(
        self,
        output: Path,
        sha256: str | None,
        fields: Mapping[str, Any],
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """Remember a complete output, made from the input with this checksum; None: it failed.

        `fields` are what `History` records beside that.
        """
        if sha256 is None:
            return
        origin = self._origin(sha256, settings)
        try:
            database = self._open()
            row = (*_identity(output), origin)
            database.execute("INSERT OR REPLACE INTO outputs VALUES (?, ?, ?, ?)", row)
        except (OSError, sqlite3.Error):
            self.close()

    def close(self) -> None:
        """Close the database. `add` opens it again."""
        database, self._database = self._database, None
        if database is not None:
            try:
                database.execute(
                    "DELETE FROM outputs WHERE rowid <= (SELECT max(rowid) FROM outputs) - ?",
                    (_MOST,),
                )
                database.close()
            except sqlite3.Error:
                pass

    def _origin(self, sha256: str, settings: Mapping[str, Any] | None) -> str:
        settings = self._settings if settings is None else settings
        return json.dumps([sha256, settings, self._model], sort_keys=True)

    def _find(self, output: Path) -> str | None:
        """How the file at this place was made; None if that is not known."""
        if self._database is None and not self.path.exists():
            return None
        try:
            path, size, time = _identity(output)
            query = "SELECT origin FROM outputs WHERE path = ? AND size = ? AND time = ?"
            row = self._open().execute(query, (path, size, time)).fetchone()
        except (OSError, sqlite3.Error):
            self.close()
            return None
        return str(row[0]) if row else None

    def _open(self) -> sqlite3.Connection:
        if self._database is None:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Each statement is a transaction of its own. What the disk has not got when the power
            # fails is forgotten; that is no reason to wait for the disk after every song.
            database = sqlite3.connect(self.path, timeout=_PATIENCE, isolation_level=None)
            database.execute("PRAGMA synchronous = OFF")
            database.execute(_TABLE)
            self._database = database
        return self._database


def _identity(output: Path) -> tuple[str, int, int]:
    """What tells a file from others: its real path, its size and its time. Raises OSError."""
    status = os.stat(output)
    path = os.path.realpath(output)
    return os.fsencode(path).decode(errors="backslashreplace"), status.st_size, status.st_mtime_ns
