"""Audio formats: the sample rates and bit depths that each can hold, and their encoders."""

from __future__ import annotations

import _thread
import os
import struct
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from spectro_render.audio.tags import OggPages, Tags, as_aiff, as_id3, as_info
from spectro_render.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import numpy.typing as npt

    from spectro_render.audio.destination import Destination

    Frames = npt.NDArray[np.float32]  # (S, channels) in [-1, 1]

BIT_DEPTHS: dict[str, tuple[str, ...]] = {  # that each format can hold; the first is the default
    "wav": ("16", "24", "float"),
    "flac": ("16", "24"),
    "aiff": ("16", "24", "float"),
    "ogg": (),  # Vorbis, Opus and MP3 have no bit depth
    "opus": (),
    "mp3": (),
    "raw": ("16", "24", "float"),  # bare little-endian samples
}
FORMATS = tuple(BIT_DEPTHS)
MIN_RATE, MAX_RATE = 8000, 192_000  # Hz
MAX_FRAMES = 1 << 16  # that an encoder gets at once: libvorbis puts all of them on the stack
LOSSY = ("ogg", "opus", "mp3")  # that have a quality, 0 to MAX_QUALITY
MAX_QUALITY = 10.0
OPUS_RATES = (8000, 12000, 16000, 24000, 48000)  # Hz (RFC 6716)
MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)  # Hz: MPEG-1, 2, 2.5

_DITHER_SEED = 16
_RATES = {"mp3": MP3_RATES, "opus": OPUS_RATES}
SUFFIXES = {".aif": "aiff"} | {f".{name}": name for name in FORMATS}
ELSEWHERE = (".m4a", ".aac", ".mp4", ".wma")  # what FFmpeg writes
_SUBTYPES = {"ogg": "VORBIS", "opus": "OPUS", "mp3": "MPEG_LAYER_III"}  # libsndfile's names
_CONTAINERS = {"opus": "OGG"}
# The size of the samples, in bytes, in a WAV header that cannot be completed at the end. SoX takes
# exactly this number to mean that samples go on until the stream ends, and FFmpeg and libsndfile
# stop at its end as well. With 0xFFFFFFFF the first two warn that the file is broken. A program
# that takes the number literally stops after 18 hours at 16 kHz.
_UNKNOWN_LENGTH = 0x7FFFF000
_MAX_LENGTH = 0xFFFFFFFF  # the most that 32 bits express; longer sound goes on to the file's end


def format_of(path: str | os.PathLike[str]) -> str:
    """The format that the suffix of `path` names. Raises OptionError if it names none."""
    suffix = Path(path).suffix.lower()
    if suffix in SUFFIXES:
        return SUFFIXES[suffix]
    name = os.fspath(path)
    if suffix in ELSEWHERE:
        raise OptionError(
            f"{name}: {suffix} files are not written here", f"use -o - | ffmpeg -i - {name}"
        )
    what = "without a suffix the audio format is unknown"
    if suffix:
        what = f"unknown audio suffix {suffix}"
    known = ", ".join(f".{name}" for name in FORMATS)
    raise OptionError(f"{name}: {what}", f"use one of {known}")


def check_format(
    format: str, bit_depth: str | None, sample_rate: int, quality: float | None = None
) -> None:
    """Raise OptionError unless `format` exists and can hold this bit depth and rate (Hz).

    `quality` is from 0 (small files) to MAX_QUALITY, for formats that are LOSSY.
    """
    if format not in FORMATS:
        raise OptionError(f"unknown format {format!r}", f"use one of {', '.join(FORMATS)}")
    depths = BIT_DEPTHS[format]
    if bit_depth is not None and bit_depth not in depths:
        hint = f"use one of {', '.join(depths)}" if depths else "leave the bit depth out"
        raise OptionError(f"{format} cannot hold a bit depth of {bit_depth}", hint)
    if not MIN_RATE <= sample_rate <= MAX_RATE:
        message = f"a sample rate of {sample_rate} Hz is not supported"
        raise OptionError(message, f"use {MIN_RATE} to {MAX_RATE}")
    if format == "flac" and sample_rate > 0xFFFF and sample_rate % 10:  # RFC 9639, section 9.1.2
        raise OptionError(
            f"flac cannot hold a sample rate of {sample_rate} Hz", "use a multiple of 10"
        )
    if sample_rate not in _RATES.get(format, (sample_rate,)):
        raise OptionError(
            f"{format} cannot hold a sample rate of {sample_rate} Hz",
            f"use one of {', '.join(map(str, _RATES[format]))}",
        )
    if quality is not None and format not in LOSSY:
        raise OptionError(
            f"{format} has no quality, as it loses nothing", f"use it for {', '.join(LOSSY)}"
        )
    if quality is not None and not 0 <= quality <= MAX_QUALITY:
        raise OptionError(f"a quality of {quality:g} is not supported", "use 0 to 10")


