"""Reads a MIDI file as a score: notes in seconds, as loud and as long as they sound.

`note_seq` turns ticks into seconds, finds the instruments and applies the sustain pedal, because
the published models were trained on its notes. Before it sees a file, `parse_smf` has read what
can be read, and `repair` has mended what would get lost or would take gigabytes of memory.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from typing import TYPE_CHECKING, Any, BinaryIO

from spectro_render.errors import MidiError
from spectro_render.midi.repair import RepairedSmf, repair
from spectro_render.midi.score import Note, Score, Track
from spectro_render.midi.smf import MAX_BYTES, NOTE_OFF, NOTE_ON, PROGRAM, SUSTAIN, Event, parse_smf

if TYPE_CHECKING:
    import mido
    from note_seq.protobuf.music_pb2 import NoteSequence

MIDI_SUFFIXES = (".mid", ".midi", ".kar", ".rmi")


def read_midi(source: str | os.PathLike[str] | bytes | BinaryIO) -> Score:
    """Read a MIDI file from a path, from its bytes or from an open binary file.

    Raises MidiError where there is nothing to render: unreadable, no MIDI, no notes.
    """
    smf = repair(parse_smf(read_bytes(source)))
    sequence = _note_sequence(smf)
    if not sequence.notes:
        raise MidiError(*_why_no_notes(smf))
    notes = sorted(_notes(sequence), key=lambda note: note.start)
    return Score(
        notes=tuple(notes),
        duration=max(note.end for note in notes),
        ignored=_ignored(smf.ignored),
        repairs=_repairs(smf.repairs),
        tracks=tuple(_tracks(sequence)),
    )


def read_bytes(source: str | os.PathLike[str] | bytes | BinaryIO) -> bytes:
    """The bytes of a MIDI file, from anything that `read_midi` takes.

    Raises MidiError where they cannot be read, or are more than MAX_BYTES.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        data = bytes(source)
    else:
        data = _read_file(source)
    if len(data) > MAX_BYTES:
        raise MidiError(f"larger than {MAX_BYTES >> 20} MB", "give a Standard MIDI File (.mid)")
    return data


def _read_file(source: str | os.PathLike[str] | BinaryIO) -> bytes:
    try:
        if isinstance(source, (str, os.PathLike)):
            with open(source, "rb") as file:
                return _read_limited(file)
        return _read_limited(source)
    except (OSError, ValueError) as error:  # ValueError: a closed file, a null byte in the path
        reason = getattr(error, "strerror", None) or str(error)
        raise MidiError(f"cannot be opened ({reason})", "check the path") from error


def _read_limited(file: BinaryIO) -> bytes:
    """The whole file, or just enough of it to show that it is too large."""
    data = bytearray()
    while len(data) <= MAX_BYTES and (part := file.read(MAX_BYTES + 1 - len(data))):
        if not isinstance(part, bytes):
            raise MidiError("the file is open as text", "open it in binary mode ('rb')")
        data += part
    return bytes(data)


def _note_sequence(smf: RepairedSmf) -> NoteSequence:
    """The notes in seconds with the pedal applied, by the steps and the arithmetic of note_seq."""
    import pretty_midi

    midi_io, sequences_lib = _note_seq_modules()
    try:
        performance = pretty_midi.PrettyMIDI(mido_object=_mido_file(smf))
        sequence = midi_io.midi_to_note_sequence(performance)
        return sequences_lib.apply_sustain_control_changes(sequence)
    except Exception as error:  # three libraries and whatever a file makes them raise
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise MidiError(f"cannot be read ({reason})", "export the file again") from error


@cache
def _note_seq_modules() -> tuple[Any, Any]:
    """`midi_io` and `sequences_lib` of note_seq, imported without the package's own `__init__`.

    That one imports plotting, data frames and audio tools, which takes most of two seconds and is
    not needed by these two. An `import note_seq` elsewhere, before or after, still gets all of it.
    """
    spec = find_spec("note_seq")
    if spec is None:
        raise ModuleNotFoundError("No module named 'note_seq'", name="note_seq")
    others = {name: sys.modules.pop(name) for name in _loaded("note_seq")}
    sys.modules["note_seq"] = module_from_spec(spec)  # knows its folder, has not run
    try:
        return import_module("note_seq.midi_io"), import_module("note_seq.sequences_lib")
    finally:
        for name in _loaded("note_seq"):
            del sys.modules[name]
        sys.modules.update(others)


def _loaded(package: str) -> list[str]:
    return [name for name in sys.modules if name.partition(".")[0] == package]


def _mido_file(smf: RepairedSmf) -> mido.MidiFile:
    """The file for pretty_midi: only the events that it needs; every track has a name, maybe ''."""
    import mido

    file = mido.MidiFile(type=1, ticks_per_beat=smf.division)
    for track in smf.tracks:
        name = mido.MetaMessage("track_name", name=track.name)
        file.tracks.append(mido.MidiTrack([name, *_messages(track.events)]))
    file.tracks[0][:0] = _tempo_messages(smf.tempos)
    return file


def _messages(events: Iterable[Event]) -> Iterator[mido.Message]:
    from mido import Message

    previous = 0
    for event in events:
        if _is_needed(event):
            size = 1 if event.kind == PROGRAM else 2
            yield Message.from_bytes((event.status, *event[2 : 2 + size]), event.tick - previous)
            previous = event.tick


def _is_needed(event: Event) -> bool:
    return event.kind in (NOTE_ON, NOTE_OFF, PROGRAM) or event.is_control(SUSTAIN)


def _tempo_messages(tempos: Iterable[tuple[int, int]]) -> Iterator[mido.MetaMessage]:
    """Tempo changes, to go before the first track's messages; the last one returns to tick 0."""
    from mido import MetaMessage

    previous = 0
    for tick, tempo in tempos:
        message = MetaMessage("set_tempo", time=tick - previous)
        vars(message)["tempo"] = tempo  # past mido's check: joined ticks can need over three bytes
        yield message
        previous = tick
    yield MetaMessage("text", time=-previous)


def _why_no_notes(smf: RepairedSmf) -> tuple[str, str]:
    if smf.repairs:
        return (
            f"no notes could be read ({'; '.join(_repairs(smf.repairs))})",
            "export the file again",
        )
    return "the MIDI file has no notes", "choose one that has"


def _notes(sequence: NoteSequence) -> Iterator[Note]:
    for note in sequence.notes:
        yield Note(
            start=note.start_time,
            end=note.end_time,
            pitch=note.pitch,
            velocity=note.velocity,
            program=note.program,
            is_drum=note.is_drum,
        )


def _tracks(sequence: NoteSequence) -> Iterator[Track]:
    names = {info.instrument: info.name for info in sequence.instrument_infos}
    counts = Counter((note.instrument, note.program, note.is_drum) for note in sequence.notes)
    for (instrument, program, is_drum), n_notes in sorted(counts.items()):
        yield Track(names.get(instrument, ""), program, is_drum, n_notes)


def _ignored(counts: Counter[str]) -> tuple[str, ...]:
    return tuple(
        f"{phrase} ({count} event{'s' if count > 1 else ''})"
        for phrase, count in counts.most_common()
    )


def _repairs(counts: Counter[str]) -> tuple[str, ...]:
    return tuple(
        f"{phrase} ({count} times)" if count > 1 else phrase
        for phrase, count in counts.most_common()
    )
