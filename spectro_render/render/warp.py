"""Bends pitch by warping time: notes are moved to a warped time, and their sound is read back.

A channel that sounds b(t) semitones above its keys is rendered in the time

    tau(t) = integral of 2^(b/12) from 0 to t

and its sound x becomes y(t) = x(tau(t)), which has the pitch of b and begins each note when it
should. Positions are found to a fraction of a sample and read with a windowed sinc.
"""

from dataclasses import replace
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from spectro_render.constants import SAMPLE_RATE
from spectro_render.midi.course import Curve
from spectro_render.midi.score import Score

Samples: TypeAlias = npt.NDArray[np.float32]
Numbers: TypeAlias = npt.NDArray[np.float64]

RAMP_SECONDS = 0.01  # in which a step of a controller is made, ending when it is set
VIBRATO_HZ = 8.176  # of SoundFonts, where they do not say otherwise (2.04, section 8.1.3)
MOST_SEMITONES = 24.0  # to each side: a damaged range of bends would ask for any number
LEAST_NOTE = 0.01  # seconds of warped time that a note lasts

TAPS, PHASES, BETA = 32, 512, 9.0  # of the sinc, at the full band; Kaiser's window
CUTOFFS_PER_OCTAVE = 24  # steps in which the band is narrowed for sound that is read faster
BLOCK = 8192  # samples that are read at once


def ramps(curve: Curve) -> tuple[Numbers, Numbers]:
    """A curve with lines of RAMP_SECONDS in place of its steps: times in seconds, and values."""
    times, values = [0.0], [curve.values[0]]
    for seconds, value in zip(curve.times, curve.values[1:], strict=True):
        if seconds <= 0:
            values[-1] = value
            continue
        begin = seconds - RAMP_SECONDS
        if begin > times[-1]:
            times.append(begin)
            values.append(values[-1])
        times.append(seconds)
        values.append(value)
    return np.array(times), np.array(values, np.float64)


class TimeWarp:
    """The warped time tau of a channel: how fast it passes is known at knots, with lines between.

    Memory grows with the number of bends, and by 33 knots for each second of vibrato.
    """

    def __init__(self, bend: Curve | None, vibrato: Curve | None, seconds: float) -> None:
        """`bend` and `vibrato` are those of a Course; `seconds`: until when there is vibrato."""
        nothing = Curve((), (0.0,))
        times, semitones = ramps(bend or nothing)
        depth_times, depths = ramps(vibrato or nothing)
        if depths.any():
            swings = np.arange(1, 2 * VIBRATO_HZ * seconds, 2) / (4 * VIBRATO_HZ)  # extremes
            is_deep = np.interp(swings, depth_times, depths) > 0
            knots = np.union1d(np.union1d(times, depth_times), swings[is_deep])
            semitones = np.interp(knots, times, semitones)
            semitones += np.interp(knots, depth_times, depths) * _triangle(VIBRATO_HZ * knots)
            times = knots
        self._times = times
        self._rates = 2.0 ** (np.clip(semitones, -MOST_SEMITONES, MOST_SEMITONES) / 12)
        steps = np.diff(times)
        means = (self._rates[1:] + self._rates[:-1]) / 2
        self._warped = np.concatenate([[0.0], np.cumsum(means * steps)])
        self._slopes = np.append(np.diff(self._rates) / np.maximum(steps, 1e-12), 0.0)

    def __call__(self, seconds: npt.ArrayLike) -> Numbers:
        """The warped times of times in seconds, from 0 on."""
        times = np.asarray(seconds, np.float64)
        index = np.maximum(np.searchsorted(self._times, times, side="right") - 1, 0)
        since = times - self._times[index]
        rate = self._rates[index] + self._slopes[index] * since / 2
        warped: Numbers = self._warped[index] + rate * since
        return warped

    def rate(self, seconds: npt.ArrayLike) -> Numbers:
        """How fast warped time passes at times in seconds."""
        return np.interp(np.asarray(seconds, np.float64), self._times, self._rates)

    def inverse(self, warped: float) -> float:
        """The time in seconds whose warped time is given."""
        index = max(int(np.searchsorted(self._warped, warped, side="right")) - 1, 0)
        rest, rate = warped - self._warped[index], self._rates[index]
        root = np.sqrt(max(rate**2 + 2 * self._slopes[index] * rest, 0.0))
        return float(self._times[index] + 2 * rest / (rate + root))

    def warp(self, score: Score) -> Score:
        """A score in warped time."""
        starts = self([note.start for note in score.notes])
        ends = np.maximum(self([note.end for note in score.notes]), starts + LEAST_NOTE)
        spans = zip(score.notes, starts.tolist(), ends.tolist(), strict=True)
        notes = tuple(replace(note, start=start, end=end) for note, start, end in spans)
        return replace(score, notes=notes, duration=float(self(score.duration)))


