"""The errors that a user can act on, by kind.

SpectroRenderError          message, and a hint: what to do next
├── MidiError               unreadable, no notes, too long
├── TokenError              ids that do not follow the grammar of a window
├── WeightsError            a model directory that cannot be used
│   ├── WeightsNotFound     no model of this name
│   ├── WeightsCorrupt      expected and found
│   └── DownloadError       why a model cannot be fetched
├── DeviceError             a device or number format that this machine lacks
├── EngineError             machines that should render and cannot
├── OptionError             options that contradict each other or this model
└── OutputError             not writable, disk full, unknown format
"""

from __future__ import annotations

import errno
import os

NO_MEMORY = "there is not enough memory; end other programs, or raise the limit (ulimit -v)"
_HINTS = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some of your quota",
    errno.EFBIG: "raise the limit on file sizes, or use a compressed format",
    errno.ENOENT: "make the folder first",
    errno.ENOTDIR: "its parent is a file; choose another place",
    errno.EACCES: "choose a place that you may write to",
    errno.EPERM: "choose a place that you may write to",
    errno.EROFS: "choose a place that you may write to",
    errno.ENAMETOOLONG: "choose a shorter name",
}


class SpectroRenderError(Exception):
    """An error that the user can act on; `hint` tells how."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


class MidiError(SpectroRenderError):
    """The MIDI cannot be read, or holds nothing to render."""


class TokenError(SpectroRenderError):
    """Token ids do not follow the grammar of a window."""


class WeightsError(SpectroRenderError):
    """A model directory cannot be used."""


class WeightsNotFound(WeightsError):
    """There is no model in any of the places that were searched."""


class WeightsCorrupt(WeightsError):
    """A weights file is damaged: it does not match its checksum or its configuration."""


class DownloadError(WeightsError):
    """A model cannot be fetched."""


class DeviceError(SpectroRenderError):
    """This machine lacks a device or a number format."""


class EngineError(SpectroRenderError):
    """The machines that should render cannot, or cannot be reached."""


class OptionError(SpectroRenderError):
    """Options contradict each other or the model."""


class OutputError(SpectroRenderError):
    """The result cannot be written."""


class OutputBusy(OutputError):
    """Another program is writing the same output."""


def install_hint(extra: str) -> str:
    """The command that installs what an extra of this package needs, by the names in the index."""
    from importlib.metadata import PackageNotFoundError, requires

    try:
        lines = requires("spectro-render") or []
    except PackageNotFoundError:  # a checkout that is not installed
        lines = []
    end = ["extra", "==", f"'{extra}'"]
    names = [line.split(";")[0].strip() for line in lines if line.split()[-3:] == end]
    return "pip install " + (" ".join(f"'{name}'" for name in names) or f"'.[{extra}]'")


def reason_of(error: OSError) -> str:
    """The operating system's text for an error, in lower case: 'no such file or directory'."""
    return os.strerror(error.errno).lower() if error.errno else str(error)


def output_error(name: str, error: OSError | RuntimeError) -> OutputError | BrokenPipeError:
    """Make the error to raise where writing the output `name` failed, with a hint.

    A BrokenPipeError, where the reader of a pipe is gone, is returned as it is.
    """
    if isinstance(error, BrokenPipeError):
        return error
    number, reason = None, str(error)
    if isinstance(error, OSError):
        number, reason = error.errno, reason_of(error)
    return OutputError(f"{name}: cannot write: {reason}", _HINTS.get(number or 0, ""))
