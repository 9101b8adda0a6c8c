"""Files and directories that get their final name only when they are complete.

Until then they lie in the same folder under a temporary name that begins with a dot. What a killed
program left of them is removed by a search.
"""

from __future__ import annotations

import atexit
import errno
import hashlib
import os
import secrets
import shutil
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import FileIO
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
        for folder, _, names in os.walk(work):
            for name in names:
                _sync(Path(folder, name))
            _sync(Path(folder))
        work.rename(place)
        with suppress(OSError):
            _sync(place.parent)


@contextmanager
def work_directory(parent: Path, name: str) -> Iterator[Path]:
    """Yield a new directory in `parent`, which is removed with its content when the block ends.

    Directories that killed programs left in `parent` are removed, too. Raises OutputError for any
    OSError in the block; its message calls the output `name`.
    """
    work, lock = parent, -1
    try:
        for left in parent.glob(f"{_PREFIX}*{_SUFFIX}"):
            _remove_directory_if_left(left)
        while lock < 0:
            work = parent / f"{_PREFIX}{secrets.token_hex(6)}{_SUFFIX}"
            work.mkdir()
            lock = _lock_directory(work)
        yield work
    except OSError as error:
        raise output_error(name, error) from error
    finally:
        if work != parent:
            shutil.rmtree(work, ignore_errors=True)
        if lock > 0:
            os.close(lock)


class NewFile:
    """An open file under a temporary name, which `commit` replaces by the final one.

    The temporary name is derived from the final one, and the file is locked while it is written.
    So no two programs write one file at once, and what a killed program left is overwritten.

    A signal may raise an exception between any two steps, even before the caller has this object
    and could discard it. So files neither committed nor discarded are removed when Python exits.
    """

    file: BinaryIO
    _lock_holder: FileIO  # the same open file, which keeps its lock when `file` is closed
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
        """Open a new, empty file that is locked until it is renamed. Raises OSError."""
        while True:
            self.file = os.fdopen(os.open(self.temporary, _NEW, 0o666), "r+b")
            self._lock_holder = os.fdopen(os.dup(self.file.fileno()), "rb", buffering=0)
            is_locked = _lock(self.file)
            if is_locked and _is_named(self.file, self.temporary):
                self.file.truncate()
                self._take_permissions(stat.S_IRUSR | stat.S_IWUSR)  # for who opens it by its name
                return
            is_written = not is_locked and not _lock(self.file, shared=True)
            self.file.close()
            self._lock_holder.close()
            if is_written:
                raise BlockingIOError
            time.sleep(0.001)  # it has been renamed or removed, or a sweep is about to remove it

    def commit(self) -> None:
        """Give the complete file its final name, when it is on the disk. Raises OSError."""
        self._take_permissions()
        self.file.flush()
        _sync_open(self.file.fileno())
        self.file.close()  # which fails on some network file systems when a quota is exceeded
        if sys.platform == "win32":  # where an open file keeps its name
            self._lock_holder.close()
        os.replace(self.temporary, self._path)
        self._lock_holder.close()  # not before: another program would write to the same file
        self._unfinished.discard(self)
        with suppress(OSError):
            _sync(self._path.parent)

    def _take_permissions(self, least: int = 0) -> None:
        """Copy owner and permissions of the file that will be replaced, and add `least` to them."""
        with suppress(OSError):  # there is no such file, or the file system knows none
            old = os.stat(self._path)
            if sys.platform != "win32":
                with suppress(OSError):  # only root may give a file away
                    os.fchown(self.file.fileno(), old.st_uid, old.st_gid)
                os.fchmod(self.file.fileno(), stat.S_IMODE(old.st_mode) | least)

    def discard(self) -> None:
        """Remove the temporary file, whether it is not open yet, open, locked or committed."""
        # There may be none yet, and a full disk refuses the buffered bytes once more.
        for name in ("file", "_lock_holder"):
            with suppress(AttributeError, OSError):
                getattr(self, name).close()
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
    """Remove what killed programs left under temporary names, in a folder and all below it."""
    for parent, folders, names in walk(folder):
        for name in list(folders):
            if name.startswith(_PREFIX) and name.endswith(_SUFFIX):
                folders.remove(name)
                _remove_directory_if_left(Path(parent, name))
        for name in names:
            if name.startswith(_PREFIX) and name.endswith(_SUFFIX):
                with suppress(OSError):
                    _remove_if_left(Path(parent, name))


