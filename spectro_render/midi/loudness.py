"""Loudness: what volume, expression and master volume make of the velocities of notes.

The level of a SoundFont voice is proportional to the square of velocity, volume and expression
(SoundFont 2.04, section 8.4), so their product is a velocity that is as loud. A note has one
velocity; what changes while it sounds is left to a gain over the whole sound, where all channels
that sound change alike, as in the fade at the end of a song. A channel that changes otherwise is
rendered alone, with a gain of its own (see `movement`).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from math import inf, log10
from typing import NamedTuple

from spectro_render.midi.played import PlayedNote

_DEFAULT_VOLUME, _FULL_EXPRESSION = 100, 127  # until the file sets them
_LOUDEST = 127  # velocity

FLOOR = 1 / 128  # a factor that nobody hears: -84 dB
_SETTLING_SECONDS = 0.03  # in which a note that begins is not yet at its full level
_STEP_SECONDS = 0.25  # changes so close together are compared as one
_ALIKE_DB, _ALIKE_SHARE = 3.0, 0.35  # changes of channels are alike within one of them
_ROOM_DB = 6.0  # over the level of a channel at its defaults that a note may need to be
_SMOOTH_DB = 12.0  # a larger change is a sudden one, however close the one before it is
_RAMP_SECONDS = 0.01  # of a sudden change: without a click
_HEARD_DB = 6.0  # a change just behind the start of a note that is meant for the note
FAINT_DB = -40.0  # under the usual level: so faint that differences do not matter


@dataclass(eq=False, slots=True)
class Levels:
    """The volume and expression of one channel over time."""

    master: float = 1.0  # volume of the whole device
    ticks: list[int] = field(default_factory=list)
    # One more than ticks: factors[i], of velocity, holds before ticks[i].
    factors: list[float] = field(default_factory=lambda: [1.0])
    _volume: int = _DEFAULT_VOLUME
    _expression: int = _FULL_EXPRESSION

    def set_volume(self, tick: int, value: int) -> None:
        """Set the volume from a tick on, which is no earlier than the one before."""
        self._volume = value
        self.update(tick)

    def set_expression(self, tick: int, value: int) -> None:
        """Set the expression from a tick on, which is no earlier than the one before."""
        self._expression = value
        self.update(tick)

    def update(self, tick: int) -> None:
        """Record the level from a tick on."""
        factor = self._volume / _DEFAULT_VOLUME * self._expression / _FULL_EXPRESSION * self.master
        if factor == self.factors[-1]:
            return
        if self.ticks and self.ticks[-1] == tick:
            self.factors[-1] = factor
        else:
            self.ticks.append(tick)
            self.factors.append(factor)

    def last_heard(self, start: int, end: int) -> int:
        """The tick at which a note ends that is switched off at `end`: where it falls silent."""
        index = bisect_left(self.ticks, end) if self.ticks else 0
        if index and self.factors[index] == 0.0 and self.ticks[index - 1] > start:
            return self.ticks[index - 1]
        return end

    def at(self, tick: int) -> float:
        """The factor at a tick, after all that happens there."""
        return self.factors[bisect_right(self.ticks, tick)]


@dataclass(frozen=True)
class Loudness:
    """The velocities of notes, and the loudness that velocities cannot express."""

    velocities: list[int]  # of each note
    gain: float  # dB by which the notes are louder than their velocities, which end at 127
    fades: Fades  # of the whole sound


class _Course:
    """A level that stays from each of its times to the next, and its power."""

    def __init__(self, seconds: Sequence[float], factors: Sequence[float]) -> None:
        """Takes times, the first being 0, and factors of velocity."""
        self._seconds = seconds
        self._powers = [max(factor, FLOOR) ** 4 for factor in factors]
        self._sums = [0.0]  # of power over time, from the beginning to each time
        for power, (begin, end) in zip(self._powers, pairwise(seconds), strict=False):
            self._sums.append(self._sums[-1] + power * (end - begin))

    def power(self, begin: float, end: float) -> float:
        """The mean power between two times."""
        return max((self._sum(end) - self._sum(begin)) / (end - begin), FLOOR**4)

    def _sum(self, seconds: float) -> float:
        index = bisect_right(self._seconds, seconds) - 1
        return self._sums[index] + self._powers[index] * (seconds - self._seconds[index])


class Fades:
    """A gain over time, in dB: lines between points."""

    def __init__(self, points: Sequence[tuple[float, float]]) -> None:
        """`points`: seconds and dB, by time; before the first and after the last it stays."""
        self.points = points
        self._seconds = [seconds for seconds, _ in points]

    def at(self, seconds: float) -> float:
        """The gain at a time, in dB."""
        if not self.points:
            return 0.0
        index = bisect_right(self._seconds, seconds)
        if index in (0, len(self.points)):
            return self.points[min(index, len(self.points) - 1)][1]
        (begin, first), (end, last) = self.points[index - 1 : index + 1]
        return first + (last - first) * (seconds - begin) / (end - begin)

    def course(self) -> _Course:
        """The gain as a factor of velocity."""
        levels = [level for _, level in self.points]
        return _Course(
            [0.0, *self._seconds], [10 ** (level / 40) for level in (*levels[:1], *levels, 0.0)]
        )

    def factors(self) -> tuple[tuple[float, float], ...]:
        """The points as factors of amplitude; levels too low to be audible become 0."""
        lowest = decibels(0.0)
        return tuple(
            (seconds, 10 ** (level / 20) if level > lowest else 0.0)
            for seconds, level in self.points
        )


def measure(
    notes: Sequence[PlayedNote], levels: dict[int, Levels], seconds: dict[int, list[float]]
) -> Loudness:
    """Measure how loud notes are; `seconds` are the times of the ticks of each channel's levels."""
    if not any(own.ticks for own in levels.values()):
        return Loudness([note.velocity for note in notes], 0.0, Fades(()))
    fades = _fades(notes, levels, seconds)
    shared = fades.course()
    courses = {
        channel: _Course([0.0, *seconds[channel]], own.factors)
        for channel, own in levels.items()
        if own.ticks
    }
    products = []
    for note in notes:
        own, begin, end = levels[note.channel], note.start_seconds, note.end_seconds
        factor = _over(own.at(note.start), fades.at(begin))
        if own.ticks and not note.is_drum:
            settled = min(begin + _SETTLING_SECONDS, end)
            if abs(fades.at(settled) - fades.at(begin)) < _HEARD_DB:
                later = own.factors[bisect_left(seconds[note.channel], settled)]
                later = _over(later, fades.at(settled))
                # Volume that is set just behind a note's start is meant for the note.
                if abs(decibels(later) - decibels(factor)) >= _HEARD_DB:
                    factor = later
            power = courses[note.channel].power(begin, end) / shared.power(begin, end)
            # A note that swells by 12 dB or more would be lost with the level of its start.
            mean = power**0.25
            factor = mean if 2 * factor < mean else factor
        products.append(note.velocity * factor)
    loudest = max(products, default=0.0)
    scale = min(1.0, _LOUDEST / loudest) if loudest else 1.0
    velocities = [min(max(round(product * scale), 1), _LOUDEST) for product in products]
    gain = 40 * log10(1 / scale)
    return Loudness(velocities, gain, fades)


