"""The bars of a MIDI file, and its tempos: what musicians count in."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import NamedTuple

from spectro_render.errors import MidiError, OptionError
from spectro_render.midi.smf import Smf
from spectro_render.midi.tempo import Clock, TempoMap

_COMMON_TIME = (4, 4)  # until the file sets a time signature


class Signature(NamedTuple):
    """A time signature, from one of the bars on."""

    bar: int  # number of the first bar that has it
    tick: int  # at which that bar begins
    beats: int  # in a bar
    unit: int  # a beat is this part of a whole note: 4 is a quarter note


@dataclass(frozen=True)
class Meter:
    """The bars and tempos of a file.

    A time signature begins a bar. If the first lasts for one bar, which is shorter than those after
    it, that bar is a pickup and has the number 0; otherwise bars are counted from 1.
    """

    signatures: tuple[Signature, ...]  # by tick, the first at tick 0
    division: int  # ticks per quarter note
    last_tick: int  # at which the last note ends
    tempo_map: TempoMap
    clock: Clock
    speed: float = 1.0  # how many times faster than in the file the music is played

    @property
    def first_bar(self) -> int:
        """The number of the first bar: 0 for a pickup, otherwise 1."""
        return self.signatures[0].bar

    @property
    def bars(self) -> str:
        """The bars in words: `bars 1 to 40`."""
        first, last = self.first_bar, self.last_bar
        return f"bar {first}" if first == last else f"bars {first} to {last}"

    @property
    def last_bar(self) -> int:
        """The number of the bar in which the last note ends."""
        tick = max(self.last_tick - 1, 0)
        index = bisect_right([each.tick for each in self.signatures], tick) - 1
        signature = self.signatures[index]
        return signature.bar + int((tick - signature.tick) / _bar_ticks(signature, self.division))

    def start_of(self, bar: int) -> float:
        """The time in seconds at which a bar begins."""
        index = max(bisect_right([each.bar for each in self.signatures], bar) - 1, 0)
        signature = self.signatures[index]
        ticks = (bar - signature.bar) * _bar_ticks(signature, self.division)
        return next(self.clock.seconds([signature.tick + round(ticks)]))

    def tempos(self) -> Iterator[tuple[float, float]]:
        """The tempos up to the last note: seconds, and quarter notes a minute from there on."""
        for tick, tempo in self.tempo_map:
            if tick < max(self.last_tick, 1):
                yield next(self.clock.seconds([tick])), 6e7 / tempo * self.speed

    def section(self, bars: str) -> tuple[float, float | None]:
        """Where bars such as `40-48` begin, in seconds, and how long they last.

        The length is None if they go on to the end. Raises OptionError for what are no bars,
        MidiError for bars that the music does not have.
        """
        first, last = parse_bars(bars)
        first = self.first_bar if first is None else first
        begins, ends = self.first_bar, self.last_bar
        if first < begins or (last or first) > ends:
            wrong = first if first < begins or first > ends else last
            raise MidiError(
                f"there is no bar {wrong}: the music has {self.bars}",
                "choose others with --bars",
            )
        start = self.start_of(first)
        if last is None or last == ends:
            return start, None
        return start, self.start_of(last + 1) - start


def parse_bars(bars: str) -> tuple[int | None, int | None]:
    """The first and the last bar of `40-48`, `40`, `40-` or `-48`; None is the beginning or end.

    Raises OptionError for what are no bars.
    """
    match = re.fullmatch(r"\s*(?:(\d{1,7})|(\d{1,7})?\s*-\s*(\d{1,7})?)\s*", str(bars))
    if match is None or not any(match.groups()):
        raise OptionError(f"{bars!r} are no bars", "give them as 40-48, 40, 40- or -48")
    single, first, last = (None if group is None else int(group) for group in match.groups())
    if single is not None:
        return single, single
    if first is not None and last is not None and last < first:
        raise OptionError(f"the bars {bars} end before they begin", f"give {last}-{first}")
    return first, last


def read_meter(smf: Smf, clock: Clock, tempo_map: TempoMap, last_tick: int, speed: float) -> Meter:
    """The bars of a file whose last note ends at `last_tick`, played at `speed` times its tempo.

    Where two tracks set a time signature at one tick, the later track's counts.
    """
    changes = {
        tick: (beats, unit)
        for tick, beats, unit in chain.from_iterable(track.signatures for track in smf.tracks)
    }
    changes.setdefault(0, _COMMON_TIME)
    signatures: list[Signature] = []
    for tick, (beats, unit) in sorted(changes.items()):
        if not signatures:
            signatures.append(Signature(1, tick, beats, unit))
            continue
        before = signatures[-1]
        if (beats, unit) == before[2:]:
            continue  # repeated, which some programs do in the middle of a bar
        bars = -int(-(tick - before.tick) // _bar_ticks(before, smf.division))
        signatures.append(Signature(before.bar + bars, tick, beats, unit))
    has_pickup = any(
        second.bar == 2 and second.tick < _bar_ticks(second, smf.division)
        for _, second in list(pairwise(signatures))[:1]
    )
    if has_pickup:
        signatures = [each._replace(bar=each.bar - 1) for each in signatures]
    return Meter(tuple(signatures), smf.division, last_tick, tempo_map, clock, speed)


def _bar_ticks(signature: Signature, division: int) -> float:
    """The length of a bar in ticks."""
    return signature.beats * 4 * division / signature.unit