def read_regular(path: str | os.PathLike[str], limit: int) -> bytes:
    """The bytes of a regular file, at most `limit`.

    Raises OSError for a larger file, and for a pipe or a device without waiting for it.
    """
    with open_regular(path) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
    return data


def open_regular(path: str | os.PathLike[str], flags: int = os.O_RDONLY) -> BinaryIO:
    """Open a regular file with these flags, as `open` does.

    Raises OSError for a pipe or a device without waiting for it.
    """
    extra = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    file = os.fdopen(os.open(path, flags | extra, 0o666), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError("not a regular file")
    return file


def walk(
    top: str | os.PathLike[str], on_error: Callable[[OSError], object] = lambda error: None
) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield each folder from `top` down, with the names of its folders and of everything else.

    This is `os.walk`, for folders of any depth: that recurses, and fails after some 980, in Python
    before 3.12. The caller may change the list of folders; links to folders are not followed.
    """
    waiting = [os.fspath(top)]
    while waiting:
        parent = waiting.pop()
        folders: list[str] = []
        others: list[str] = []
        links: set[str] = set()
        try:
            with os.scandir(parent) as entries:
                for entry in entries:
                    is_folder = False
                    with suppress(OSError):  # a loop of links
                        is_folder = entry.is_dir()
                    (folders if is_folder else others).append(entry.name)
                    if entry.is_symlink():
                        links.add(entry.name)
        except OSError as error:
            on_error(error)
            continue
        yield parent, folders, others
        below = [os.path.join(parent, name) for name in folders if name not in links]
        waiting += reversed(below)


def _remove_if_left(path: Path) -> None:
    """Remove a temporary file unless a program is writing it. Raises OSError.

    A shared lock keeps writers away, which know by it that the file is not being written. A second
    lock, of another kind, keeps other sweeps away.
    """
    if sys.platform != "win32":
        import fcntl

        with open(path, "r+b") as file:  # NFS locks only what is open for writing
            if _lock(file, shared=True):
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_named(file, path):
                    path.unlink()
    else:
        path.unlink()  # refused where a program has it open


def _lock_directory(path: Path) -> int:
    """Open a directory and lock it until it is closed: its number, or -1 if it has been removed.

    Where there are no locks it is 0, and no directory is ever found left. Raises OSError.
    """
    if sys.platform == "win32":
        return 0
    import fcntl

    try:
        number = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return -1
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(number), os.stat(path)):
            return number
    except (BlockingIOError, FileNotFoundError):  # a sweep is about to remove it, or has done so
        pass
    except OSError:  # a file system without locks
        os.close(number)
        return 0
    os.close(number)
    return -1


def _remove_directory_if_left(path: Path) -> None:
    """Remove a temporary directory unless a program has locked it."""
    with suppress(OSError):
        lock = _lock_directory(path)
        if lock > 0:
            shutil.rmtree(path, ignore_errors=True)
            os.close(lock)


def _lock(file: BinaryIO, *, shared: bool = False) -> bool:
    """Lock an open file: False if another program has locked it; True where no locks exist."""
    if sys.platform == "win32":
        return True
    import fcntl

    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk. Raises OSError."""
    if sys.platform == "win32":  # where folders cannot be opened
        return
    number = os.open(path, os.O_RDONLY)
    try:
        _sync_open(number)
    finally:
        os.close(number)


def _sync_open(number: int) -> None:
    """Wait until an open file is on the disk, unless its file system has no such operation."""
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
            raise


def _is_named(file: BinaryIO, path: Path) -> bool:
    """Whether `path` still leads to this open file."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False