def _over(factor: float, gain: float) -> float:
    """Divide a factor of velocity by the gain in dB that all channels share."""
    return max(factor, FLOOR) / 10 ** (gain / 40)


def decibels(factor: float) -> float:
    """Convert a factor of velocity to a change of level in dB."""
    return 40 * log10(max(factor, FLOOR))


# --- fades of all channels


@dataclass
class _Step:
    """Changes of levels that are close together."""

    begin: float  # seconds
    chain: int  # number of chains that had begun
    loud: int  # number of the channels that sound and are not faint before the changes
    ended: Set[int]  # the channels that sound: these, which have just ended, if there are any
    before: dict[int, float] = field(default_factory=dict)  # dB by channel
    after: dict[int, float] = field(default_factory=dict)
    events: list[tuple[float, int, float]] = field(default_factory=list)  # seconds, channel, dB

    def change(self, channel: int) -> float:
        """By how many dB a channel has changed."""
        return self.after[channel] - self.before[channel] if channel in self.after else 0.0


class _Chain(NamedTuple):
    """The time between two moments at which nothing sounds."""

    start: float  # seconds
    before: float  # seconds at which the last notes before it ended
    changes: list[tuple[float, float, float]]  # of the gain: begin and end in seconds, dB


def _fades(
    notes: Sequence[PlayedNote], levels: dict[int, Levels], seconds: dict[int, list[float]]
) -> Fades:
    """The gain over the sound: every change that all sounding channels make alike."""
    sweep = _Sweep([note for note in notes if not note.is_drum])
    step: _Step | None = None
    changes = sorted((at, i, c) for c, times in seconds.items() for i, at in enumerate(times))
    for at, place, channel in changes:
        sweep.play_until(at)
        sweep.change(at, channel, levels[channel].factors[place + 1])
        before, after = map(decibels, levels[channel].factors[place : place + 2])
        is_turn = step is not None and step.change(channel) * (after - before) < 0
        is_late = step is not None and at - step.begin > _STEP_SECONDS
        if step is None or is_late or is_turn or len(sweep.chains) > step.chain:
            sweep.add(step)
            step = sweep.begin_step(at)
        step.before.setdefault(channel, before)
        step.after[channel] = after
        step.events.append((at, channel, after - before))
    sweep.add(step)
    if not any(chain.changes for chain in sweep.chains):
        return Fades(())
    sweep.play_until(inf)
    return _joined(sweep.chains, notes, levels)


