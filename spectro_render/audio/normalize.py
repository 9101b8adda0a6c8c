"""Sound at a chosen level: it is kept in a temporary file until its level is known."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from spectro_render.audio.audio import Audio, AudioWriter, check_finite
from spectro_render.audio.limiter import CEILING, Limiter
from spectro_render.audio.loudness import LoudnessMeter, integrated
from spectro_render.errors import OptionError, output_error
from spectro_render.options import Level

if TYPE_CHECKING:
    from types import TracebackType

    import numpy as np
    import numpy.typing as npt

    Samples = npt.NDArray[np.float32]  # (channels, S)

HIGHEST_PEAK = -1.0  # dBTP, of sound that is normalized to a loudness (EBU R 128)
DEFAULTS = {"peak": HIGHEST_PEAK, "lufs": -23.0, "album": -23.0}  # dBTP and LUFS
RANGES = {"peak": (-60.0, 0.0), "lufs": (-70.0, -5.0), "album": (-70.0, -5.0)}
MOST_OF_ALBUM = 400  # songs, each of which keeps two files open
_BLOCK = 1 << 16  # samples that are read at once
_EXACT = 0.1  # LU, dB
_MOST_PASSES = 8
_FIRST_SLOPE = 0.7  # LU for a dB of gain, before it is known: the limiter takes back a part
_LEAST_SLOPE = 0.15  # of those that were measured
_MOST_LIMITED = 12.0  # dB, beyond which more gain makes sound only coarser


@dataclass(frozen=True)
class Result:
    """What was done to a sound."""

    gain: float  # dB
    loudness: float | None  # LUFS, of the result; None: not defined
    true_peak: float  # dBTP, of the result
    remark: str = ""  # why the level is not the one that was asked for


def in_words(result: Result) -> str:
    """What was done to a sound: `gain -3.2 dB, -16.0 LUFS, true peak -1.4 dBTP`."""
    loudness = "" if result.loudness is None else f", {result.loudness:.1f} LUFS"
    peak = f", true peak {result.true_peak:.1f} dBTP" if result.true_peak > -math.inf else ""
    remark = f" ({result.remark})" if result.remark else ""
    return f"gain {result.gain:+.1f} dB{loudness}{peak}{remark}"


def level_facts(result: Result) -> dict[str, float | str | None]:
    """The same as values of JSON, which has no infinity: None where a level is not defined."""
    loudness, peak = result.loudness, result.true_peak
    return {
        "gain": round(result.gain, 3),
        "loudness": None if loudness is None else round(loudness, 2),
        "true_peak": round(peak, 2) if peak > -math.inf else None,
        "remark": result.remark,
    }


def parse_level(text: str) -> Level | None:
    """Read `none`, `peak`, `lufs` or `album`, each with a target as in `lufs:-16`.

    Raises OptionError for others.
    """
    kind, colon, number = text.partition(":")
    if text == "none":
        return None
    if kind not in DEFAULTS:
        raise OptionError(
            f"{text!r} is no level", "give none, peak, lufs or album, as in peak:-1 and lufs:-16"
        )
    try:
        target = float(number) if colon else DEFAULTS[kind]
    except ValueError:
        target = math.nan
    least, most = RANGES[kind]
    if not least <= target <= most:
        unit = "dBTP" if kind == "peak" else "LUFS"
        raise OptionError(
            f"{number!r} is no target of {kind}", f"give {least:g} to {most:g} {unit}"
        )
    return Level(kind, target)


class NormalizingWriter:
    """Keeps sound in a temporary file, and passes it to a writer at the level that was asked for.

    The temporary file has no name, so that nothing is left of it whatever happens. With the level
    `album`, `close` only ends the sound: `finish_album` then writes all sounds of an album.
    """

    def __init__(
        self,
        writer: AudioWriter,
        level: Level,
        *,
        sample_rate: int,
        folder: str | os.PathLike[str] | None = None,
    ) -> None:
        """`sample_rate` in Hz; the temporary file is made in `folder`, by default the system's."""
        self._writer, self._level, self._rate = writer, level, sample_rate
        self._meter: LoudnessMeter | None = None
        self._channels = 0  # not known before the first block
        self.result: Result | None = None  # when all is written
        self._name = f"temporary file in {folder or tempfile.gettempdir()}"
        try:
            self._spool: BinaryIO = tempfile.TemporaryFile(dir=folder, prefix=".spectro-render-")
        except OSError as error:
            raise output_error(self._name, error) from error

    def __enter__(self) -> NormalizingWriter:
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

    @property
    def meter(self) -> LoudnessMeter:
        """The measurements of the sound as it came."""
        if self._meter is None:
            self._channels = self._channels or 1
            self._meter = LoudnessMeter(self._rate, self._channels)
        return self._meter

    def write(self, samples: Samples) -> None:
        """Append samples (channels, S) or (S,), float32, which may exceed [-1, 1]."""
        check_finite(samples)
        samples = samples[None] if samples.ndim == 1 else samples
        self._channels = self._channels or len(samples)
        self.meter.push(samples)
        try:
            self._spool.write(samples.T.astype("<f4").tobytes())
        except OSError as error:
            raise output_error(self._name, error) from error

    def close(self) -> None:
        """Write the sound at its level, and give the file its name."""
        import numpy as np

        self.meter.push(np.zeros((self._channels, 0), np.float32), last=True)
        if self._level.kind != "album":
            self._finish(*choose_gain(self._level, self.meter, self._blocks, self._rate))

    def finish_album(self, gain: float, remark: str) -> None:
        """Write the sound with the gain in dB that all of an album have."""
        self._finish(gain, math.inf, remark)

    def discard(self) -> None:
        """Remove what has been written, as the file will not be complete."""
        self._spool.close()
        self._meter = None
        self._writer.discard()

    def _finish(self, gain: float, ceiling: float, remark: str) -> None:
        import numpy as np

        after = LoudnessMeter(self._rate, self._channels)
        for block in limited(self._blocks(), gain, ceiling, self._rate):
            after.push(block)
            self._writer.write(block)
        after.push(np.zeros((self._channels, 0), np.float32), last=True)
        self.result = Result(gain, after.integrated, after.true_peak, remark)
        self._spool.close()
        self._writer.close()

    def _blocks(self) -> Iterator[Samples]:
        """The sound from its beginning, in blocks (channels, S)."""
        import numpy as np

        self._spool.seek(0)
        while data := self._spool.read(4 * _BLOCK * self._channels):
            yield np.frombuffer(data, "<f4").reshape(-1, self._channels).T


