"""The pitch of a channel: registered parameters, tuning and the pitch wheel, over time."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise

BEND_RANGE, FINE_TUNING, COARSE_TUNING = 0, 1, 2  # registered parameters (RPN)
DATA_MSB, DATA_LSB, INCREMENT, DECREMENT = 6, 38, 96, 97  # controllers
NRPN_LSB, NRPN_MSB, RPN_LSB, RPN_MSB = 98, 99, 100, 101
PITCH_CONTROLLERS = (
    *(DATA_MSB, DATA_LSB, INCREMENT, DECREMENT),
    *(NRPN_LSB, NRPN_MSB, RPN_LSB, RPN_MSB),
)

IN_TUNE = 0.2  # semitones: so far from a pitch of the keyboard, a note is still played as that
AT_REST = 0.1  # seconds that a note stays on a pitch for it to be the note's, and no ornament

_CENTRE = 1 << 13  # of 14 bits
_NO_PARAMETER = (127 << 7) | 127
_DEFAULTS = {BEND_RANGE: 2 << 7, FINE_TUNING: _CENTRE, COARSE_TUNING: 64 << 7}


@dataclass(eq=False, slots=True)
class Pitch:
    """How many semitones a channel sounds above its keys, over time."""

    master: float = 0.0  # tuning of the whole device, in semitones
    shift: float = 0.0  # of the keys of this channel, in semitones
    _parameters: dict[int, int] = field(default_factory=_DEFAULTS.copy)  # values of 14 bits
    _number: int = _NO_PARAMETER  # of the registered parameter that is selected
    _is_registered: bool = True  # whether it was selected last, and no other kind
    _other_number: int = _NO_PARAMETER  # of the parameter of the other kind (NRPN)
    _bend: int = _CENTRE
    _ticks: list[int] = field(default_factory=lambda: [-1])
    _tunings: list[float] = field(default_factory=lambda: [0.0])  # semitones from _ticks[i] on
    _totals: list[float] = field(default_factory=lambda: [0.0])  # tuning and bend, likewise
    _run_ends: list[int] = field(default_factory=list)
    _bent: list[int] = field(default_factory=list)  # how many of the totals before are bent
    _bases: list[int] = field(default_factory=list)  # whole semitones that keys are moved by

    def control(self, tick: int, controller: int, value: int) -> bool:
        """Apply one of PITCH_CONTROLLERS. Returns False if it sets something that is not played.

        That is a parameter of the makers (NRPN), in whose first half 64 changes nothing (GS, XG).
        Other registered ones (modulation range, tuning programs) are not heard by themselves.
        """
        if controller in (NRPN_LSB, NRPN_MSB):
            self._is_registered = False
            self._other_number = _selected(self._other_number, controller == NRPN_MSB, value)
        elif controller in (RPN_LSB, RPN_MSB):
            self._is_registered = True
            self._number = _selected(self._number, controller == RPN_MSB, value)
        elif not self._is_registered:
            is_unheard = controller == DATA_LSB or (controller == DATA_MSB and value == 64)
            return is_unheard or self._other_number == _NO_PARAMETER
        elif self._number in _DEFAULTS:
            self._enter(tick, controller, value)
        return True

    def _enter(self, tick: int, controller: int, value: int) -> None:
        old = self._parameters[self._number]
        self._parameters[self._number] = _entered(self._number, old, controller, value)
        self.update(tick)

    def bend(self, tick: int, value: int) -> None:
        """Move the pitch wheel: 0 to 16383."""
        self._bend = value
        self.update(tick)

    def reset_controllers(self, tick: int) -> None:
        """Centre the wheel and select no parameter, as reset-all-controllers does (RP-015)."""
        self._number, self._is_registered = _NO_PARAMETER, True
        self.bend(tick, _CENTRE)

    def reset(self, tick: int) -> None:
        """Go back to the keys' own pitches."""
        self.master = self.shift = 0.0
        self._parameters = _DEFAULTS.copy()
        self.reset_controllers(tick)

    def update(self, tick: int) -> None:
        """Record the pitch from a tick on, which is no earlier than the one before."""
        fine = (self._parameters[FINE_TUNING] - _CENTRE) / _CENTRE
        tuning = (self._parameters[COARSE_TUNING] >> 7) - 64 + fine + self.master + self.shift
        semitones, cents = divmod(self._parameters[BEND_RANGE], 128)
        total = tuning + (self._bend - _CENTRE) / _CENTRE * (semitones + cents / 100)
        if tick == self._ticks[-1]:
            self._tunings[-1], self._totals[-1] = tuning, total
        elif (tuning, total) != (self._tunings[-1], self._totals[-1]):
            self._ticks.append(tick)
            self._tunings.append(tuning)
            self._totals.append(total)

    @property
    def moves(self) -> bool:
        """Whether the channel ever sounds at another pitch than that of its keys."""
        return len(self._ticks) > 1

    def played(self, start: int, rest: int, end: int) -> tuple[int, bool]:
        """The semitones by which a note is moved, and whether it stays there from `start` to `end`.

        A bend counts where the note stays on it until tick `rest`. The second value is False where
        the note can be heard to leave that pitch, or not to be on it.
        """
        index = bisect_right(self._ticks, start) - 1
        nearest = round(self._totals[index])
        left = self._left(nearest, index)
        if left <= start or left < min(rest, end):
            nearest = round(self._tunings[index])
            left = self._left(nearest, index)
        return nearest, left >= end

    def over_keys(
        self, is_between_notes: Callable[[int], bool]
    ) -> tuple[list[int], tuple[float, ...]]:
        """The semitones by which a channel sounds above its keys, as a warp of time has to say.

        The whole semitones of the tuning move the keys, unless they change while a note sounds.
        Returns ticks, and one value more: values[i] holds before ticks[i].
        """
        self._bases = [round(tuning) for tuning in self._tunings]
        changes = zip(self._ticks[1:], pairwise(self._bases), strict=True)
        if not all(old == new or is_between_notes(tick) for tick, (old, new) in changes):
            self._bases = [0] * len(self._ticks)
        pairs = zip(self._totals, self._bases, strict=True)
        return self._ticks[1:], tuple(total - base for total, base in pairs)

    def base(self, tick: int) -> int:
        """The semitones by which keys are moved at a tick, when `over_keys` has been called."""
        return self._bases[bisect_right(self._ticks, tick) - 1]

    def stays_centred(self, start: int, end: int) -> bool:
        """Whether the wheel bends nothing audible from tick `start` to `end`."""
        first, last = bisect_right(self._ticks, start) - 1, bisect_left(self._ticks, end)
        if not self._bent:
            pairs = zip(self._totals, self._tunings, strict=True)
            bent = (abs(total - tuning) > IN_TUNE for total, tuning in pairs)
            self._bent = list(accumulate(bent, initial=0))
        return self._bent[last] == self._bent[first]

    def _left(self, semitones: int, index: int) -> float:
        """The tick at which, from index on, the pitch is no longer so many semitones up."""
        if not self._run_ends:
            self._run_ends = _run_ends([_semitones(total) for total in self._totals])
        if _semitones(self._totals[index]) != semitones:
            return self._ticks[index]
        end = self._run_ends[index]
        return self._ticks[end] if end < len(self._ticks) else float("inf")


