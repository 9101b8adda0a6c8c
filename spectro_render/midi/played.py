"""The record of a note while a file is read."""

from __future__ import annotations

from dataclasses import dataclass

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
