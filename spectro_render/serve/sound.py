"""The sound of an order as a stream of bytes, while it is rendered."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import BinaryIO, cast

import numpy as np
import numpy.typing as npt

from spectro_render.audio.audio import AudioWriter
from spectro_render.options import Encoding
from spectro_render.serve.limits import SongFailed
from spectro_render.serve.studio import Order

MEDIA_TYPES = {
    "wav": "audio/wav",
    "flac": "audio/flac",
    "aiff": "audio/aiff",
    "ogg": "audio/ogg",
    "opus": "audio/ogg",
    "mp3": "audio/mpeg",
    "raw": "application/octet-stream",
}
_BLOCK = 1 << 16  # samples that are encoded at once


class _Outbox:
    """Collects what an encoder writes; as much of a file as AudioWriter needs."""

    closed = False

    def __init__(self) -> None:
        self._data = bytearray()

    def write(self, data: bytes) -> int:
        self._data += data
        return len(data)

    def flush(self) -> None:
        """Do nothing."""

    def take(self) -> bytes:
        """What was written since the last call."""
        data, self._data = bytes(self._data), bytearray()
        return data


def deinterleave(data: bytes, channels: int) -> npt.NDArray[np.float32]:
    """Little-endian float32 samples of all channels by turns, as an array (channels, S)."""
    return np.frombuffer(data, "<f4").reshape(-1, channels).T


def _open(order: Order) -> BinaryIO:
    try:
        return open(order.path, "rb")
    except FileNotFoundError:
        raise SongFailed("the song has been removed") from None


def encode(order: Order, encoding: Encoding, file: BinaryIO) -> None:
    """Encode the sound of a finished order into a file, whose header then says its length.

    Raises SongFailed if the order has been removed.
    """
    with (
        _open(order) as samples,
        AudioWriter(
            file,
            sample_rate=order.sample_rate,
            out_rate=encoding.sample_rate,
            format=encoding.format,
            bit_depth=encoding.bit_depth,
            channels=order.song.channels,
        ) as writer,
    ):
        while data := samples.read(4 * order.song.channels * _BLOCK):
            writer.write(deinterleave(data, order.song.channels))


async def stream(order: Order, encoding: Encoding) -> AsyncIterator[bytes]:
    """Encode the sound of an order from its beginning, as it comes.

    A slow client delays nobody: the sound waits in the order's file. Raises SongFailed if the song
    fails.
    """
    outbox = _Outbox()
    writer = AudioWriter(
        cast(BinaryIO, outbox),
        sample_rate=order.sample_rate,
        out_rate=encoding.sample_rate,
        format=encoding.format,
        bit_depth=encoding.bit_depth,
        channels=order.song.channels,
        length=order.song.sound.length,
    )
    place, channels = 0, order.song.channels
    file: BinaryIO | None = None
    order.readers += 1
    try:
        while True:
            news = order.changed
            frames, is_over = order.frames, order.is_over
            while place < frames:
                file = file or _open(order)
                count = min(_BLOCK, frames - place)
                writer.write(deinterleave(file.read(4 * channels * count), channels))
                place += count
                if data := outbox.take():
                    yield data
            if is_over:
                break
            await news.wait()
        if order.state == "failed":
            raise SongFailed(order.error)
        writer.close()
        if data := outbox.take():
            yield data
    finally:
        order.readers -= 1
        if file is not None:
            file.close()
