"""The drawings of the page: a piano roll in SVG, and a spectrogram in PNG."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from html import escape

import numpy as np

from spectro_render.midi.score import Score
from spectro_render.page.rendering import Part, pitch_range
from spectro_render.page.sound import Floats

FAINTEST, LOUDEST = -8.0, 4.0  # natural log-mel: the first and the last colour
_COLOURS = 64  # of the PNG
# Nine colours of matplotlib's map magma (Smith and van der Walt, CC0), evenly spaced.
_MAGMA = (
    (0, 0, 4),
    (28, 16, 68),
    (79, 18, 123),
    (129, 37, 129),
    (181, 54, 122),
    (229, 80, 100),
    (251, 135, 97),
    (254, 194, 135),
    (252, 253, 191),
)


def piano_roll(score: Score, parts: Sequence[Part], seconds: float) -> str:
    """Draw notes as an SVG, which may be stretched: a unit is a second wide and a semitone high.

    Each part is one path of the class `part`, with its name as title.
    """
    low, high = pitch_range(score)
    lines = "".join(f"M0 {high - pitch}h{seconds:.2f}" for pitch in range(low + 12, high, 12))
    paths = [f'<path class="octaves" d="{lines}"/>'] if lines else []
    for part in parts:
        notes = "".join(
            f"M{note.start:.2f} {high - note.pitch - 0.5:g}h{max(0.03, note.end - note.start):.2f}"
            for note in part.notes
        )
        title = f"<title>{escape(part.name)}</title>"
        paths.append(f'<path class="part" style="--hue:{part.hue}" d="{notes}">{title}</path>')
    names = escape(", ".join(part.name for part in parts) or "no notes")
    return (
        f'<svg class="roll" role="img" aria-label="Piano roll: {names}" preserveAspectRatio="none"'
        f' viewBox="0 0 {max(seconds, 0.01):.2f} {high - low}">{"".join(paths)}</svg>'
    )


def spectrogram(mel: Floats) -> bytes:
    """Draw a natural log-mel (T, 128) as a PNG of T x 128 pixels, with low bands at the bottom."""
    share = np.clip((mel - FAINTEST) / (LOUDEST - FAINTEST), 0, 1)
    rows = np.round(share.T[::-1] * (_COLOURS - 1)).astype(np.uint8)
    places = np.linspace(0, len(_MAGMA) - 1, _COLOURS)
    channels = np.array(_MAGMA).T
    own = np.arange(len(_MAGMA))
    palette = np.stack([np.interp(places, own, channel) for channel in channels], axis=1)
    height, width = rows.shape
    lines = np.concatenate([np.zeros((height, 1), np.uint8), rows], axis=1)  # 0: no filter
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        (
            _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
            _chunk(b"PLTE", np.round(palette).astype(np.uint8).tobytes()),
            _chunk(b"IDAT", zlib.compress(lines.tobytes(), 9)),
            _chunk(b"IEND", b""),
        )
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG file: length, kind, data and checksum."""
    checksum = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)
