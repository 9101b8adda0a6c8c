"""Writes MIDI files byte by byte."""

import struct

END = b"\0\xff\x2f\0"


def smf(*tracks: bytes, division: int = 96, kind: int = 1, n_tracks: int | None = None) -> bytes:
    """A file of these track bodies; each gets its end-of-track event."""
    header = struct.pack(">4sIHHh", b"MThd", 6, kind, n_tracks or len(tracks), division)
    chunks = [b"MTrk" + struct.pack(">I", len(body + END)) + body + END for body in tracks]
    return header + b"".join(chunks)


def track(*events: tuple[int, str]) -> bytes:
    """A track of events: tick, and bytes in hexadecimal."""
    body, now = b"", 0
    for tick, data in sorted(events, key=lambda event: event[0]):
        step = tick - now
        body += bytes([0x80 | step >> 14, 0x80 | step >> 7 & 0x7F, step & 0x7F]) + bytes.fromhex(
            data
        )
        now = tick
    return body
