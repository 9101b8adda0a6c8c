"""Sound in memory, and a writer that encodes sound block by block.

The writer needs the memory of one block, however long the song is.
"""

from __future__ import annotations

import base64
import html
import io
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from spectro_render.audio.destination import Destination, open_destination
from spectro_render.audio.encoders import (
    BIT_DEPTHS,
    MAX_FRAMES,
    Encoder,
    check_format,
    format_of,
    make_encoder,
)
from spectro_render.audio.tags import Tags
from spectro_render.constants import SAMPLE_RATE
from spectro_render.errors import OutputError

if TYPE_CHECKING:
    from types import TracebackType

    import numpy as np
    import numpy.typing as npt

    from spectro_render.audio.player import Player

    Samples = npt.NDArray[np.float32]  # (channels, S), or (S,) for one channel


def check_finite(samples: Samples) -> None:
    """Raise OutputError if samples are NaN or infinite."""
    import numpy as np

    if not np.isfinite(samples).all():
        raise OutputError("the sound holds values that are not numbers", "check the weights")


@dataclass(frozen=True, eq=False, repr=False)
class Audio:
    """Sound in memory. A notebook shows it as a player."""

    samples: Samples  # (channels, S) float32 in [-1, 1]
    sample_rate: int = SAMPLE_RATE  # Hz

    @property
    def seconds(self) -> float:
        """The length in seconds."""
        return float(self.samples.shape[-1] / self.sample_rate)

    def __repr__(self) -> str:
        channels = 1 if self.samples.ndim == 1 else self.samples.shape[0]
        noun = "channel" if channels == 1 else "channels"
        return f"Audio({self.seconds:.2f} s, {channels} {noun}, {self.sample_rate} Hz)"

    def _repr_html_(self) -> str:
        """A player with the sound as a WAV file, for notebooks."""
        file = io.BytesIO()
        channels = 1 if self.samples.ndim == 1 else self.samples.shape[0]
        with AudioWriter(file, sample_rate=self.sample_rate, channels=channels) as writer:
            writer.write(self.samples)
        data = base64.b64encode(file.getvalue()).decode()
        player = f'<audio controls src="data:audio/wav;base64,{data}"></audio>'
        return f"<div>{player}<br>{html.escape(repr(self))}</div>"

    def play(self, *, device: str | int | None = None, block: bool = True) -> Player:
        """Play the sound on a device of this machine, and wait until it is over.

        `device` is a number or a part of a name; None is the system's default. With `block=False`,
        this returns at once, and the sound goes on: `finish` of the Player that is returned waits
        for its end, and `stop` stops it. Sound that an earlier call has left playing is stopped.
        Needs the extra `play`: raises SpectroRenderError without it, DeviceError where there is no
        device that can play, OutputError where it fails.
        """
        from spectro_render.audio.player import play

        return play(self.samples, self.sample_rate, device, block)

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        format: str | None = None,
        sample_rate: int | None = None,
        bit_depth: str | None = None,
        dither: bool = True,
        quality: float | None = None,
    ) -> None:
        """Write the sound to a file in the format of its suffix, or in `format`.

        `sample_rate` in Hz is that of the file; None keeps the sound's own. `bit_depth` is one of
        `encoders.BIT_DEPTHS[format]`; 16 bits are dithered unless `dither` is False. `quality` is
        from 0 to 10, for lossy formats. Raises
        OptionError for an unknown format or one that cannot
        hold the rate or bit depth, OutputError where the file cannot be written.
        """
        with AudioWriter(
            path,
            sample_rate=self.sample_rate,
            out_rate=sample_rate,
            format=format or format_of(path),
            bit_depth=bit_depth,
            dither=dither,
            quality=quality,
            channels=1 if self.samples.ndim == 1 else self.samples.shape[0],
        ) as writer:
            writer.write(self.samples)


