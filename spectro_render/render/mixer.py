"""Mixes the buses of a song: a gain over time for each channel of sound, and their sum."""

from collections import deque
from collections.abc import Sequence
from math import pi, sqrt
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from spectro_render.constants import SAMPLE_RATE
from spectro_render.errors import OptionError
from spectro_render.midi.buses import Bus
from spectro_render.midi.course import CENTRE
from spectro_render.options import CHANNELS
from spectro_render.render.warp import ramps

Samples: TypeAlias = npt.NDArray[np.float32]
Numbers: TypeAlias = npt.NDArray[np.float64]


def count_channels(choice: str, song_buses: Sequence[Bus]) -> int:
    """The channels of a song's sound, 1 or 2: for 'mono', 'stereo', or 'auto' if the song pans.

    Raises OptionError for another choice.
    """
    if choice not in CHANNELS:
        raise OptionError(f"channels is {choice!r}", f"give one of {', '.join(CHANNELS)}")
    is_panned = any(bus.is_off_centre for bus in song_buses)
    return 2 if choice == "stereo" or (choice == "auto" and is_panned) else 1


def place(pan: npt.ArrayLike) -> Numbers:
    """The gains of left and right (2, ...) of pans from 0 to 127, at constant power.

    Left is sqrt(2) cos p, right sqrt(2) sin p, where p goes from 0 at pan 1 (and 0) to a quarter
    turn at 127 (RP-036). In the centre, 64, both are 1.
    """
    values = np.asarray(pan, np.float64)
    angle = np.clip((values - 1) / 126, 0, 1) * pi / 2
    gains = sqrt(2) * np.stack([np.cos(angle), np.sin(angle)])
    return np.where(values == CENTRE, 1.0, gains)


class BusGain:
    """The gain of one bus over time, for each channel of sound: its level, fades and pan."""

    def __init__(
        self, bus: Bus, channels: int, decibels: float, sample_rate: int = SAMPLE_RATE
    ) -> None:
        """`channels` is 1 or 2; in mono the gain is the mean of those of left and right.

        `decibels` are added throughout; `sample_rate` is that of the sound in Hz.
        """
        self._channels, self._sample_rate = channels, sample_rate
        self._factor = 10 ** (decibels / 20)
        self._pan = ramps(bus.pan)
        self._level = None if bus.level is None else ramps(bus.level)
        fades = bus.score.fades if bus.score.notes else ((0.0, 0.0),)  # rests are silent
        self._fades = np.array(fades, np.float64).reshape(-1, 2).T if fades else None

    def level(self, seconds: Numbers) -> Numbers:
        """The factor of amplitude that the level of its own makes at times in seconds."""
        return np.ones(len(seconds)) if self._level is None else np.interp(seconds, *self._level)

    def apply(self, samples: Samples, first: int) -> Samples:
        """Samples (S,) from number `first` of the song on, as they go into the mix: (C, S)."""
        seconds = (first + np.arange(len(samples))) / self._sample_rate
        if self._factor != 1:
            samples = samples * np.float32(self._factor)
        if self._fades is not None:
            samples = samples * np.interp(seconds, *self._fades).astype(np.float32)
        if self._level is not None:
            samples = samples * self.level(seconds).astype(np.float32)
        times, pans = self._pan
        if (pans == CENTRE).all():
            return np.broadcast_to(samples, (self._channels, len(samples)))
        is_still = (pans == pans[0]).all()
        gains = place(pans[:1] if is_still else np.interp(seconds, times, pans))
        if self._channels == 1:
            gains = gains.mean(0, keepdims=True)
        return samples * gains.astype(np.float32)


class Mixer:
    """Adds the sound of buses, which comes at a different pace from each.

    The buses of a part, such as a stem, are added to one sound, and the parts to the mix.
    """

    def __init__(self, gains: Sequence[BusGain], parts: Sequence[int], channels: int) -> None:
        """`parts` has the number of each bus's part, from 0 on; every number has a bus."""
        self._gains, self._parts = gains, parts
        self._channels = channels
        self._waiting: list[deque[Samples]] = [deque() for _ in gains]
        self._lengths = [0] * len(gains)  # of the samples that wait
        self._mixed = 0  # samples

    def push(self, pieces: Sequence[Samples]) -> Samples:
        """Add the next samples (S,) of each bus; returns those of all parts: (parts, C, S).

        Buses may give different numbers of samples; what some have not reached yet is kept.
        """
        for number, piece in enumerate(pieces):
            if len(piece):
                self._waiting[number].append(piece)
                self._lengths[number] += len(piece)
        length = min(self._lengths)
        sums: Samples = np.zeros((max(self._parts) + 1, self._channels, length), np.float32)
        for number, gain in enumerate(self._gains):
            samples = self._take(number, length)
            if len(self._gains) == 1:
                sums = gain.apply(samples, self._mixed)[None]
            elif samples.any():
                sums[self._parts[number]] += gain.apply(samples, self._mixed)
        self._mixed += length
        return sums

    def _take(self, number: int, length: int) -> Samples:
        waiting, taken = self._waiting[number], []
        self._lengths[number] -= length
        while length:
            piece = waiting.popleft()
            if len(piece) > length:
                waiting.appendleft(piece[length:])
                piece = piece[:length]
            taken.append(piece)
            length -= len(piece)
        return np.concatenate([np.zeros(0, np.float32), *taken])
