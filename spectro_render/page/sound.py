"""Sound that is drawn and embedded: read block by block, from a file or from memory."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from spectro_render.audio.audio import Audio, AudioWriter
from spectro_render.audio.encoders import MP3_RATES
from spectro_render.constants import HOP_LENGTH, N_MELS, SAMPLE_RATE, WIN_LENGTH
from spectro_render.errors import OutputError
from spectro_render.mel import log_mel

Floats: TypeAlias = npt.NDArray[np.float32]

BLOCK_SECONDS = 20  # of sound in memory at once
MOST_FLAC = 10_000_000  # samples that are embedded as FLAC; longer sound is embedded as MP3
_MP3_RATE = 44_100  # Hz, for sound at a rate that MP3 cannot hold


@dataclass(frozen=True, eq=False)
class Sound:
    """Sound that can be read again and again."""

    sample_rate: int  # Hz
    channels: int
    frames: int  # samples of each channel
    blocks: Callable[[], Iterator[Floats]]  # in order, (S, channels) each

    @property
    def seconds(self) -> float:
        """The length in seconds."""
        return self.frames / self.sample_rate


def sound_of_file(path: Path, raw: tuple[int, int] | None = None) -> Sound:
    """The sound of an audio file.

    `raw` is for a file of bare float32 samples: its sample rate in Hz and number of channels.
    Raises OutputError where it cannot be read.
    """
    import soundfile

    options: dict[str, Any] = {}
    if raw is not None:
        options = {"samplerate": raw[0], "channels": raw[1], "format": "RAW", "subtype": "FLOAT"}

    def blocks() -> Iterator[Floats]:
        with soundfile.SoundFile(path, **options) as file:
            size = BLOCK_SECONDS * file.samplerate
            while len(block := file.read(size, dtype="float32", always_2d=True)):
                yield block

    try:
        with soundfile.SoundFile(path, **options) as file:
            return Sound(file.samplerate, file.channels, file.frames, blocks)
    except (OSError, RuntimeError) as error:
        raise OutputError(f"{path}: cannot be read again to draw it: {error}") from error


def sound_of_audio(audio: Audio) -> Sound:
    """The sound of samples in memory."""
    samples = audio.samples[None] if audio.samples.ndim == 1 else audio.samples
    return Sound(audio.sample_rate, len(samples), samples.shape[1], lambda: iter([samples.T]))


@dataclass(frozen=True, eq=False)
class Shape:
    """What is drawn of a sound."""

    lows: Floats  # (B,) the lowest sample of each of B parts of equal length, of any channel
    highs: Floats  # (B,) the highest one
    mel: Floats  # (C, 128) natural log-mel of C columns of equal length, the louder frames of each
    peak: float  # dBFS of the loudest sample
    rms: float  # dBFS, over the whole sound


def measure(sound: Sound, *, most_bins: int, most_columns: int) -> Shape:
    """Read a sound once, and find its envelope and its log-mel, in at most so many parts."""
    bin_frames = max(1, -(-sound.frames // most_bins))
    envelope = _Pool(bin_frames)
    mel_frames = -(-_at_model_rate(sound.frames, sound.sample_rate) // HOP_LENGTH)
    column_frames = max(1, -(-mel_frames // most_columns))
    columns = _Pool(column_frames)
    square = 0.0
    mels = _Mels(sound.sample_rate)
    for block in sound.blocks():
        both = np.stack([block.max(axis=1), -block.min(axis=1)], axis=1)
        envelope.add(both)
        square += float(np.square(block, dtype=np.float64).sum())
        columns.add(mels.push(block.mean(axis=1)))
    columns.add(mels.flush())
    highs, lows = envelope.maxima(2).T
    peak = max(float(np.abs(highs).max(initial=0)), float(np.abs(lows).max(initial=0)))
    rms = math.sqrt(square / max(1, sound.frames * sound.channels))
    return Shape(-lows, highs, columns.maxima(N_MELS), _decibels(peak), _decibels(rms))


def embed(sound: Sound) -> tuple[str, bytes]:
    """Encode a sound for a web page: returns the media type and the bytes.

    Sound of up to MOST_FLAC samples (10 minutes at 16 kHz, mono) keeps every bit of 16; longer
    sound is MP3, which takes about a quarter of the place.
    """
    format, rate = "flac", sound.sample_rate
    if sound.frames * sound.channels > MOST_FLAC:
        format, rate = "mp3", rate if rate in MP3_RATES else _MP3_RATE
    buffer = io.BytesIO()
    with AudioWriter(
        buffer,
        sample_rate=sound.sample_rate,
        out_rate=rate,
        format=format,
        channels=sound.channels,
    ) as writer:
        for block in sound.blocks():
            writer.write(block.T)
    return {"flac": "audio/flac", "mp3": "audio/mpeg"}[format], buffer.getvalue()


class _Pool:
    """Keeps the maximum of each `size` rows in turn."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._rest: Floats | None = None
        self._done: list[Floats] = []

    def add(self, rows: Floats) -> None:
        """Append rows (N, width)."""
        if self._rest is not None:
            rows = np.concatenate([self._rest, rows])
        whole = len(rows) // self._size * self._size
        if whole:
            self._done.append(rows[:whole].reshape(-1, self._size, rows.shape[1]).max(axis=1))
        self._rest = rows[whole:]

    def maxima(self, width: int) -> Floats:
        """The maxima (M, width), with that of the last rows, which may be fewer."""
        rest: Sequence[Floats] = ()
        if self._rest is not None and len(self._rest):
            rest = [self._rest.max(axis=0)[None]]
        return np.concatenate([*self._done, *rest, np.zeros((0, width), np.float32)])


class _Mels:
    """Makes the log-mel of mono sound at any rate, block by block."""

    def __init__(self, sample_rate: int) -> None:
        self._resampler = None
        if sample_rate != SAMPLE_RATE:
            import soxr

            self._resampler = soxr.ResampleStream(sample_rate, SAMPLE_RATE, 1, dtype="float32")
        self._rest: Floats = np.zeros(0, np.float32)

    def push(self, samples: Floats, last: bool = False) -> Floats:
        """The frames (T, 128) that no later sample changes, after more samples (S,)."""
        if self._resampler is not None:
            samples = self._resampler.resample_chunk(samples, last=last)
        self._rest = np.concatenate([self._rest, samples])
        frames = max(0, (len(self._rest) - WIN_LENGTH) // HOP_LENGTH + 1)
        if last:
            frames = -(-len(self._rest) // HOP_LENGTH)
        if not frames:
            return np.zeros((0, N_MELS), np.float32)
        mel: Floats = log_mel(torch.from_numpy(self._rest))[:frames].numpy()
        self._rest = self._rest[frames * HOP_LENGTH :]
        return mel

    def flush(self) -> Floats:
        """The last frames (T, 128)."""
        return self.push(np.zeros(0, np.float32), last=True)


def _at_model_rate(frames: int, sample_rate: int) -> int:
    return -(-frames * SAMPLE_RATE // sample_rate)


def _decibels(amplitude: float) -> float:
    return 20 * math.log10(amplitude) if amplitude > 0 else -math.inf
