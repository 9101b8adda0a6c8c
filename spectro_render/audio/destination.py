"""The outputs that sound is written to: new files, pipes and devices, and open streams."""

from __future__ import annotations

import errno
import io
import os
import stat
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from spectro_render.atomic import NewFile
from spectro_render.errors import OutputError, output_error

if TYPE_CHECKING:
    from collections.abc import Iterator


class Destination:
    """An output that bytes are written to.

    In a file that cannot seek, an encoder may go back to complete its header, but what it writes
    there is dropped.
    """

    def __init__(
        self, file: BinaryIO, name: str = "the output stream", can_seek: bool | None = None
    ) -> None:
        self._file = file
        self._name = name
        self._discarded = False
        self._can_seek = _can_rewrite(file) if can_seek is None else can_seek
        # Bytes written, and the position that the encoder assumes, where the file cannot seek.
        self._end = self._position = 0

    def seekable(self) -> bool:
        """Whether bytes that were written can still be changed."""
        return self._can_seek

    def tell(self) -> int:
        """The position at which the next bytes are written."""
        return self._file.tell() if self._can_seek else self._position

    def seek(self, position: int) -> None:
        """Move to another position, in bytes."""
        if self._can_seek:
            self._file.seek(position)
        else:
            self._position = position

    def seek_end(self) -> int:
        """Move behind the last byte of an output that can seek; returns the position."""
        return self._file.seek(0, os.SEEK_END)

    def write(self, data: bytes | memoryview) -> None:
        """Write all of `data`. Raises OutputError or BrokenPipeError."""
        block = bytes(data)
        if self._discarded:
            return
        with self.reporting():
            if self._can_seek or self._position == self._end:
                _write_all(self._file, block)
                self._end += len(block)
            self._position += len(block)

    def flush(self) -> None:
        """Pass on what is buffered. Raises OSError."""
        if not (self._discarded or self._file.closed):
            self._file.flush()

    @contextmanager
    def reporting(self) -> Iterator[None]:
        """Discard the output if the block fails; raise write errors as OutputError.

        Write errors are those of this stream and of encoders. A BrokenPipeError, where the reader
        of a pipe is gone, is raised as it is.
        """
        try:
            yield
        except BaseException as error:
            self.discard()
            if isinstance(error, OSError | RuntimeError):  # libsndfile's are RuntimeErrors
                raise output_error(self._name, error) from error
            raise

    def lend(self) -> tuple[int, bool]:
        """The number of the open file, for another process, and whether it can seek."""
        return self._file.fileno(), self._can_seek

    def empty(self) -> bool:
        """Remove what another process wrote to the open file; False if that cannot be done."""
        try:
            os.lseek(self._file.fileno(), 0, os.SEEK_SET)
            os.ftruncate(self._file.fileno(), 0)
        except OSError:  # a pipe
            return False
        return True

    def commit(self) -> None:
        """Finish the output when all is written. Raises OutputError or BrokenPipeError."""
        with self.reporting():
            self.flush()

    def discard(self) -> None:
        """Abandon the output, which is incomplete, so that nothing looks like a result."""
        self._discarded = True
        self._can_seek = False


class FileDestination(Destination):
    """A new file, which gets its name when it is committed, and is removed if discarded."""

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
    """An output to a path that is not a regular file, such as a named pipe or `/dev/null`."""

    def __init__(self, path: Path) -> None:
        try:
            file = open(path, "wb")
        except OSError as error:
            raise output_error(str(path), error) from error
        super().__init__(file, str(path), can_seek=False)

    def commit(self) -> None:
        with self.reporting():
            self._file.close()

    def discard(self) -> None:
        super().discard()
        with suppress(OSError):
            self._file.close()


def _write_all(file: BinaryIO, block: bytes) -> None:
    """Write a block to a file, which may take a part of it at a time if it has no buffer."""
    written = file.write(block)
    while isinstance(file, io.RawIOBase) and written != len(block):
        if written is None:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        block = block[written:]
        written = file.write(block)


def open_destination(target: str | os.PathLike[str] | BinaryIO | Destination) -> Destination:
    """Make a destination of a path or an open binary stream; a Destination is returned as it is.

    Raises OutputBusy where another program is writing the file, OutputError where it cannot be
    written.
    """
    if isinstance(target, Destination):
        return target
    if not isinstance(target, str | os.PathLike):
        return Destination(target)
    path = Path(target)
    mode = _mode(path)
    if mode is not None and stat.S_ISDIR(mode):
        raise OutputError(f"{path} is a folder", "name a file")
    if mode is not None and not stat.S_ISREG(mode):
        return _Device(path)
    return FileDestination(path)


def _mode(path: Path) -> int | None:
    """The mode of the file at `path`, which tells its kind; None where there is none yet."""
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        return None
    except OSError as error:
        raise output_error(str(path), error) from error


def _can_rewrite(file: BinaryIO) -> bool:
    """Whether bytes of `file` can be overwritten, which a terminal wrongly claims."""
    try:
        file.tell()
        return file.seekable() and not _appends(file)
    except (OSError, AttributeError):
        return False


def _appends(file: BinaryIO) -> bool:
    """Whether everything written to `file` lands at its end, as with `>>` in a shell."""
    if sys.platform == "win32":
        return False
    import fcntl

    try:
        return bool(fcntl.fcntl(file.fileno(), fcntl.F_GETFL) & os.O_APPEND)
    except OSError:  # a file in memory
        return False
