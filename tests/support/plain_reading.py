"""A second reading of MIDI files, as plain and slow as can be, to compare the program's with.

It shares no code with it: mido parses the file, and every event looks at every note.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field

import mido

DRUMS = 9


@dataclass(eq=False)
class PlainNote:
    """A note in ticks."""

    start: int
    pitch: int
    program: int
    channel: tuple[int, int]  # port, channel
    track: int
    end_came_first: bool
    end: int | None = None
    is_key_down: bool = True
    is_latched: bool = False

    @property
    def is_drum(self) -> bool:
        return self.channel[1] == DRUMS


@dataclass
class PlainChannel:
    """What one channel of one port is set to."""

    program: int = 0
    sustain: bool = False
    sostenuto: bool = False
    lonely_offs: set[tuple[int, int, int]] = field(default_factory=set)  # tick, track, pitch


def plain_notes(data: bytes) -> list[PlainNote]:
    """The notes of a faultless file in which every track has an end."""
    file = mido.MidiFile(file=io.BytesIO(data), clip=True)
    events: list[tuple[int, int, int, mido.Message]] = []
    ends = []
    for number, track in enumerate(file.tracks):
        tick = port = 0
        for message in track:
            tick += message.time
            if message.type == "midi_port":
                port = message.port
            elif not message.is_meta:
                events.append((tick, number, port, message))
        ends.append(tick)
    events.sort(key=lambda event: event[0])

    channels: dict[tuple[int, int], PlainChannel] = {}
    notes: list[PlainNote] = []
    last = 0
    for tick, track, port, message in events:
        key = (port, message.channel)
        channel = channels.setdefault(key, PlainChannel())
        sounding = [note for note in notes if note.channel == key and note.end is None]
        down = [note for note in notes if note.channel == key and note.is_key_down]
        released: list[PlainNote] = []
        is_pedal = message.type == "control_change" and message.control in (64, 66)
        is_on = message.type == "note_on" and message.velocity > 0
        if is_pedal or (is_on and message.channel != DRUMS):
            last = tick
        if is_on:
            is_latched = False
            for note in sounding:
                is_held = not note.is_key_down or channel.sustain
                if note.pitch == message.note and is_held and not note.is_drum:
                    note.end = tick
                    is_latched = is_latched or note.is_latched
            came_first = (tick, track, message.note) in channel.lonely_offs
            notes.append(PlainNote(tick, message.note, channel.program, key, track, came_first))
            notes[-1].is_latched = is_latched
        elif message.type in ("note_on", "note_off"):
            same = [note for note in down if note.pitch == message.note]
            released = [note for note in same if note.start < tick]
            if not released:
                released = [note for note in same if note.track == track]
            if not any(note.track == track for note in released):
                channel.lonely_offs.add((tick, track, message.note))
        elif message.type == "program_change":
            channel.program = message.program
        elif message.control == 64:
            channel.sustain = message.value >= 64
        elif message.control == 66:
            if message.value >= 64 and not channel.sostenuto:
                for note in down:
                    note.is_latched = True
            channel.sostenuto = message.value >= 64
        elif message.control == 120:
            for note in sounding:
                note.end = max(tick, note.start + 1)
            for note in down:
                note.is_key_down = False
        elif message.control == 121:
            channel.sustain = channel.sostenuto = False
        elif message.control >= 123:
            released = down
        if not channel.sostenuto:
            for note in sounding:
                note.is_latched = False
        for note in released:
            note.is_key_down = False
            end = tick
            if note.end_came_first and note.track != track and message.type[:4] == "note":
                end = note.start
            if note.end is None and not note.is_drum:
                last = max(last, end)
            if note.end is None and (note.is_drum or not (channel.sustain or note.is_latched)):
                note.end = max(end, note.start + 1)
        if not channel.sustain:
            for note in sounding:
                if note.end is None and not (note.is_key_down or note.is_latched or note.is_drum):
                    note.end = max(tick, note.start + 1)

    for note in [note for note in notes if note.is_key_down and note.end is None]:
        again = [
            other.start
            for other in notes
            if other.is_key_down
            and (other.channel, other.pitch) == (note.channel, note.pitch)
            and other.start > note.start
        ]
        note.end = note.start + 1
        if not note.end_came_first:
            later = [*again, *([ends[note.track]] if ends[note.track] > note.start else [])]
            note.end = again[0] if again else min(later, default=note.start + file.ticks_per_beat)
        last = max(last, note.end)
    for note in notes:
        note.end = max(last, note.start + 1) if note.end is None else note.end
    return [note for note in notes if note.end != note.start]