def _selected(number: int, is_msb: bool, value: int) -> int:
    """The number of a parameter, one of whose halves is set."""
    return value << 7 | number & 0x7F if is_msb else number & 0x3F80 | value


def _semitones(total: float) -> int | None:
    """The whole number of semitones nearest to a tuning; None if it is too far from both."""
    return round(total) if abs(total - round(total)) <= IN_TUNE + 1e-9 else None


def _run_ends(values: Sequence[int | None]) -> list[int]:
    """For each place in a sequence, the next one that has another value."""
    ends = list(range(1, len(values) + 1))
    for place in range(len(values) - 2, -1, -1):
        if values[place] == values[place + 1]:
            ends[place] = ends[place + 1]
    return ends


def _entered(number: int, old: int, controller: int, value: int) -> int:
    """The value of a parameter after data entry, increment or decrement.

    The latter count in the last seven bits, but for coarse tuning, which has none (RP-018); cents
    of the bend range end at 99.
    """
    if controller == DATA_MSB:
        return value << 7
    if controller == DATA_LSB:
        return old & 0x3F80 | value
    step = 1 if controller == INCREMENT else -1
    if number == COARSE_TUNING:
        return min(max(old + step * 128, 0), 127 << 7)
    if number == FINE_TUNING:
        return min(max(old + step, 0), 2 * _CENTRE - 1)
    semitones, cents = divmod(old, 128)
    semitones, cents = divmod(min(max(semitones * 100 + cents + step, 0), 12799), 100)
    return semitones << 7 | cents


def in_range(pitch: int) -> int:
    """Move a pitch by octaves until it is from 0 to 127."""
    while pitch > 127:
        pitch -= 12
    while pitch < 0:
        pitch += 12
    return pitch