class AudioWriter:
    """Writes sound block by block, to a path or to an open binary stream.

    A file gets its name only when it is complete: until then the sound is in a temporary file of
    the same folder, which is removed if an exception ends the `with` block. A path that is not a
    regular file (a pipe, `/dev/null`) is written to directly. Every block is flushed.

    `sample_rate` is that of the sound in Hz, `out_rate` that of the file; None means the same rate.
    Samples of 16 bits are dithered unless `dither` is False. `channels` is by default that of the
    first samples; if it is given, the header is written at once. `length` is the number of samples
    of each channel that will be written, at `sample_rate`. If it is known, the headers of WAV and
    AIFF streams are right from the beginning. A `player` plays what is written. Raises OptionError
    for what the format cannot hold, OutputError where the sound cannot be written, and
    BrokenPipeError where the reader of a pipe is gone.
    """

    def __init__(
        self,
        target: str | os.PathLike[str] | BinaryIO | Destination,
        *,
        sample_rate: int = SAMPLE_RATE,
        out_rate: int | None = None,
        format: str = "wav",
        bit_depth: str | None = None,
        channels: int | None = None,
        dither: bool = True,
        quality: float | None = None,
        length: int | None = None,
        tags: Tags | None = None,
        player: Player | None = None,
    ) -> None:
        rate = sample_rate if out_rate is None else out_rate
        check_format(format, bit_depth, rate, quality)
        self._format, self._depth = format, bit_depth or next(iter(BIT_DEPTHS[format]), "")
        self._dither, self._quality, self._tags = dither, quality, tags
        self._sample_rate, self._rate = sample_rate, rate
        if length is not None:  # as long as soxr makes it: rounded, halves up
            length = (2 * length * rate + sample_rate) // (2 * sample_rate)
        self._length = length
        self._player = player
        self._resampler: Any = None
        self._encoder: Encoder | None = None  # None: the number of channels is not known yet
        self._destination = open_destination(target)
        if channels is not None:
            self._begin(channels)

    def _begin(self, channels: int) -> Encoder:
        """Make the encoder, which writes the header. Raises OutputError."""
        self._channels = channels
        if self._player is not None:
            self._player.begin(self._rate)
        if self._rate != self._sample_rate:
            import soxr

            self._resampler = soxr.ResampleStream(
                self._sample_rate, self._rate, channels, dtype="float32", quality="VHQ"
            )
        with self._destination.reporting():
            self._encoder = make_encoder(
                *(self._destination, self._format, self._depth, self._rate, channels),
                dither=self._dither,
                quality=self._quality,
                length=self._length,
                tags=self._tags,
            )
        return self._encoder

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
        """Append samples (channels, S) or (S,), float32 in [-1, 1]."""
        frames = samples[:, None] if samples.ndim == 1 else samples.T
        if self._encoder is None:
            self._begin(frames.shape[1])
        for start in range(0, len(frames) or 1, MAX_FRAMES):
            self._put(frames[start : start + MAX_FRAMES])

    def close(self) -> None:
        """Finish the file and give it its name."""
        self.finish()
        self._destination.commit()

    def finish(self) -> None:
        """Write the end of the file, which does not get its name yet."""
        import numpy as np

        encoder = self._encoder or self._begin(1)
        if self._resampler is not None:
            self._put(np.zeros((0, self._channels), np.float32), last=True)
            self._resampler = None  # Python may end before it is collected; nanobind complains
        with self._destination.reporting():
            encoder.close()

    def discard(self) -> None:
        """Remove what has been written, as the file will not be complete."""
        self._resampler = None
        self._destination.discard()

    def _put(self, frames: Samples, *, last: bool = False) -> None:
        """Resample and encode frames (S, channels); `last` flushes the resampler."""
        import numpy as np

        check_finite(frames)
        if self._resampler is not None:
            frames = self._resampler.resample_chunk(np.ascontiguousarray(frames), last=last)
            frames = frames.reshape(-1, self._channels)
        encoder = self._encoder
        assert encoder is not None  # there is no sound without a number of channels
        frames = np.clip(frames, -1.0, 1.0)
        with self._destination.reporting():
            for start in range(0, len(frames) or 1, MAX_FRAMES):
                encoder.write(frames[start : start + MAX_FRAMES])
            self._destination.flush()
        if self._player is not None:
            self._player.write(frames)
