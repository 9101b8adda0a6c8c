"""Reads the objects of other libraries as MIDI files are read: note_seq's and pretty_midi's.

Neither library is imported here: a caller with such an object has imported it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from spectro_render.errors import MidiError
from spectro_render.midi.notes import DRUM_CHANNEL
from spectro_render.midi.smf import (
    CONTROL,
    NOTE_OFF,
    NOTE_ON,
    PITCH_BEND,
    PROGRAM,
    Event,
    Smf,
    SmfTrack,
)
from spectro_render.midi.tempo import Clock
from spectro_render.midi.unplayed import Unplayed

if TYPE_CHECKING:
    from note_seq.protobuf.music_pb2 import NoteSequence
    from pretty_midi import PrettyMIDI

_TICK = 0.001  # seconds that a note without length lasts


@dataclass
class _Part:
    """One instrument: events as seconds, status byte and two data bytes."""

    name: str
    program: int
    is_drum: bool
    controls: list[tuple[float, int, int, int]] = field(default_factory=list)
    starts: list[tuple[float, int, int, int]] = field(default_factory=list)
    ends: list[tuple[float, int, int, int]] = field(default_factory=list)

    def add_note(self, start: float, end: float, pitch: int, velocity: int) -> None:
        self.starts.append((start, NOTE_ON, pitch, velocity))
        self.ends.append((end, NOTE_OFF, pitch, 0))

    def add_bend(self, seconds: float, bend: int) -> None:
        value = min(max(bend + 8192, 0), 16383)
        self.controls.append((seconds, PITCH_BEND, value & 0x7F, value >> 7))


class _ListedClock(Clock):
    """Converts ticks to listed times: tick 2 n is time n, tick 2 n + 1 is slightly later."""

    def __init__(self, times: Sequence[float]) -> None:
        self._times = times

    def seconds(self, ticks: Iterable[int]) -> Iterator[float]:
        for tick in ticks:
            yield self._times[tick // 2] + tick % 2 * _TICK

    def last_tick(self, seconds: float) -> int:
        return 2 * bisect_right(self._times, seconds) - 1


def is_note_sequence(source: object) -> bool:
    """Whether an object is a note_seq.NoteSequence."""
    return type(source).__name__ == "NoteSequence" and hasattr(source, "total_time")


def is_pretty_midi(source: object) -> bool:
    """Whether an object is a pretty_midi.PrettyMIDI, or of a class made of it."""
    return any(kind.__name__ == "PrettyMIDI" for kind in type(source).__mro__)


def from_note_sequence(sequence: NoteSequence) -> tuple[Smf, Clock]:
    """The events of a NoteSequence. Raises MidiError for one that is quantized."""
    if sequence.HasField("quantization_info"):
        raise MidiError("the NoteSequence is quantized", "give the one that it was made from")
    names = {info.instrument: info.name for info in sequence.instrument_infos}
    parts: dict[tuple[int, int, bool], _Part] = {}

    def part_of(event: Any) -> _Part:
        key = (event.instrument, event.program, event.is_drum)
        return parts.setdefault(key, _Part(names.get(event.instrument, ""), *key[1:]))

    for note in sequence.notes:
        part_of(note).add_note(note.start_time, note.end_time, note.pitch, note.velocity)
    for change in sequence.control_changes:
        event = (change.time, CONTROL, change.control_number, change.control_value)
        part_of(change).controls.append(event)
    for bend in sequence.pitch_bends:
        part_of(bend).add_bend(bend.time, bend.bend)
    return _events(list(parts.values()), sequence.total_time)


def from_pretty_midi(midi: PrettyMIDI) -> tuple[Smf, Clock]:
    """The events of a PrettyMIDI."""
    parts = []
    for instrument in midi.instruments:
        part = _Part(instrument.name, instrument.program, instrument.is_drum)
        for note in instrument.notes:
            part.add_note(note.start, note.end, note.pitch, note.velocity)
        part.controls = [
            (change.time, CONTROL, change.number, change.value)
            for change in instrument.control_changes
        ]
        for bend in instrument.pitch_bends:
            part.add_bend(bend.time, bend.pitch)
        parts.append(part)
    return _events(parts, midi.get_end_time())


def _events(parts: Sequence[_Part], end: float) -> tuple[Smf, Clock]:
    """A file with a port for each part. At one time controls come first, ends last."""
    every = [event for part in parts for event in (*part.controls, *part.starts, *part.ends)]
    times = sorted({0.0, end, *(float(event[0]) for event in every)})
    places = {seconds: 2 * place for place, seconds in enumerate(times)}
    tracks = []
    for number, part in enumerate(parts):
        channel = 16 * number + (DRUM_CHANNEL if part.is_drum else 0)
        events: list[Event] = [(0, number, PROGRAM, channel, part.program, 0)]
        for seconds, kind, first, second in sorted(
            (*part.controls, *part.starts, *part.ends), key=lambda event: event[0]
        ):
            events.append((places[float(seconds)], number, kind, channel, first, second))
        tracks.append(SmfTrack(part.name, events, [], places[end]))
    smf = Smf(2, tracks or [SmfTrack()], [], Unplayed(), Counter(), Counter(), "seconds")
    return smf, _ListedClock(times)
