"""The records of notes, and of settings of channels, while a file is read."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field

SOUNDING = -1  # in place of a tick


@dataclass(eq=False, slots=True)
class PlayedNote:
    """A note of a file while it is read, with times in ticks."""

    start: int  # tick
    end: int  # tick; SOUNDING while it sounds
    pitch: int
    velocity: int  # as in the file
    program: int  # of the channel when the note started
    is_drum: bool
    channel: int  # 16 * port + channel
    track: int
    # Whether a note-off of its pitch and track is at the same tick, which ended no other note. If
    # the track has none later, the note has no length: some programs write its end first.
    follows_an_end: bool
    is_variation: bool = False  # of the instrument or kit, by a bank
    # Number of the note in its file; 0 also for a note that the sostenuto pedal holds from the
    # start. The pedal holds the notes whose numbers are below that of the next when it is pressed.
    number: int = 0
    start_seconds: float = 0.0
    end_seconds: float = 0.0


@dataclass(eq=False, slots=True)
class Setting:
    """The value of a controller over time."""

    initial: int
    ticks: list[int] = field(default_factory=list)
    values: list[int] = field(default_factory=list)  # values[i] holds from ticks[i] on

    def set(self, tick: int, value: int) -> None:
        """Set the value from a tick on, which is no earlier than the one before."""
        if self.ticks and self.ticks[-1] == tick:
            self.values[-1] = value
        elif value != (self.values[-1] if self.values else self.initial):
            self.ticks.append(tick)
            self.values.append(value)

    def at(self, tick: int) -> int:
        """The value at a tick, after all that happens there."""
        index = bisect_right(self.ticks, tick)
        return self.values[index - 1] if index else self.initial
