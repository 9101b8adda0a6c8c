"""Files and directories that get their final name only when they are complete.

Until then they lie in the same folder under a temporary name that begins with a dot.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, ClassVar

from spectro_render.errors import OutputBusy, OutputError, output_error

_PREFIX, _SUFFIX = ".spectro-render-", ".part"  # of temporary names
_NEW = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


@contextmanager
def new_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path to write a file to; when the block ends, the file replaces `path`.

    If the block fails, the temporary file is removed and `path` stays as it was. Raises OutputBusy
    where another program is writing the same file, OutputError where the system refuses to write.
    """
    new = NewFile(path)
    try:
        yield new.temporary
        new.commit()
    except (OSError, RuntimeError) as error:  # torch.save's are RuntimeErrors
        raise output_error(str(path), error) from error
    finally:
        new.discard()


@contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """Yield a directory to fill; when the block ends, it gets the name `path`.

    If the block fails, the directory is removed. Raises OutputError where something of that name
    exists, or where the system refuses to write.
    """
    if os.path.lexists(path):
        raise OutputError(f"{path} is there already", "choose another name, or remove it first")
    place = Path(os.path.abspath(path))
    with work_directory(place.parent, str(path)) as work:
        yield work
        work.rename(place)


@contextmanager
def work_directory(parent: Path, name: str) -> Iterator[Path]:
    """Yield a new directory in `parent`, which is removed with its content when the block ends.

    Raises OutputError for any OSError in the block; its message calls the output `name`.
    """
    work = parent / f"{_PREFIX}{secrets.token_hex(6)}{_SUFFIX}"
    try:
        work.mkdir()
        yield work
    except OSError as error:
        raise output_error(name, error) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


class NewFile:
    """An open file under a temporary name, which `commit` replaces by the final one.

    The temporary name is derived from the final one, and the file is locked while it is written.
    So no two programs write one file at once, and what a killed program left is overwritten.

    A signal may raise an exception between any two steps, even before the caller has this object
    and could discard it. So files neither committed nor discarded are removed when Python exits.
    """

    file: BinaryIO
    _unfinished: ClassVar[set[NewFile]] = set()  # files with a temporary name that may exist

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open the temporary file.

        Raises OutputBusy where another program is writing `path`, OutputError where the system
        refuses to write.
        """
        # A link stays: what it points at is replaced.
        self._path = Path(os.path.realpath(path))
        number = hashlib.sha256(os.fsencode(self._path.name)).hexdigest()[:16]
        self.temporary = self._path.with_name(f"{_PREFIX}{number}{_SUFFIX}")
        self._unfinished.add(self)
        try:
            self._open_locked()
        except BlockingIOError:
            self._unfinished.discard(self)
            hint = "wait for it to finish, or end it"
            raise OutputBusy(f"{path}: another run is writing it", hint) from None
        except BaseException as error:
            self.discard()
            if isinstance(error, OSError):
                raise output_error(str(path), error) from error
            raise

    def _open_locked(self) -> None:
        """Open a new, empty file that is locked until it is closed. Raises OSError."""
        while True:
            self.file = os.fdopen(os.open(self.temporary, _NEW, 0o666), "r+b")
            if not _lock(self.file):
                self.file.close()
                raise BlockingIOError
            if _is_named(self.file, self.temporary):
                self.file.truncate()
                return
            self.file.close()  # the program that had the lock has renamed or removed it

    def commit(self) -> None:
        """Give the complete file its final name. Raises OSError."""
        self.file.flush()
        if sys.platform == "win32":  # where an open file keeps its name
            self.file.close()
        os.replace(self.temporary, self._path)
        self.file.close()  # which releases the lock
        self._unfinished.discard(self)

    def discard(self) -> None:
        """Remove the temporary file, whether it is not open yet, open, locked or committed."""
        # There may be none yet, and a full disk refuses the buffered bytes once more.
        with suppress(AttributeError, OSError):
            self.file.close()
        if self in self._unfinished:
            with suppress(OSError):
                _remove_if_left(self.temporary)
        self._unfinished.discard(self)

    @classmethod
    def discard_all(cls) -> None:
        """Discard every file that has been neither committed nor discarded."""
        for unfinished in list(cls._unfinished):
            unfinished.discard()


atexit.register(NewFile.discard_all)


def sweep(folder: Path) -> None:
    """Remove temporary files of killed programs from a folder and all folders below it."""
    for parent, _, names in os.walk(folder):
        for name in names:
            if name.startswith(_PREFIX) and name.endswith(_SUFFIX):
                with suppress(OSError):
                    _remove_if_left(Path(parent, name))


def _remove_if_left(path: Path) -> None:
    """Remove a temporary file unless a program is writing it. Raises OSError."""
    if sys.platform != "win32":
        with open(path, "r+b") as file:  # NFS locks only what is open for writing
            if _lock(file) and _is_named(file, path):
                path.unlink()
    else:
        path.unlink()  # refused where a program has it open


def _lock(file: BinaryIO) -> bool:
    """Lock an open file: False if another program has locked it; True where no locks exist."""
    if sys.platform == "win32":
        return True
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def _is_named(file: BinaryIO, path: Path) -> bool:
    """Whether `path` still leads to this open file."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False
