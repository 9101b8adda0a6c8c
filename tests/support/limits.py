"""Simulates a full disk, and makes folders that are deeper than Python recurses."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Make writing fail in this context, for more than `size` bytes in a file."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


@contextmanager
def deep_folder(depth: int) -> Iterator[None]:
    """Be inside of `depth` nested folders of the name `d`, which are removed at the end."""
    for _ in range(depth):
        os.mkdir("d")
        os.chdir("d")
    try:
        yield
    finally:
        for _ in range(depth):
            for name in os.listdir():
                os.rmdir(name) if os.path.isdir(name) else os.unlink(name)
            os.chdir("..")
        os.rmdir("d")
