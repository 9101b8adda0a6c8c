"""The sound of an order as a stream of bytes, while it is rendered."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO, cast
from zipfile import ZipFile

import numpy as np
import numpy.typing as npt

from spectro_render.audio.audio import AudioWriter
from spectro_render.audio.limiter import safe_factor
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


def _open(path: Path) -> BinaryIO:
    try:
        return open(path, "rb")
    except FileNotFoundError:
        raise SongFailed("the song has been removed") from None


def encode(order: Order, encoding: Encoding, file: BinaryIO) -> None:
    """Encode the sound of a finished order into a file, whose header then says its length.

    Raises SongFailed if the order has been removed.
    """
    with _open(order.path) as samples:
        _encode(samples, order, encoding, file)


def encode_stems(order: Order, encoding: Encoding, file: BinaryIO) -> None:
    """Write the mix and the stems of a finished order into a ZIP file, with an index.

    All stems get one gain, by which none is above full scale; the index `stems.json` has it in dB.
    Raises SongFailed if the order has been removed.
    """
    blocks = (block for path in order.stem_paths for block in _blocks(path, order))
    peak = max((float(np.abs(block).max(initial=0.0)) for block in blocks), default=0.0)
    factor = safe_factor(peak)
    sounds = [("mix", order.path, 1.0)]
    for part, path in zip(order.song.parts, order.stem_paths, strict=True):
        sounds.append((part.file_name, path, factor))
    index = {
        "gain_db": round(20 * math.log10(factor), 4),
        "stems": [
            {
                "name": part.name,
                "file": f"{part.file_name}.{encoding.format}",
                "instrument": part.instrument,
                "notes": part.n_notes,
            }
            for part in order.song.parts
        ],
    }
    with ZipFile(file, "w") as archive:
        for name, path, gain in sounds:
            with _open(path) as samples, TemporaryFile(dir=order.path.parent) as encoded:
                _encode(samples, order, encoding, encoded, gain)
                encoded.seek(0)
                with archive.open(f"{name}.{encoding.format}", "w", force_zip64=True) as member:
                    shutil.copyfileobj(encoded, member)
        archive.writestr("stems.json", json.dumps(index, indent=1))


def _encode(
    samples: BinaryIO, order: Order, encoding: Encoding, file: BinaryIO, gain: float = 1.0
) -> None:
    with AudioWriter(
        file,
        sample_rate=order.sample_rate,
        out_rate=encoding.sample_rate,
        format=encoding.format,
        bit_depth=encoding.bit_depth,
        channels=order.song.channels,
    ) as writer:
        while data := samples.read(4 * order.song.channels * _BLOCK):
            writer.write(deinterleave(data, order.song.channels) * np.float32(gain))


def _blocks(path: Path, order: Order) -> Iterator[npt.NDArray[np.float32]]:
    """The samples (channels, S) in a file, block by block."""
    with _open(path) as samples:
        while data := samples.read(4 * order.song.channels * _BLOCK):
            yield deinterleave(data, order.song.channels)


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
                file = file or _open(order.path)
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