def limited(
    blocks: Iterator[Samples], gain: float, ceiling: float, sample_rate: int
) -> Iterator[Samples]:
    """Sound in blocks (channels, S) with a gain in dB and no sample above a ceiling (1: full)."""
    limiter = Limiter(gain, ceiling, sample_rate)
    for block in blocks:
        yield limiter.push(block)
    last = limiter.flush()
    if last.ndim > 1:
        yield last


def choose_gain(
    level: Level,
    measured: LoudnessMeter,
    blocks: Callable[[], Iterator[Samples]],
    sample_rate: int,
) -> tuple[float, float, str]:
    """The gain in dB and the ceiling (1: full scale) that give a sound its level.

    `blocks` gives the sound again. Where a loudness needs peaks above HIGHEST_PEAK, they are
    limited, and what that takes from the loudness is added to the gain. The third value says in
    words why the level is another; then the sound gets the gain and the limiter of a model's sound.
    """
    import numpy as np

    if measured.true_peak == -math.inf:
        return 0.0, CEILING, "the sound is silent"
    if level.kind == "peak":
        return level.target - measured.true_peak, math.inf, ""
    loudness = measured.integrated
    if loudness is None:
        return 0.0, CEILING, "it has no 0.4 s above -70 LUFS, so its loudness is not defined"
    gain = level.target - loudness
    most = gain + _MOST_LIMITED
    if measured.true_peak + gain <= HIGHEST_PEAK:
        return gain, math.inf, ""
    ceiling, slope = 10 ** (HIGHEST_PEAK / 20), _FIRST_SLOPE
    before: tuple[float, float] | None = None  # gain and loudness of the last pass
    for number in range(_MOST_PASSES):
        after: LoudnessMeter | None = None
        for block in limited(blocks(), gain, ceiling, sample_rate):
            after = after or LoudnessMeter(sample_rate, len(block))
            after.push(block)
        assert after is not None
        after.push(np.zeros((len(block), 0), np.float32), last=True)
        assert after.integrated is not None  # the sound was loud enough before
        missing, excess = level.target - after.integrated, after.true_peak - HIGHEST_PEAK
        if excess <= 0 and abs(missing) <= _EXACT:
            return gain, ceiling, ""
        if excess > 0:
            ceiling *= 10 ** (-(excess + _EXACT / 10) / 20)
        elif gain == most and missing > 0:
            break
        if before is not None and abs(gain - before[0]) > _EXACT:
            slope = (after.integrated - before[1]) / (gain - before[0])
            slope = min(max(slope, _LEAST_SLOPE), 1.0)
        if number < _MOST_PASSES - 2:  # then only the peaks are mended
            before = gain, after.integrated
            gain = min(gain + missing / slope, most)
        elif excess <= 0:
            break
    return gain, ceiling, "the peaks leave no room for more"


def normalize(audio: Audio, level: str) -> Audio:
    """Sound at a level such as `peak:-1` (dBTP) or `lufs:-16`, in memory.

    Sound that is silent, or too short or quiet to have a loudness, keeps its level. Raises
    OptionError for a level that is impossible.
    """
    import numpy as np

    chosen, samples = parse_level(level), np.atleast_2d(audio.samples)
    check_finite(samples)
    if chosen is None:
        return audio
    measured = LoudnessMeter(audio.sample_rate, len(samples))
    measured.push(samples, last=True)
    if chosen.kind == "album":
        chosen = Level("lufs", chosen.target)
    gain, ceiling, remark = choose_gain(
        chosen, measured, lambda: iter([samples]), audio.sample_rate
    )
    if remark and not gain:
        return audio
    parts = list(limited(iter([samples]), gain, ceiling, audio.sample_rate))
    return Audio(np.concatenate(parts, axis=-1).reshape(audio.samples.shape), audio.sample_rate)


def album_gain(level: Level, writers: Sequence[NormalizingWriter]) -> tuple[float, str]:
    """The gain in dB that all sounds of an album get, so that their balance stays.

    Their common loudness becomes the target, or as near to it as the highest peak allows; the
    second value says in words why it is another.
    """
    loudness = integrated(power for writer in writers for power in writer.meter.blocks)
    peak = max((writer.meter.true_peak for writer in writers), default=-math.inf)
    gain, remark = 0.0, "the album is silent"
    if loudness is not None:
        gain, remark = level.target - loudness, ""
    if peak + gain > HIGHEST_PEAK:
        gain, remark = HIGHEST_PEAK - peak, "the highest peak of the album leaves no room for more"
    return gain, remark
