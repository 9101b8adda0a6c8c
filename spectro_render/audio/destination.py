"""Where the bytes of a sound file go: a file that gets its name when complete, or a stream."""

from __future__ import annotations

import atexit
import hashlib
import io
import os
import stat
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar

from spectro_render.errors import OutputBusy, OutputError, output_error

if TYPE_CHECKING:
    from collections.abc import Iterator


_PREFIX, _SUFFIX = ".spectro-render-", ".part"  # of temporary names
_NEW = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


class Destination(io.RawIOBase):
    """A stream that remembers its first failed write, which libsndfile would swallow.

    A stream that cannot seek is written front to back: an encoder that goes back to complete its
    header is let believe that it did.
    """

    _discarded = True  # until there is a file

    def __init__(
        self, file: BinaryIO, name: str = "the output stream", can_seek: bool | None = None
    ) -> None:
        super().__init__()
        self._file = file
        self._name = name
        self._failure: OSError | None = None
        self._discarded = False
        self._can_seek = _can_rewrite(file) if can_seek is None else can_seek
        self._end = 0  # bytes written and
        self._position = 0  # where the encoder thinks it is; both only where the file cannot seek

    def seekable(self) -> bool:
        """Whether what is written can still be changed."""
        return self._can_seek

    def tell(self) -> int:
        """The position in bytes."""
        return self._file.tell() if self._can_seek else self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to another position."""
        if self._can_seek:
            return self._file.seek(offset, whence)
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._end}[whence]
        self._position = origin + offset
        return self._position

    def write(self, data: Any) -> int:
        """Write all of `data`; a failure is raised by the `reporting` around it."""
        block = bytes(data)
        if self._failure is None and not self._discarded:
            try:
                self._write(block)
            except OSError as error:
                self._failure = error
        return len(block)

    def _write(self, block: bytes) -> None:
        if self._can_seek or self._position == self._end:
            self._file.write(block)
            self._end += len(block)
        self._position += len(block)

    def flush(self) -> None:
        """Pass on what is buffered."""
        if not (self.closed or self._discarded or self._failure or self._file.closed):
            self._file.flush()

    @contextmanager
    def reporting(self) -> Iterator[None]:
        """Turn what fails inside, here or in an encoder, into OutputError, and discard.

        A reader that has gone away stays the BrokenPipeError that it is.
        """
        try:
            yield
            if self._failure is not None:
                raise self._failure
        except BaseException as error:
            self.discard()
            cause = self._failure or error
            if isinstance(cause, OSError | RuntimeError):  # libsndfile's are RuntimeErrors
                raise output_error(self._name, cause) from cause
            raise

    def commit(self) -> None:
        """All is written: make it last."""
        with self.reporting():
            self.flush()

    def discard(self) -> None:
        """Something went wrong: leave nothing that looks like a result."""
        self._discarded = True
        self._can_seek = False


class _NewFile(Destination):
    """A file under a temporary name until it is complete.

    The name hangs on the file's alone, and who writes holds a lock: so no two programs write one
    file, and what one that was killed left behind is written over.

    Ctrl-C and other signals become exceptions between any two steps, also before whoever asked for
    the file has it, to discard it; so what is left at the end of the program is removed then.
    """

    _unfinished: ClassVar[set[_NewFile]] = set()  # whose temporary files may exist

    def __init__(self, path: Path) -> None:
        # A link stays: what it points at is replaced.
        self._path = Path(os.path.realpath(path))
        number = hashlib.sha256(os.fsencode(self._path.name)).hexdigest()[:16]
        self._temporary = self._path.with_name(f"{_PREFIX}{number}{_SUFFIX}")
        self._unfinished.add(self)
        try:
            self._open_locked()
        except BlockingIOError:
            self._unfinished.discard(self)
            hint = "wait for that, or end it"
            raise OutputBusy(f"{path}: another run is writing it", hint) from None
        except BaseException as error:
            self.discard()
            if isinstance(error, OSError):
                raise output_error(str(path), error) from error
            raise
        super().__init__(self._file, str(path))

    def _open_locked(self) -> None:
        """Have a new, empty file that is locked until it is closed; raises OSError."""
        while True:
            self._file = os.fdopen(os.open(self._temporary, _NEW, 0o666), "r+b")
            if not _lock(self._file):
                self._file.close()
                raise BlockingIOError
            if _is_named(self._file, self._temporary):
                self._file.truncate()
                return
            self._file.close()  # whoever had the lock has renamed or removed it

    def commit(self) -> None:
        with self.reporting():
            self._file.flush()
            if sys.platform == "win32":  # where an open file keeps its name
                self._file.close()
            os.replace(self._temporary, self._path)
            self._file.close()  # and so ends the lock
        self._unfinished.discard(self)

    def discard(self) -> None:
        """Leave nothing, at whatever step it is: not opened yet, opened, locked or committed."""
        super().discard()
        # There may be none yet, and a full disk refuses the buffered bytes once more.
        with suppress(AttributeError, OSError):
            self._file.close()
        if self in self._unfinished:
            with suppress(OSError):
                _remove_if_left(self._temporary)
        self._unfinished.discard(self)

    @classmethod
    def discard_all(cls) -> None:
        """Discard what nobody has committed or discarded."""
        for unfinished in list(cls._unfinished):
            unfinished.discard()


atexit.register(_NewFile.discard_all)


def _lock(file: BinaryIO) -> bool:
    """Lock an open file; False where another program has. Where locks are unknown, all may."""
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
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def sweep(folder: Path) -> None:
    """Remove what programs that were killed left behind in a folder and those below it."""
    for parent, _, names in os.walk(folder):
        for name in names:
            if name.startswith(_PREFIX) and name.endswith(_SUFFIX):
                with suppress(OSError):
                    _remove_if_left(Path(parent, name))


def _remove_if_left(path: Path) -> None:
    """Remove a temporary file unless a program is writing it; raises OSError."""
    if sys.platform != "win32":
        with open(path, "r+b") as file:  # NFS locks only what is open for writing
            if _lock(file) and _is_named(file, path):
                path.unlink()
    else:
        path.unlink()  # refused where a program has it open


class _Device(Destination):
    """A path that is no regular file: a named pipe, `/dev/null`."""

    def __init__(self, path: Path) -> None:
        super().__init__(_open(path, "wb", shown=path), str(path), can_seek=False)

    def commit(self) -> None:
        with self.reporting():
            self._file.close()

    def discard(self) -> None:
        super().discard()
        with suppress(OSError):
            self._file.close()


def open_destination(target: str | os.PathLike[str] | BinaryIO | Destination) -> Destination:
    """Open a path, or take an open binary stream; raises OutputError."""
    if isinstance(target, Destination):
        return target
    if not isinstance(target, str | os.PathLike):
        return Destination(target)
    path = Path(target)
    mode = _mode(path)
    if mode is not None and stat.S_ISDIR(mode):
        raise OutputError(f"{path}: is a folder", "name a file")
    if mode is not None and not stat.S_ISREG(mode):
        return _Device(path)
    return _NewFile(path)


def _mode(path: Path) -> int | None:
    """The kind of file at `path`, or None where there is none yet."""
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        return None
    except OSError as error:
        raise output_error(str(path), error) from error


def _open(path: Path, mode: str, shown: Path) -> BinaryIO:
    try:
        return open(path, mode)  # type: ignore[return-value]  # a binary mode, always
    except OSError as error:
        raise output_error(str(shown), error) from error


def _can_rewrite(file: BinaryIO) -> bool:
    """Whether one can go back in `file` and overwrite; a terminal only claims that one can."""
    try:
        file.tell()
        return file.seekable() and not _appends(file)
    except (OSError, AttributeError):
        return False


def _appends(file: BinaryIO) -> bool:
    """Whether the shell opened this with `>>`: then everything lands at the end."""
    if sys.platform == "win32":
        return False
    import fcntl

    try:
        return bool(fcntl.fcntl(file.fileno(), fcntl.F_GETFL) & os.O_APPEND)
    except OSError:  # lives in memory
        return False
