"""The level of sound: a gain, and a limiter that keeps peaks below full scale."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from spectro_render.constants import SAMPLE_RATE

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Samples = npt.NDArray[np.float32]  # (channels, S), or (S,) for one channel

DEFAULT_GAIN = 12.0  # dB; the model is trained on quiet sound, about -33 dBFS RMS
CEILING = 0.98  # of full scale: room for what a lossy encoder or a resampler adds to a peak
LOOK_AHEAD = 480  # samples at 16 kHz, 30 ms: longer than half a period of the lowest piano note


def safe_factor(peak: float) -> float:
    """The largest factor up to 1 by which a peak (1: full scale) is not above CEILING."""
    return min(1.0, CEILING / max(CEILING, peak))


class Limiter:
    """A gain in dB, then a limiter that holds every sample within the ceiling.

    The factor at a sample is the least that any neighbour within LOOK_AHEAD needs, smoothed by a
    Hann window of the same reach. It depends on 2 x LOOK_AHEAD to either side and nothing
    else, so sound in blocks is limited as if it were one block. `push` returns the samples that no
    later block can change, and `flush` the rest: together as many as were pushed.
    """

    def __init__(
        self, gain: float, ceiling: float = CEILING, sample_rate: int = SAMPLE_RATE
    ) -> None:
        """`gain` in dB; `ceiling` as a share of full scale; `sample_rate` in Hz."""
        self._reach = LOOK_AHEAD * sample_rate // SAMPLE_RATE  # samples
        self._factor = 10 ** (gain / 20)
        self._ceiling = ceiling
        self._pending: Samples | None = None  # the neighbours, then what is not returned yet

    def lift(self) -> None:
        """Limit nothing from now on, as the level is chosen later."""
        self._ceiling = math.inf

    def push(self, samples: Samples) -> Samples:
        """Add samples (channels, S) or (S,); returns as much of the limited sound as is ready."""
        import numpy as np

        if self._pending is None:  # silence lies before the beginning
            self._pending = np.zeros((*samples.shape[:-1], 2 * self._reach), np.float32)
        louder = samples * np.float32(self._factor)
        self._pending = np.concatenate([self._pending, louder], axis=-1)
        if self._pending.shape[-1] <= 4 * self._reach:
            return self._pending[..., :0]
        ready = self._limit(self._pending)
        self._pending = self._pending[..., -4 * self._reach :]
        return ready

    def flush(self) -> Samples:
        """Return the rest of the limited sound, and start anew."""
        import numpy as np

        if self._pending is None:
            return np.zeros(0, np.float32)
        silence = np.zeros((*self._pending.shape[:-1], 2 * self._reach), np.float32)
        padded = np.concatenate([self._pending, silence], axis=-1)
        self._pending = None
        return self._limit(padded)

    def _limit(self, samples: Samples) -> Samples:
        """Limit what has all its neighbours: (..., S + 4 reaches) -> (..., S)."""
        import numpy as np

        middle = samples[..., 2 * self._reach : -2 * self._reach]
        peaks = np.abs(samples).reshape(-1, samples.shape[-1]).max(axis=0).astype(np.float64)
        if peaks.max() <= self._ceiling:
            return middle
        window = np.hanning(2 * self._reach + 3)[1:-1]  # without its two zeros
        needed = self._ceiling / np.maximum(peaks, self._ceiling)
        least = _running_minimum(needed, window.size)
        limited: Samples = (middle * _smooth(least, window / window.sum())).astype(np.float32)
        return limited


def _smooth(
    factors: npt.NDArray[np.float64], window: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Factors of up to 1, convolved with a window whose sum is 1: (S,) -> (S - W + 1,).

    It is done by FFT in blocks, and not in those without a factor below 1. For stereo sound at
    48 kHz that takes a thirtieth of the time of a sum for each sample.
    """
    import numpy as np

    size = 1 << (8 * window.size).bit_length()
    step, count = size - window.size + 1, factors.size - window.size + 1
    spectrum, smooth = np.fft.rfft(window, size), np.ones(count)
    for begin in range(0, count, step):
        block = factors[begin : begin + size]
        if block.min() < 1:
            turning = np.fft.irfft(np.fft.rfft(block, size) * spectrum, size)
            smooth[begin : begin + step] = turning[window.size - 1 : block.size]
    return smooth


def _running_minimum(values: npt.NDArray[np.float64], width: int) -> npt.NDArray[np.float64]:
    """The least of each `width` neighbours, by doubling the reach: (S,) -> (S - width + 1,)."""
    import numpy as np

    reach = 1
    while 2 * reach <= width:
        values = np.minimum(values[:-reach], values[reach:])
        reach *= 2
    rest = width - reach
    return np.minimum(values[: values.size - rest], values[rest:])