class _Sweep:
    """Walks through notes and changes of level in time, and tells which channels sound.

    Each note and each change takes constant time, however many channels sound: what a step has to
    know of the moment at which it began is kept only for channels for which it is different now.
    """

    def __init__(self, notes: Sequence[PlayedNote]) -> None:
        self.sounding: Counter[int] = Counter()  # channel -> notes
        self.end = -1.0  # seconds: when channels last ended
        self.chains: list[_Chain] = []
        starts = [(note.start_seconds, 1, note.channel) for note in notes]
        ends = [(note.end_seconds, 0, note.channel) for note in notes]
        self._events = sorted(starts + ends, reverse=True)  # the next is the last; ends come first
        self._ended: set[int] = set()  # the channels that ended at `end`
        self._ended_loud: int | None = None  # how many of them were not faint; None: not counted
        self._faint: set[int] = set()  # channels, whether they sound or not
        self._loud = 0  # number of channels that sound and are not faint
        self._changes: list[tuple[int, bool]] = []  # of faintness, at the time of the last change
        self._time = -1.0  # of the last change, seconds
        # When the step began, by channel, where it is different now.
        self._sounded: dict[int, bool] = {}
        self._was_faint: dict[int, bool] = {}

    def play_until(self, now: float) -> None:
        """Go on to a time: notes that end then have ended, those that start then have not begun."""
        while self._events and self._events[-1][:2] < (now, 1):
            at, is_start, channel = self._events.pop()
            if is_start and not self.sounding:
                self.chains.append(_Chain(at, self.end, []))
            sounded = channel in self.sounding
            self.sounding[channel] += 1 if is_start else -1
            if not self.sounding[channel]:
                if at > self.end:
                    self._ended, self._ended_loud, self.end = set(), None, at
                self._ended.add(channel)
                del self.sounding[channel]
            if (channel in self.sounding) != sounded:
                self._sounded.setdefault(channel, sounded)
                if channel not in self._faint:
                    self._loud += -1 if sounded else 1

    def change(self, now: float, channel: int, factor: float) -> None:
        """Take a change of level, which counts for later times."""
        if now > self._time:
            for number, is_faint in self._changes:
                was_faint = number in self._faint
                if is_faint != was_faint:
                    self._was_faint.setdefault(number, was_faint)
                    self._faint ^= {number}
                    self._loud += (was_faint - is_faint) * (number in self.sounding)
            self._changes, self._time = [], now
        self._changes.append((channel, decibels(factor) < FAINT_DB))

    def begin_step(self, now: float) -> _Step:
        """A step that begins at a time to which it has gone.

        Within a fade also those channels sound that have just ended, as notes may follow each
        other.
        """
        self._sounded, self._was_faint = {}, {}
        changes = self.chains[-1].changes if self.chains and now == self.end else []
        if self.sounding or not changes or now - changes[-1][1] > _STEP_SECONDS:
            return _Step(now, len(self.chains), self._loud, set())
        if self._ended_loud is None:
            self._ended_loud = len(self._ended - self._faint)
        return _Step(now, len(self.chains), self._ended_loud, self._ended)

    def add(self, step: _Step | None) -> None:
        """Record the change that a step makes to the gain, if all channels make it.

        Those that are faint need not change.
        """
        if step is None:
            return
        heard = {channel for channel in step.after if self._sounded_in(step, channel)}
        loud = sum(not self._was_faint.get(c, c in self._faint) for c in heard)
        if loud < step.loud or not _is_common(step, heard):
            return
        chain = self.chains[step.chain - 1]
        for at, channel, change in step.events:
            if channel in heard:
                last = chain.changes[-1][1] if chain.changes else -inf
                is_smooth = at - last <= _STEP_SECONDS and abs(change) <= _SMOOTH_DB
                begin = last if is_smooth else max(chain.start, last, at - _RAMP_SECONDS)
                chain.changes.append((begin, at, change / len(heard)))

    def _sounded_in(self, step: _Step, channel: int) -> bool:
        """Whether a channel sounded when a step, the last one, began."""
        if step.ended:
            return channel in step.ended
        return self._sounded.get(channel, channel in self.sounding)


