"""Where the bytes of a sound file go: a file that gets its name when complete, or a stream."""

from __future__ import annotations

import io
import os
import stat
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from spectro_render.atomic import NewFile
from spectro_render.errors import OutputError, output_error

if TYPE_CHECKING:
    from collections.abc import Iterator


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
    """A file that gets its name when it is committed, and is gone if it is discarded."""

    def __init__(self, path: Path) -> None:
        self._new = NewFile(path)
        super().__init__(self._new.file, str(path))

    def commit(self) -> None:
        with self.reporting():
            self._new.commit()

    def discard(self) -> None:
        super().discard()
        self._new.discard()


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
