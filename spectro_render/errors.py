"""What can go wrong.

SpectroRenderError          message, and a hint: what to do next
├── MidiError               unreadable, no notes, too long
├── TokenError              ids that do not follow the grammar of a window
├── WeightsError            a model directory that cannot be used
│   ├── WeightsNotFound     every place looked at
│   ├── WeightsCorrupt      expected and found
│   └── DownloadError       why a model cannot be fetched
├── DeviceError             a device or number format that this machine lacks
├── EngineError             machines that were to render and cannot
├── OptionError             options that contradict each other or this model
└── OutputError             not writable, disk full, unknown format
"""


class SpectroRenderError(Exception):
    """Something the user can act on; `hint` says how."""

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
    """No model directory where one was looked for."""


class WeightsCorrupt(WeightsError):
    """A weights file differs from what its checksum or configuration promises."""


class DownloadError(WeightsError):
    """A model cannot be fetched."""


class DeviceError(SpectroRenderError):
    """A device or number format that this machine lacks."""


class EngineError(SpectroRenderError):
    """The machines that were to render cannot, or are not to be had."""


class OptionError(SpectroRenderError):
    """Options that contradict each other or the model."""


class OutputError(SpectroRenderError):
    """The result cannot be written."""


class OutputBusy(OutputError):
    """Another program is writing the same output."""
