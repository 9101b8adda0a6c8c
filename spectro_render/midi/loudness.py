"""Loudness: what volume and expression make of the velocities of notes."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field

from spectro_render.midi.smf import VOLUME

_DEFAULT_VOLUME, _FULL_EXPRESSION = 100, 127  # until the file sets them


@dataclass(eq=False, slots=True)
class Levels:
    """The volume and expression of one channel over time."""

    _ticks: list[int] = field(default_factory=list)
    # One more than ticks: _values[i] holds before _ticks[i].
    _values: list[tuple[int, int]] = field(
        default_factory=lambda: [(_DEFAULT_VOLUME, _FULL_EXPRESSION)]
    )

    def set(self, tick: int, controller: int, value: int) -> None:
        """Set volume or expression from a tick on, which is no earlier than the one before."""
        volume, expression = self._values[-1]
        self._ticks.append(tick)
        self._values.append((value, expression) if controller == VOLUME else (volume, value))

    def heard(self, velocity: int, tick: int) -> int:
        """The velocity that is as loud as this one on this channel at a tick.

        The level of a SoundFont voice is proportional to the square of velocity, volume and
        expression (SoundFont 2.04, section 8.4), so that is their product.
        """
        if not self._ticks:
            return velocity
        volume, expression = self._values[bisect_right(self._ticks, tick)]
        product = round(velocity * volume / _DEFAULT_VOLUME * expression / _FULL_EXPRESSION)
        return min(max(product, 1), 127)
