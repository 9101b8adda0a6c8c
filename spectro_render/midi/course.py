"""What a channel of a MIDI file does over time that its notes do not say: level, place, pitch."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass

CENTRE = 64  # pan: 0 is left, 127 right
OFF_CENTRE = 4  # steps of pan: 0.9 dB between left and right, the least that counts
SETTLING_SECONDS = 0.03  # at both ends of a note, in which changes are meant for its neighbours


@dataclass(frozen=True, slots=True)
class Curve:
    """A value over time, which stays from each of its times to the next."""

    times: tuple[float, ...]  # seconds, in ascending order
    values: tuple[float, ...]  # one more: values[i] holds before times[i]

    def at(self, seconds: float) -> float:
        """The value at a time, after all changes there."""
        return self.values[bisect_right(self.times, seconds)]

    def moved(self, start: float, speed: float = 1.0) -> Curve:
        """The curve with times that count from `start` and pass `speed` times as fast.

        What was set before `start` holds from the beginning.
        """
        first = bisect_right(self.times, start)
        times = tuple((seconds - start) / speed for seconds in self.times[first:])
        return Curve(times, self.values[first:])

    def between(self, start: float, end: float) -> tuple[float, ...]:
        """All values that it has from `start` to `end`, which is not included."""
        first = bisect_right(self.times, start)
        return self.values[first : max(bisect_left(self.times, end), first) + 1]


@dataclass(frozen=True, slots=True)
class Course:
    """The level, the place and the pitch of one channel, as far as they are not in its notes."""

    channel: int  # 16 * port + channel, as in Note
    pan: Curve  # 0 (left) to 127 (right)
    pan_moves: bool = False  # within notes
    # Factor of amplitude, relative to the initial volume. None: it is in the notes' velocities and
    # in the fades of the score.
    level: Curve | None = None
    # Semitones above the keys of the notes, see Note.bend. None: it is in the notes' pitches.
    bend: Curve | None = None
    # Depth of vibrato to each side, in semitones. None: there is none.
    vibrato: Curve | None = None

    @property
    def moves(self) -> bool:
        """Whether the channel's sound has to be changed while notes sound."""
        return self.pan_moves or self.level is not None or self.changes_pitch

    @property
    def changes_pitch(self) -> bool:
        """Whether bends or vibrato are played."""
        return self.bend is not None or self.vibrato is not None

    def moved(self, start: float, speed: float = 1.0) -> Course:
        """The course with other times, as `Curve.moved` changes them."""
        curves = (self.level, self.bend, self.vibrato)
        level, bend, vibrato = (curve and curve.moved(start, speed) for curve in curves)
        pan = self.pan.moved(start, speed)
        return Course(self.channel, pan, self.pan_moves, level, bend, vibrato)
