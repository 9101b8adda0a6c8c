"""Rendered sound: its loudness, and writing it.

`Limiter` raises the level and keeps the peaks under full scale; `AudioWriter` takes the sound block
by block, so that a song of any length is written with the memory of one block.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from spectro_render.audio.destination import Destination, open_destination
from spectro_render.audio.encoders import BIT_DEPTHS, check_format, format_of, make_encoder
from spectro_render.constants import SAMPLE_RATE
from spectro_render.errors import OutputError

if TYPE_CHECKING:
    from types import TracebackType

    import numpy as np
    import numpy.typing as npt

    Samples = npt.NDArray[np.float32]  # (channels, S), or (S,) for one channel


@dataclass(frozen=True, eq=False)
class Audio:
    """Sound in memory."""

    samples: Samples  # (channels, S) float32 in [-1, 1]
    sample_rate: int = SAMPLE_RATE  # Hz

    @property
    def seconds(self) -> float:
        """The length in seconds."""
        return float(self.samples.shape[-1] / self.sample_rate)

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        format: str | None = None,
        sample_rate: int | None = None,
        bit_depth: str | None = None,
    ) -> None:
        """Write to `path`; its suffix says the format unless `format` does.

        Raises OptionError for a format that is unknown or cannot hold this, and OutputError where
        the file cannot be written.
        """
        with AudioWriter(
            path,
            sample_rate=self.sample_rate,
            out_rate=sample_rate,
            format=format or format_of(path),
            bit_depth=bit_depth,
            channels=1 if self.samples.ndim == 1 else self.samples.shape[0],
        ) as writer:
            writer.write(self.samples)


class AudioWriter:
    """Writes sound block by block, to a path or to an open binary stream.

    A path gets its name only when the file is complete: until then the sound is in a temporary
    file of the same folder, which an exception removes. A path that is no regular file (a pipe,
    `/dev/null`) is written to directly. Every block is flushed.

    sample_rate: Hz of what comes in; out_rate: Hz of the file, the same where None.
    Raises OptionError for what the format cannot hold and OutputError for what cannot be written;
    a reader that has gone away stays the BrokenPipeError that it is.
    """

    def __init__(
        self,
        target: str | os.PathLike[str] | BinaryIO | Destination,
        *,
        sample_rate: int = SAMPLE_RATE,
        out_rate: int | None = None,
        format: str = "wav",
        bit_depth: str | None = None,
        channels: int = 1,
    ) -> None:
        rate = out_rate or sample_rate
        check_format(format, bit_depth, rate)
        depth = bit_depth or next(iter(BIT_DEPTHS[format]), "")
        self._channels = channels
        self._resampler = _make_resampler(sample_rate, rate, channels)
        self._destination = open_destination(target)
        with self._destination.reporting():
            self._encoder = make_encoder(self._destination, format, depth, rate, channels)

    def __enter__(self) -> AudioWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()

    def write(self, samples: Samples) -> None:
        """Append (channels, S) or (S,) float32 in [-1, 1]."""
        self._put(samples[:, None] if samples.ndim == 1 else samples.T)

    def close(self) -> None:
        """Finish the file and give it its name."""
        import numpy as np

        if self._resampler is not None:
            self._put(np.zeros((0, self._channels), np.float32), last=True)
        with self._destination.reporting():
            self._encoder.close()
        self._destination.commit()

    def discard(self) -> None:
        """Leave nothing: the file will not be complete."""
        self._destination.discard()

    def _put(self, frames: Samples, *, last: bool = False) -> None:
        """Resample and encode (S, channels)."""
        import numpy as np

        if not np.isfinite(frames).all():
            raise OutputError("the sound holds values that are not numbers", "check the weights")
        if self._resampler is not None:
            frames = self._resampler.resample_chunk(np.ascontiguousarray(frames), last=last)
            frames = frames.reshape(-1, self._channels)
        with self._destination.reporting():
            self._encoder.write(np.clip(frames, -1.0, 1.0))
            self._destination.flush()


def _make_resampler(rate: int, out_rate: int, channels: int) -> Any:
    """soxr's streaming resampler, or None where none is needed."""
    if rate == out_rate:
        return None
    import soxr

    return soxr.ResampleStream(rate, out_rate, channels, dtype="float32", quality="VHQ")