def _triangle(turns: Numbers) -> Numbers:
    """A triangle of height 1 that begins with 0 and rises."""
    wave: Numbers = 1 - np.abs((4 * turns + 3) % 4 - 2)
    return wave


class Unwarp:
    """Reads sound that comes in warped time back at its true time, piece by piece.

    What is read faster than it was written is freed before from what would be above the band. A
    sample depends on neither the size of the pieces nor, except for rounding, on where they end.
    """

    def __init__(self, warp: TimeWarp, sample_rate: int = SAMPLE_RATE) -> None:
        """`sample_rate` is that of the sound in Hz."""
        self._warp, self._sample_rate = warp, sample_rate
        self._pending: Samples = np.zeros(0, np.float32)  # warped sound from sample `_start` on
        self._start = 0
        self._given = 0  # samples

    def push(self, samples: Samples) -> Samples:
        """Add warped samples (S,); returns the samples that are final."""
        self._pending = np.concatenate([self._pending, samples])
        end = self._start + len(self._pending)
        widest = TAPS // 2 * 2 ** (MOST_SEMITONES / 12)
        return self._read_until(self._warp.inverse((end - widest) / self._sample_rate))

    def flush(self) -> Samples:
        """The remaining samples, up to the end of the warped sound."""
        end = (self._start + len(self._pending)) / self._sample_rate
        return self._read_until(self._warp.inverse(end))

    def _read_until(self, seconds: float) -> Samples:
        end = max(int(seconds * self._sample_rate), self._given)
        parts: list[Samples] = [np.zeros(0, np.float32)]
        while self._given < end:
            last = min(end, (self._given // BLOCK + 1) * BLOCK)
            times = np.arange(self._given, last) / self._sample_rate
            places = self._warp(times) * self._sample_rate
            parts.append(self._read(places, self._warp.rate(times)))
            self._given = last
        next_place = float(self._warp(self._given / self._sample_rate)) * self._sample_rate
        unused = int(next_place - TAPS * 2 ** (MOST_SEMITONES / 12)) - self._start
        if unused > 0:
            self._pending, self._start = self._pending[unused:], self._start + unused
        return np.concatenate(parts)

    def _read(self, places: Numbers, rates: Numbers) -> Samples:
        """The warped sound at places in samples, which pass at these rates."""
        steps = np.ceil(CUTOFFS_PER_OCTAVE * np.log2(np.maximum(rates, 1.0)) - 1e-6).astype(int)
        made: Samples = np.zeros(len(places), np.float32)
        first = int(places[0]) - self._start - TAPS * 4
        if not self._pending[max(first, 0) : int(places[-1]) - self._start + TAPS * 4].any():
            return made
        for step in np.unique(steps):
            is_here = steps == step
            made[is_here] = self._read_band(places[is_here] - self._start, int(step))
        return made

    def _read_band(self, places: Numbers, step: int) -> Samples:
        table = _sinc_table(step)
        taps = table.shape[1]
        whole = np.floor(places).astype(np.int64)
        phase = (places - whole) * PHASES
        index = phase.astype(np.int64)
        share = (phase - index).astype(np.float32)[:, None]
        weights = table[index] * (1 - share) + table[index + 1] * share
        first, last = int(whole[0]) - taps // 2 + 1, int(whole[-1]) + taps // 2 + 1
        sound = self._pending[max(first, 0) : max(last, 0)]
        before = max(-first, 0)
        sound = np.pad(sound, (before, max(last - first - before - len(sound), 0)))
        rows = np.lib.stride_tricks.sliding_window_view(sound, taps)[whole - whole[0]]
        return np.einsum("ij,ij->i", weights, rows)


@lru_cache(maxsize=64)
def _sinc_table(step: int) -> Samples:
    """The weights of the samples around a place, for each of its PHASES: (PHASES + 1, taps).

    The band is narrowed by 2 ** (step / CUTOFFS_PER_OCTAVE).
    """
    cutoff = 2.0 ** (-step / CUTOFFS_PER_OCTAVE)
    half = int(np.ceil(TAPS / 2 / cutoff))
    samples = np.arange(-half + 1, half + 1)
    distance = samples[None] - np.arange(PHASES + 1)[:, None] / PHASES
    window = np.i0(BETA * np.sqrt(np.maximum(0, 1 - (distance / half) ** 2))) / np.i0(BETA)
    weights = cutoff * np.sinc(cutoff * distance) * window
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)