class Encoder(Protocol):
    """The interface of encoders, which take sound block by block and write bytes of a format."""

    def write(self, frames: Frames) -> None:
        """Append at most MAX_FRAMES frames (S, channels) in [-1, 1]."""

    def close(self) -> None:
        """Write what the format requires at the end of a file."""


def make_encoder(
    destination: Destination,
    format: str,
    depth: str,
    rate: int,
    channels: int,
    *,
    dither: bool = True,
    quality: float | None = None,
    length: int | None = None,
    tags: Tags | None = None,
) -> Encoder:
    """Make the encoder of a format; `depth` is ignored by formats without a bit depth.

    The sample rate `rate` is in Hz, `dither` is for a depth of 16 bits, `quality` is as in
    `check_format`, and `length` is the number of frames that will be written, if that is known.
    Raises RuntimeError where libsndfile cannot begin a file.
    """
    noise = Dither() if dither and depth == "16" else None
    if format == "raw":
        return _PcmEncoder(destination, depth, noise)
    tags = tags or Tags()
    if format in ("wav", "aiff"):
        make_header = {"wav": _wav_header, "aiff": _aiff_header}[format]
        width = 4 if depth == "float" else int(depth) // 8  # bytes a sample
        return _ChunkEncoder(
            destination,
            depth,
            noise,
            lambda size: make_header(depth, rate, channels, tags, data_size=size),
            None if length is None else length * channels * width,
            is_big_endian=format == "aiff",
        )
    return _SoundFileEncoder(destination, format, depth, rate, channels, noise, quality, tags)


class Dither:
    """Noise that makes the error of rounding to 16 bits independent of the sound.

    The sum of two even distributions of one step each (triangular, TPDF; Lipshitz, Wannamaker and
    Vanderkooy, "Quantization and Dither", 1992). It is the same in every file. Digital silence
    stays as it is.
    """

    def __init__(self) -> None:
        import numpy as np

        self._source = np.random.PCG64(_DITHER_SEED)

    def add_to(self, frames: Frames) -> Frames:
        """Add noise to the next frames (S, channels), which are still in [-1, 1]."""
        import numpy as np

        raw = self._source.random_raw((*frames.shape, 2))  # the same however sound is divided
        steps = ((raw[..., 0] >> 11).astype(np.float64) - (raw[..., 1] >> 11)) * 2.0**-53
        noisy = frames + np.where(frames == 0, 0.0, steps * 2.0**-15)
        return np.clip(noisy, -1.0, 1.0)


class _PcmEncoder:
    """Writes bare samples, little-endian ones by default."""

    def __init__(
        self,
        destination: Destination,
        depth: str,
        noise: Dither | None,
        *,
        is_big_endian: bool = False,
    ) -> None:
        self._destination = destination
        self._depth = depth
        self._noise = noise
        self._is_big_endian = is_big_endian

    def write(self, frames: Frames) -> None:
        self._destination.write(self._bytes(frames))

    def close(self) -> None:
        pass

    def _bytes(self, frames: Frames) -> bytes:
        frames = self._noise.add_to(frames) if self._noise else frames
        return _pcm_bytes(frames, self._depth, is_big_endian=self._is_big_endian)