def _is_common(step: _Step, channels: Set[int]) -> bool:
    """Whether these channels, which all change in a step, change alike."""
    if not channels:
        return False
    changes = [step.change(channel) for channel in channels]
    mean = sum(changes) / len(changes)
    reach = max(_ALIKE_DB, _ALIKE_SHARE * abs(mean))
    return all(abs(change - mean) <= reach and change * mean > 0 for change in changes)


def _joined(
    chains: Sequence[_Chain], notes: Sequence[PlayedNote], levels: dict[int, Levels]
) -> Fades:
    """One gain of the changes of all chains; it may jump where nothing sounds."""
    by_start = sorted(notes, key=lambda note: note.start_seconds)
    times = [note.start_seconds for note in by_start]
    points = [(0.0, 0.0)]
    for number, chain in enumerate(chains):
        end = chains[number + 1].start if number + 1 < len(chains) else inf
        own = by_start[bisect_left(times, chain.start) : bisect_left(times, end)]
        last, level = points[-1]
        fade = None
        if chain.start - chain.before <= _STEP_SECONDS:  # it goes on
            fade = _fade(chain.start, chain.changes, level, own, levels)
        if fade is None:
            fade = _own_fade(chain, own, levels)
        if level != fade[0][1]:
            points.append((max(last, chain.start - _RAMP_SECONDS), level))
        points += fade if len(fade) > 1 or level != fade[0][1] else ()
    if not any(level for _, level in points):
        return Fades(())
    return Fades(sorted(dict(points).items()))  # the later of two at one time


def _own_fade(
    chain: _Chain, notes: Sequence[PlayedNote], levels: dict[int, Levels]
) -> list[tuple[float, float]]:
    """The gain during a chain, 0 dB at its loudest.

    Changes are given up where a note after them would have to be louder than a velocity can say.
    """
    changes = chain.changes
    if fade := _fade(chain.start, changes, _under_zero(changes), notes, levels):
        return fade
    softened = _points(chain.start, changes, _under_zero(changes))
    after = max(_too_loud(softened, notes, levels))
    changes = [change for change in changes if change[0] >= after]
    fade = _fade(chain.start, changes, _under_zero(changes), notes, levels)
    return fade or [(chain.start, 0.0)]


def _under_zero(changes: Sequence[tuple[float, float, float]]) -> float:
    """The gain in dB from which changes never lead above 0 dB."""
    return -max(accumulate((change for _, _, change in changes), initial=0.0))


def _points(
    start: float, changes: Iterable[tuple[float, float, float]], level: float
) -> list[tuple[float, float]]:
    points = [(start, level)]
    for begin, end, change in changes:
        points += [(begin, level), (end, level + change)]
        level += change
    return points


def _too_loud(
    points: Sequence[tuple[float, float]], notes: Iterable[PlayedNote], levels: dict[int, Levels]
) -> list[float]:
    """When notes start that would have to be louder than a velocity can say, in seconds."""
    fades = Fades(points)
    needed = (
        (decibels(levels[note.channel].at(note.start)) - fades.at(note.start_seconds), note)
        for note in notes
    )
    return [note.start_seconds for level, note in needed if level > _ROOM_DB]


def _fade(
    start: float,
    changes: Sequence[tuple[float, float, float]],
    level: float,
    notes: Sequence[PlayedNote],
    levels: dict[int, Levels],
) -> list[tuple[float, float]] | None:
    """The gain that changes make of a level in dB; None where it would be too high or too low."""
    points = _points(start, changes, level)
    is_high = max(level for _, level in points) > _ALIKE_DB
    return None if is_high or _too_loud(points, notes, levels) else points
