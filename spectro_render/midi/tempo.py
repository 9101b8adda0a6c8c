"""Tempo: the changes of a whole file, and seconds at a tick."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator

from spectro_render.midi.smf import Smf

TEMPO_ELSEWHERE = "tempo set outside the first track"  # a repair that loses nothing
MAX_SECONDS = 24 * 60 * 60

_DEFAULT_TEMPO = 500_000  # us per quarter note, until the file sets one

TempoMap = list[tuple[int, int]]  # (tick, us per quarter note), by tick, from tick 0


def tempo_map(smf: Smf) -> TempoMap:
    """The tempo changes of all tracks; where two tracks set one at a tick, the later track's.

    They belong into the first track, but many files have them in others, and players follow them.
    """
    changes = {tick: tempo for track in smf.tracks for tick, tempo in track.tempos}
    tempos = _effective_tempos(changes.items())
    if tempos != _effective_tempos(dict(smf.tracks[0].tempos).items()):
        smf.repairs[TEMPO_ELSEWHERE] += 1
    return tempos


def _effective_tempos(changes: Iterable[tuple[int, int]]) -> TempoMap:
    tempos: TempoMap = [(0, _DEFAULT_TEMPO)]
    for tick, tempo in sorted(changes):
        if tick == 0:
            tempos = [(0, tempo)]
        elif tempo != tempos[-1][1]:
            tempos.append((tick, tempo))
    return tempos


class Clock:
    """Converts ticks to seconds, with the arithmetic of pretty_midi 0.2.11.

    The published models were trained on times that it computed, and a rounding in the last place
    can move a note by a step of 10 ms.
    """

    def __init__(self, tempos: TempoMap, division: int) -> None:
        """`division`: ticks per quarter note."""
        self._ticks: list[int] = []
        self._starts: list[tuple[float, float]] = []  # seconds, and seconds a tick from there on
        for tick, tempo in tempos:
            start = next(self.seconds([tick])) if self._ticks else 0.0
            self._ticks.append(tick)
            self._starts.append((start, 60.0 / (6e7 / tempo * division)))

    def seconds(self, ticks: Iterable[int]) -> Iterator[float]:
        """Seconds from the start of the music to each tick; later ticks give later times.

        The shortest tick possible is 3e-11 s, twice the spacing of floats at MAX_SECONDS.
        """
        changes, starts = self._ticks, self._starts
        for tick in ticks:
            index = bisect_right(changes, tick) - 1
            start, a_tick = starts[index]
            yield start + a_tick * (tick - changes[index])

    def last_tick(self, seconds: float) -> int:
        """The last tick that is not later than `seconds`."""
        index = bisect_right(self._starts, (seconds, float("inf"))) - 1
        start, a_tick = self._starts[index]
        return self._ticks[index] + int((seconds - start) / a_tick)


class ScaledClock(Clock):
    """Another clock at a multiple of its tempo."""

    def __init__(self, clock: Clock, factor: float) -> None:
        self._clock, self._factor = clock, factor

    def seconds(self, ticks: Iterable[int]) -> Iterator[float]:
        for seconds in self._clock.seconds(ticks):
            yield seconds / self._factor

    def last_tick(self, seconds: float) -> int:
        return self._clock.last_tick(seconds * self._factor)