class _ChunkEncoder(_PcmEncoder):
    """Writes a header and samples, as in WAV and AIFF.

    The header is written together with the first samples, as SoX needs more than a header from its
    first read. If the output can seek, the sizes in it are completed at the end.
    """

    def __init__(
        self,
        destination: Destination,
        depth: str,
        noise: Dither | None,
        make_header: Callable[[int | None], bytes],
        size: int | None,
        *,
        is_big_endian: bool,
    ) -> None:
        """`make_header` takes the number of bytes of all samples, or None; `size` is what is known.

        A stream has to get exactly `size` bytes.
        """
        super().__init__(destination, depth, noise, is_big_endian=is_big_endian)
        self._make_header = make_header
        self._start = destination.tell()
        self._header = make_header(size)  # what is still to be written of it
        self._data_start = self._start + len(self._header)

    def write(self, frames: Frames) -> None:
        if len(frames):
            header, self._header = self._header, b""
            self._destination.write(header + self._bytes(frames))

    def close(self) -> None:
        if self._header:
            self._destination.write(self._header)
        size = self._destination.tell() - self._data_start
        if size % 2:
            self._destination.write(b"\0")  # chunks end at even addresses
        if self._destination.seekable():
            end = self._destination.tell()
            self._destination.seek(self._start)
            self._destination.write(self._make_header(size))
            self._destination.seek(end)


class _SoundFileEncoder:
    """Writes FLAC, Vorbis, Opus and MP3 with libsndfile.

    libsndfile passes its bytes to Python functions, and an exception in one of them would be lost.
    So these only put the bytes into memory, and the calls are made where no signal is handled.
    """

    def __init__(
        self,
        destination: Destination,
        format: str,
        depth: str,
        rate: int,
        channels: int,
        noise: Dither | None,
        quality: float | None,
        tags: Tags,
    ) -> None:
        import soundfile

        self._destination = destination
        if format == "mp3":  # libsndfile's would not be in Unicode
            destination.write(as_id3(tags))
        self._start = destination.tell()
        self._pages = OggPages() if format in ("ogg", "opus") else None
        self._bits = int(depth) if format == "flac" else None
        self._noise = noise
        self._encoded = _Encoded()
        # libsndfile calls the least quality a compression of 1, which it refuses for MP3.
        compression = None if quality is None else min(1 - quality / MAX_QUALITY, 0.99)

        def begin() -> None:
            self._file = soundfile.SoundFile(
                self._encoded,
                "w",
                rate,
                channels,
                _SUBTYPES.get(format, f"PCM_{depth}"),
                format=_CONTAINERS.get(format, format.upper()),
                compression_level=compression,
            )
            for name, text in tags.fields().items() if format != "mp3" else ():
                setattr(self._file, name, text)

        self._call(begin)

    def write(self, frames: Frames) -> None:
        frames = self._noise.add_to(frames) if self._noise else frames

        def write() -> None:
            if self._bits is None:
                self._file.write(frames)
            else:  # our integers, in the upper bits of 32: FLAC holds the same samples as WAV
                self._file.write(_quantise(frames, self._bits) << (32 - self._bits))
            self._file.flush()

        self._call(write)

    def close(self) -> None:
        self._call(self._file.close)

    def _call(self, call: Callable[[], None]) -> None:
        """Call libsndfile, then write what it has encoded."""
        _call_without_signals(call)
        for position, data in self._encoded.take():
            if self._pages is not None:  # it never goes back
                self._destination.write(self._pages.push(data))
                continue
            if self._destination.tell() != self._start + position:
                self._destination.seek(self._start + position)
            self._destination.write(data)


class _Encoded:
    """A file in memory that libsndfile writes to; the bytes are taken out after each call."""

    def __init__(self) -> None:
        self._blocks: list[tuple[int, bytes]] = []  # position and bytes, in the order of writing
        self._position = self._end = 0

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._end}[whence]
        self._position = origin + offset
        return self._position

    def write(self, data: bytes) -> int:
        self._blocks.append((self._position, data))
        self._position += len(data)
        self._end = max(self._end, self._position)
        return len(data)

    def take(self) -> list[tuple[int, bytes]]:
        """The blocks written since the last call, each with its position."""
        blocks, self._blocks = self._blocks, []
        return blocks


