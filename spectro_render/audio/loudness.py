"""How loud sound is: integrated loudness and true peak, by ITU-R BS.1770 and EBU R 128."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Samples = npt.NDArray[np.float32]  # (channels, S)

LEAST_SECONDS = 0.4  # of sound, under which loudness is not defined
_RATE = 48_000  # Hz, for which the standard gives its filters (BS.1770-5, annex 1)
_SHELF = (
    (1.53512485958697, -2.69169618940638, 1.19839281085285),
    (1.0, -1.69065929318241, 0.73248077421585),
)
_HIGH_PASS = ((1.0, -2.0, 1.0), (1.0, -1.99004745483398, 0.99007225036621))
_STEP = _RATE // 10  # samples; a block is four steps, so that blocks overlap by three quarters
_STEPS = 4
_OFFSET = -0.691  # LUFS
_QUIETEST = -70.0  # LUFS: blocks below do not count
_GATE = -10.0  # LU below the mean of the others: nor do blocks below this
OVERSAMPLING = 4  # for the true peak (annex 2)


class LoudnessMeter:
    """Measures sound block by block; memory grows by 80 bytes a second."""

    def __init__(self, sample_rate: int, channels: int) -> None:
        """`sample_rate` in Hz; one or two channels."""
        import numpy as np
        import soxr

        self._channels = channels
        self._to_filter: Any = soxr.ResampleStream(sample_rate, _RATE, channels, dtype="float32")
        self._to_peaks: Any = soxr.ResampleStream(
            sample_rate, OVERSAMPLING * sample_rate, channels, dtype="float32"
        )
        self._states = [np.zeros((2, channels)) for _ in range(2)]  # of the two filters
        self._rest = np.zeros((0, channels))  # filtered, less than a step
        self._powers: list[float] = []  # of each step, summed over the channels
        self._peak = 0.0

    def push(self, samples: Samples, *, last: bool = False) -> None:
        """Measure the next samples (channels, S); the last ones end the sound."""
        import numpy as np
        from scipy.signal import lfilter

        frames = np.ascontiguousarray(samples.T, dtype=np.float32)
        if frames.size:
            self._peak = max(self._peak, float(np.abs(frames).max()))
        between = self._to_peaks.resample_chunk(frames, last=last)
        if between.size:
            self._peak = max(self._peak, float(np.abs(between).max()))
        sound = self._to_filter.resample_chunk(frames, last=last).reshape(-1, self._channels)
        filtered = sound.astype(np.float64)
        # Of no samples, SciPy's filter returns a state that is not initialised.
        for number, (above, below) in enumerate((_SHELF, _HIGH_PASS) if len(sound) else ()):
            filtered, self._states[number] = lfilter(
                above, below, filtered, axis=0, zi=self._states[number]
            )
        if last:  # Python may end before these are collected, and nanobind complains of that
            self._to_filter = self._to_peaks = None
        waiting = np.concatenate([self._rest, filtered])
        whole = len(waiting) // _STEP * _STEP
        steps = waiting[:whole].reshape(-1, _STEP, self._channels)
        self._powers += np.square(steps).mean(axis=1).sum(axis=1).tolist()
        self._rest = waiting[whole:]

    @property
    def true_peak(self) -> float:
        """The highest peak, also between samples, in dBTP; minus infinity for silence."""
        return 20 * math.log10(self._peak) if self._peak else -math.inf

    @property
    def blocks(self) -> list[float]:
        """The power of each block of 0.4 s."""
        powers = self._powers
        return [
            sum(powers[begin : begin + _STEPS]) / _STEPS
            for begin in range(len(powers) - _STEPS + 1)
        ]

    @property
    def integrated(self) -> float | None:
        """The integrated loudness in LUFS; see `integrated`."""
        return integrated(self.blocks)


def integrated(blocks: Iterable[float]) -> float | None:
    """The loudness in LUFS of all sound that has these blocks.

    None where it is not defined: for less than 0.4 s of sound, and where all is below -70 LUFS.
    """
    heard = [power for power in blocks if _loudness(power) > _QUIETEST]
    if not heard:
        return None
    gate = _loudness(sum(heard) / len(heard)) + _GATE
    loud = [power for power in heard if _loudness(power) > gate]
    return _loudness(sum(loud) / len(loud))


def _loudness(power: float) -> float:
    return _OFFSET + 10 * math.log10(power) if power > 0 else -math.inf
