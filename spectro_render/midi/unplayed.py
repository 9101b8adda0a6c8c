"""Finds controllers and pressures that would change the sound of notes but are not played."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Container, Iterable
from itertools import chain

_CONTROL, _KEY_PRESSURE, _CHANNEL_PRESSURE = 0xB0, 0xA0, 0xD0  # status bytes

_NAMES = {
    1: "modulation",
    2: "breath",
    8: "balance",
    10: "pan",
    65: "portamento",
    67: "soft pedal",
    68: "legato",
    69: "hold pedal",
    71: "resonance",
    74: "brightness",
    91: "reverb",
    93: "chorus",
}

# By controller: the values that change nothing. They are those from the beginning (GM2, RP-024), or
# all, where nothing is defined, or a 128th of a step, which nobody hears.
_UNHEARD: dict[int, Container[int]] = {
    **dict.fromkeys((1, 2, 4, 12, 13), (0,)),
    5: range(128),  # portamento time: portamento has to be on
    **dict.fromkeys((8, 10), (64,)),
    **dict.fromkeys((3, 9, *range(14, 32)), range(128)),  # undefined, or for general purposes
    **dict.fromkeys(range(33, 64), range(128)),  # the last seven bits of controllers 1 to 31
    **dict.fromkeys((65, 67, 68, 69), range(64)),
    **dict.fromkeys(range(70, 80), (64,)),
    **dict.fromkeys(range(80, 91), range(128)),  # for general purposes, or undefined
    91: (40,),
    **dict.fromkeys(range(92, 96), (0,)),
    **dict.fromkeys(range(102, 120), range(128)),  # undefined
    122: range(128),  # local control: of a keyboard
}

_RESET_WITH_CONTROLLERS = (1, 2, 65, 67, 68, 69)  # by reset-all-controllers (RP-015)


class Unplayed:
    """Controllers and pressures of all channels over time, as far as they are not played."""

    def __init__(self) -> None:
        # By channel, kind of event, and controller or key: 2 * tick, and 1 more if it is heard.
        self._courses: dict[tuple[int, int, int], array[int]] = {}

    def take(self, tick: int, channel: int, kind: int, first: int, second: int) -> None:
        """Record an event, given by the fields of `Event`."""
        value = first if kind == _CHANNEL_PRESSURE else second
        unheard = _UNHEARD.get(first, ()) if kind == _CONTROL else (0,)
        key = (channel, kind, 0 if kind == _CHANNEL_PRESSURE else first)
        self._courses.setdefault(key, array("q")).append(2 * tick + (value not in unheard))

    def reset_controllers(self, tick: int, channel: int) -> None:
        """Record that the pressures, pedals and modulation of a channel are reset."""
        for key, course in self._courses.items():
            if key[0] == channel and (key[1] != _CONTROL or key[2] in _RESET_WITH_CONTROLLERS):
                course.append(2 * tick)

    def reset(self, tick: int, port: int) -> None:
        """Record that all channels of a port are reset to their initial state."""
        for key, course in self._courses.items():
            if key[0] // 16 == port:
                course.append(2 * tick)

    def count(self, notes: Iterable[tuple[int, int, int]]) -> Counter[str]:
        """How many events of each name change the sound of a note.

        Notes are given by start: channel, start and end in ticks.
        """
        if not self._courses:
            return Counter()
        times: dict[int, tuple[list[int], list[int]]] = {}  # starts, latest ends so far
        for channel, start, end in notes:
            starts, ends = times.setdefault(channel, ([], []))
            starts.append(start)
            ends.append(max(end, ends[-1]) if ends else end)
        counts: Counter[str] = Counter()
        for (channel, kind, number), course in self._courses.items():
            if channel not in times:
                continue
            starts, ends = times[channel]
            # Tracks that share a channel come one after the other.
            ordered = sorted(course, key=lambda entry: entry >> 1)
            for entry, following in zip(ordered, chain(ordered[1:], [1 << 62]), strict=True):
                begin, end = entry >> 1, following >> 1
                place = bisect_left(starts, end) - 1  # the last note that starts before the end
                if entry & 1 and begin < end and place >= 0 and ends[place] > begin:
                    counts[_name(kind, number)] += 1
        return counts


def _name(kind: int, number: int) -> str:
    if kind == _CONTROL:
        return _NAMES.get(number, f"controller {number}")
    return "key pressure" if kind == _KEY_PRESSURE else "channel pressure"