def _call_without_signals(call: Callable[[], None]) -> None:
    """Make a short call in a thread in which Python handles no signals; raises what it raises.

    Python runs handlers of signals in the main thread only. So calls from there are made in a
    thread of their own, while the main thread waits and can be interrupted. `threading` is not
    used, as its locks are written in Python and can be left in disorder by an interrupt.
    """
    if threading.current_thread() is not threading.main_thread():
        call()
        return
    results: list[BaseException | None] = []
    running = _thread.allocate_lock()
    running.acquire()

    def run() -> None:
        try:
            call()
            results.append(None)
        except BaseException as error:
            results.append(error)
        finally:
            running.release()

    _thread.start_new_thread(run, ())
    try:
        running.acquire()
    except BaseException:
        if not results:
            running.acquire()  # Python must not end before the thread
        raise
    if results[0] is not None:
        raise results[0]


def _quantise(frames: Frames, bits: int) -> npt.NDArray[np.int32]:
    """Round samples in [-1, 1] to the nearest integers of `bits` bits; +1 becomes the largest."""
    import numpy as np

    scale = 2.0 ** (bits - 1)
    return np.clip(np.rint(frames.astype(np.float64) * scale), -scale, scale - 1).astype(np.int32)


def _pcm_bytes(frames: Frames, depth: str, *, is_big_endian: bool = False) -> bytes:
    """Convert frames to samples of depth "16", "24" or "float" (32 bits)."""
    order = ">" if is_big_endian else "<"
    if depth == "float":
        return frames.astype(f"{order}f4").tobytes()
    if depth == "16":
        return _quantise(frames, 16).astype(f"{order}i2").tobytes()
    four_bytes = _quantise(frames, 24).astype(f"{order}i4").reshape(-1, 1).view("u1")  # (S, 4)
    return (four_bytes[:, 1:] if is_big_endian else four_bytes[:, :3]).tobytes()


def _wav_header(
    depth: str, rate: int, channels: int, tags: Tags, *, data_size: int | None
) -> bytes:
    """Make the header of a WAV file (IBM and Microsoft, Multimedia Programming, 1991).

    `rate` is in Hz, `data_size` in bytes; it is None if it is not known yet.
    """
    width = 4 if depth == "float" else int(depth) // 8  # bytes a sample
    frame = width * channels
    kind = 3 if depth == "float" else 1
    layout = struct.pack("<HHIIHH", kind, channels, rate, rate * frame, frame, 8 * width)
    if depth == "float":  # formats other than PCM state the size of an extension: none here
        layout += struct.pack("<H", 0)
    chunks = b"WAVEfmt " + struct.pack("<I", len(layout)) + layout + as_info(tags) + b"data"
    size = _UNKNOWN_LENGTH if data_size is None else min(data_size, _MAX_LENGTH)
    riff_size = min(len(chunks) + 4 + size + size % 2, _MAX_LENGTH)
    return b"RIFF" + struct.pack("<I", riff_size) + chunks + struct.pack("<I", size)


def _aiff_header(
    depth: str, rate: int, channels: int, tags: Tags, *, data_size: int | None
) -> bytes:
    """Make the header of an AIFF file, or of an AIFF-C file for floats (Apple, 1989 and 1991).

    `rate` is in Hz, `data_size` in bytes; it is None if it is not known yet.
    """
    width = 4 if depth == "float" else int(depth) // 8  # bytes a sample
    size = _UNKNOWN_LENGTH if data_size is None else min(data_size, _MAX_LENGTH - 8)
    bits = rate.bit_length()
    extended = struct.pack(">HQ", 16383 + bits - 1, rate << (64 - bits))  # a float of 80 bits
    common = struct.pack(">HIH", channels, size // (width * channels), 8 * width) + extended
    kind = b"AIFF"
    if depth == "float":
        kind = b"AIFCFVER" + struct.pack(">II", 4, 0xA2805140)  # the only version
        common += b"fl32\0\0"  # its compression, and an empty name of that
    chunks = kind + b"COMM" + struct.pack(">I", len(common)) + common + as_aiff(tags)
    chunks += b"SSND" + struct.pack(">III", size + 8, 0, 0)
    return b"FORM" + struct.pack(">I", min(len(chunks) + size + size % 2, _MAX_LENGTH)) + chunks
