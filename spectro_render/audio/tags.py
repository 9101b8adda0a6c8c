"""Tags of audio files: what is written about a song, in the form of each format."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

_INFO = {  # chunks of a WAV file's LIST chunk (IBM and Microsoft, Multimedia Programming, 1991)
    "title": b"INAM",
    "artist": b"IART",
    "copyright": b"ICOP",
    "software": b"ISFT",
    "comment": b"ICMT",
}
_AIFF = {  # chunks of an AIFF file (Apple, 1989), which has none for the software
    "title": b"NAME",
    "artist": b"AUTH",
    "copyright": b"(c) ",
    "comment": b"ANNO",
}
_FRAMES = {  # of ID3v2.4 (id3.org, 2000)
    "title": b"TIT2",
    "artist": b"TPE1",
    "copyright": b"TCOP",
    "software": b"TSSE",
    "comment": b"COMM",
}
_UTF_8 = b"\x03"
_SERIAL = 1
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


@dataclass(frozen=True)
class Tags:
    """What is written about a song; empty texts are left out. There are no dates in it."""

    title: str = ""
    artist: str = ""
    copyright: str = ""
    software: str = ""
    comment: str = ""

    def fields(self) -> dict[str, str]:
        """The names and texts of the tags that there are."""
        return {name: text for name in _INFO if (text := getattr(self, name))}


def as_info(tags: Tags) -> bytes:
    """The LIST chunk of a WAV file, in UTF-8; nothing if there are no tags."""
    chunks = b""
    for name, text in tags.fields().items():
        data = text.encode("utf-8", "replace") + b"\0"
        chunks += _INFO[name] + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)
    return b"LIST" + struct.pack("<I", len(chunks) + 4) + b"INFO" + chunks if chunks else b""


def as_aiff(tags: Tags) -> bytes:
    """The text chunks of an AIFF file, in UTF-8."""
    chunks = b""
    for name, text in tags.fields().items():
        if name in _AIFF:
            data = text.encode("utf-8", "replace")
            chunks += _AIFF[name] + struct.pack(">I", len(data)) + data + b"\0" * (len(data) % 2)
    return chunks


def as_id3(tags: Tags) -> bytes:
    """An ID3v2.4 tag, in UTF-8, to stand before the frames of an MP3 file."""
    frames = b""
    for name, text in tags.fields().items():
        head = b"eng\0" if name == "comment" else b""  # its language and an empty description
        data = _UTF_8 + head + text.encode("utf-8", "replace")
        frames += _FRAMES[name] + _syncsafe(len(data)) + b"\0\0" + data
    return b"ID3\x04\0\0" + _syncsafe(len(frames)) + frames if frames else b""


def _syncsafe(number: int) -> bytes:
    """Four bytes of seven bits each."""
    return bytes(number >> shift & 0x7F for shift in (21, 14, 7, 0))


class OggPages:
    """Gives all pages of an Ogg stream one serial number: libsndfile draws another in each run.

    Pages are as in RFC 3533, section 6.
    """

    def __init__(self) -> None:
        self._rest = bytearray()

    def push(self, data: bytes) -> bytes:
        """Take bytes of the stream, and return the pages that are whole."""
        self._rest += data
        pages = bytearray()
        while len(self._rest) >= 27 and len(self._rest) >= 27 + self._rest[26]:
            segments = self._rest[27 : 27 + self._rest[26]]
            size = 27 + len(segments) + sum(segments)
            if len(self._rest) < size:
                break
            page = self._rest[:size]
            del self._rest[:size]
            struct.pack_into("<I", page, 14, _SERIAL)
            struct.pack_into("<I", page, 22, 0)
            struct.pack_into("<I", page, 22, _checksum(page))
            pages += page
        return bytes(pages)


def _checksum(page: bytes | bytearray) -> int:
    """The CRC of an Ogg page: that of zlib with all bits reversed, and without its inversions."""
    crc = zlib.crc32(bytes(page).translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{crc:032b}"[::-1], 2)
