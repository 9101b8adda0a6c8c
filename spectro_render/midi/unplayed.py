"""Finds controllers and pressures that would change the sound of notes but are not played."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Container, Iterable
from dataclasses import dataclass, field

_CONTROL, _KEY_PRESSURE, _CHANNEL_PRESSURE = 0xB0, 0xA0, 0xD0  # status bytes

_NAMES = {
    2: "breath",
    8: "balance",
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
    **dict.fromkeys((2, 4, 12, 13), (0,)),
    5: range(128),  # portamento time: portamento has to be on
    8: (64,),
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

_RESET_WITH_CONTROLLERS = (2, 65, 67, 68, 69)  # by reset-all-controllers (RP-015)
_NEVER = 1 << 62  # a tick


class Unplayed:
    """Controllers and pressures of all channels over time, as far as they are not played.

    A reset concerns many of them, so it is recorded once for all.
    """

    def __init__(self) -> None:
        # By channel, kind of event, and controller or key.
        self._courses: dict[tuple[int, int, int], _Course] = {}
        self._channel_resets: dict[int, _Course] = {}  # by reset-all-controllers
        self._port_resets: dict[int, _Course] = {}
        self._count = 0  # of events and resets

    def take(self, tick: int, channel: int, kind: int, first: int, second: int) -> None:
        """Record an event, given by the fields of `Event`."""
        value = first if kind == _CHANNEL_PRESSURE else second
        unheard = _UNHEARD.get(first, ()) if kind == _CONTROL else (0,)
        key = (channel, kind, 0 if kind == _CHANNEL_PRESSURE else first)
        self._record(self._courses.setdefault(key, _Course()), tick, value not in unheard)

    def reset_controllers(self, tick: int, channel: int) -> None:
        """Record that the pressures, pedals and breath of a channel are reset."""
        self._record(self._channel_resets.setdefault(channel, _Course()), tick, False)

    def reset(self, tick: int, port: int) -> None:
        """Record that all channels of a port are reset to their initial state."""
        self._record(self._port_resets.setdefault(port, _Course()), tick, False)

    def _record(self, course: _Course, tick: int, is_heard: bool) -> None:
        course.entries.append(2 * tick + is_heard)
        course.numbers.append(self._count)
        self._count += 1

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
        resets = {number: own.ordered() for number, own in self._channel_resets.items()}
        port_resets = {number: own.ordered() for number, own in self._port_resets.items()}
        counts: Counter[str] = Counter()
        for (channel, kind, number), course in self._courses.items():
            if channel not in times:
                continue
            starts, ends = times[channel]
            concerning = [port_resets.get(channel // 16, [])]
            if kind != _CONTROL or number in _RESET_WITH_CONTROLLERS:
                concerning.append(resets.get(channel, []))
            ordered = course.ordered()
            for place, (begin, order, is_heard) in enumerate(ordered):
                if not is_heard:
                    continue
                end = ordered[place + 1][0] if place + 1 < len(ordered) else _NEVER
                for others in concerning:
                    after = bisect_left(others, (begin, order, False))
                    end = min(end, others[after][0] if after < len(others) else _NEVER)
                last = bisect_left(starts, end) - 1  # the last note that starts before the end
                if begin < end and last >= 0 and ends[last] > begin:
                    counts[_name(kind, number)] += 1
        return counts


@dataclass(eq=False, slots=True)
class _Course:
    """The events of one controller, or resets, in the order in which they were read."""

    entries: array[int] = field(default_factory=lambda: array("q"))  # 2 * tick + whether heard
    numbers: array[int] = field(default_factory=lambda: array("q"))  # in the order of all events

    def ordered(self) -> list[tuple[int, int, bool]]:
        """Ticks, numbers and whether events are heard, in the order in which they are played.

        Tracks that share a channel come one after the other, so they are mixed here.
        """
        pairs = zip(self.entries, self.numbers, strict=True)
        return sorted((entry >> 1, number, bool(entry & 1)) for entry, number in pairs)


def _name(kind: int, number: int) -> str:
    if kind == _CONTROL:
        return _NAMES.get(number, f"controller {number}")
    return "key pressure" if kind == _KEY_PRESSURE else "channel pressure"
