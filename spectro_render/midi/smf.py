"""Parses the bytes of a Standard MIDI File, as far as they can be read.

Files found in the wild are often damaged or wrapped: what cannot be understood is left out, and
every such decision is counted in `Smf.repairs`. Only what can be heard is kept; meta events other
than tempo, time signature and track name (key signatures, lyrics) are skipped whatever they hold.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from operator import itemgetter
from typing import Literal, NamedTuple, TypeAlias

from spectro_render.errors import MidiError
from spectro_render.midi.pitch import PITCH_CONTROLLERS
from spectro_render.midi.system import RESET, SystemMessage, is_heard, system_messages
from spectro_render.midi.unplayed import Unplayed

MAX_BYTES = 16 * 2**20  # the largest files that are played at all have a few MB
# Music is packed to a fifth or so. More is unpacked only up to the first number of bytes, so that
# the time that a file takes to read is in proportion to its size.
_PACKED_BYTES, _PACKED_RATIO = 2**20, 10
MAX_EVENTS = 1_000_000  # of those that are kept; bounds the memory that the notes need
_MAX_TRACKS = 65_535  # more than a header can say
_MAX_NAME = 200  # characters

NOTE_OFF, NOTE_ON, CONTROL, PROGRAM = 0x80, 0x90, 0xB0, 0xC0  # status bytes of channel 1
SYSTEM = 0xF0  # system exclusive
# The controllers that are used.
BANK, VOLUME, EXPRESSION, BANK_LSB, SUSTAIN, SOSTENUTO = 0, 7, 11, 32, 64, 66
MODULATION, PAN = 1, 10
ALL_SOUND_OFF, RESET_CONTROLLERS, ALL_NOTES_OFF = 120, 121, 123
MONO, POLY = 126, 127
MODES = range(124, 128)  # omni, mono and poly: each is all-notes-off as well (MIDI 1.0, table III)
_USED_CONTROLLERS = {
    *(BANK, VOLUME, EXPRESSION, BANK_LSB, SUSTAIN, SOSTENUTO, *PITCH_CONTROLLERS),
    *(MODULATION, PAN),
    *(ALL_SOUND_OFF, RESET_CONTROLLERS, ALL_NOTES_OFF, *MODES),
}

PITCH_BEND = 0xE0
_KEY_PRESSURE, _CHANNEL_PRESSURE = 0xA0, 0xD0
_SYSEX, _SYSEX_CONTINUED, _META = 0xF0, 0xF7, 0xFF
_TEXT, _COPYRIGHT = 0x01, 0x02
_MOST_TEXTS = 32  # of a track that are kept, for the composer's name
_TRACK_NAME, _DEVICE, _PORT, _END_OF_TRACK, _TEMPO = 0x03, 0x09, 0x21, 0x2F, 0x51
_TIME_SIGNATURE, _SHORTEST_BEAT = 0x58, 6  # 1/64, as a power of two
_LONGEST_USED = 16  # bytes of a system exclusive message
_SYSTEM_DATA_BYTES = {0xF1: 1, 0xF2: 2, 0xF3: 1}  # the other system messages, even undefined, 0

_GZIP_MAGIC = b"\x1f\x8b"
_HEADER = re.compile(rb"MThd.{4}(.{6})", re.DOTALL)
_DAMAGED_HEADER = re.compile(rb"\0\0\0\x06(.{6})MTrk", re.DOTALL | re.IGNORECASE)
_TRACK_TAG = re.compile(rb"MTrk", re.IGNORECASE)
_EVENT_START = re.compile(rb"[\x80-\xff]{0,4}[\x00-\x7f][\x80-\xff]")  # time step, status byte
_END_OF_TRACK_BYTES = bytes([_META, _END_OF_TRACK, 0])

_DEFAULT_DIVISION = 480  # ticks per quarter note, where the file has none
_SMPTE_RATES = {  # code -> so many frames in so many us; 29 is 30 drop-frame, 29.97 a second
    24: (24, 1_000_000),
    25: (25, 1_000_000),
    29: (30, 1_001_000),
    30: (30, 1_000_000),
}
FORMAT_2 = "format 2: the tracks are played together"  # a repair that loses nothing
_NOT_MIDI_HINT = "give a Standard MIDI File (.mid)"

# A channel message: a plain tuple, as there are many. The fields are the tick from the start of the
# track; the number of the track in the file; the status byte of channel 1; 16 * port + channel,
# from 0, as channels of different ports are different channels; and two data bytes, 0..127: pitch
# and velocity, controller and value, or program and 0. A system exclusive message is for all
# channels of its port; its first value is its place in `Smf.messages`.
Event: TypeAlias = tuple[int, int, int, int, int, int]
TICK = itemgetter(0)


@dataclass
class SmfTrack:
    """One track, with times in ticks."""

    name: str = ""
    events: list[Event] = field(default_factory=list)  # by tick
    tempos: list[tuple[int, int]] = field(default_factory=list)  # (tick, us per quarter note)
    end: int = 0  # tick
    texts: list[str] = field(default_factory=list)  # the first ones
    copyright: str = ""
    # Time signatures: tick, number of beats in a bar, and which part of a whole note a beat is.
    signatures: list[tuple[int, int, int]] = field(default_factory=list)


@dataclass
class Smf:
    """A MIDI file with times in ticks; at one tempo a tick lasts tempo / 1e6 / division seconds."""

    division: int  # ticks per quarter note
    tracks: list[SmfTrack]
    messages: list[SystemMessage]  # the system exclusive ones that are used
    unplayed: Unplayed  # controllers and pressures
    ignored: Counter[str]  # other events that are not played: phrase -> how many
    repairs: Counter[str]  # phrase -> how often
    counts: Literal["beats", "frames", "seconds"] = "beats"  # what times were written in


def parse_smf(data: bytes) -> Smf:
    """Read the first MIDI file in `data`, also within gzip, RIFF, MacBinary or junk.

    Raises MidiError where there is none, or more of it than MAX_EVENTS.
    """
    smf = Smf(_DEFAULT_DIVISION, [], [], Unplayed(), Counter(), Counter())
    data = _gunzip(data) if data.startswith(_GZIP_MAGIC) else data
    start, n_tracks, division = _read_header(data, smf.repairs)
    devices: dict[bytes, int] = {}
    room = MAX_EVENTS
    for chunk in islice(_track_chunks(data, start), _MAX_TRACKS):
        if not chunk.has_true_length:
            smf.repairs["wrong track length"] += 1
        track = _TrackReader(smf, chunk, room, devices).read()
        smf.tracks.append(track)
        room -= len(track.events) + len(track.tempos) + len(track.signatures)
    if not smf.tracks:
        raise MidiError("the MIDI file has no track", "export it again")
    if n_tracks is not None and n_tracks != len(smf.tracks):
        smf.repairs[f"the header promises {n_tracks} tracks, {len(smf.tracks)} found"] += 1
    _set_division(smf, division)
    return smf


def _gunzip(data: bytes) -> bytes:
    most = min(max(_PACKED_BYTES, _PACKED_RATIO * len(data)), MAX_BYTES)
    try:
        unpacked = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(data, most + 1)
    except zlib.error as error:
        raise MidiError(f"the gzip wrapper is damaged ({error})", _NOT_MIDI_HINT) from error
    if len(unpacked) > most:
        raise MidiError(
            f"the gzip wrapper holds more than {most / 2**20:.3g} MB", "unpack it with gunzip first"
        )
    return unpacked


def _read_header(data: bytes, repairs: Counter[str]) -> tuple[int, int | None, int]:
    """Where tracks may start, how many the header promises, and its division as it is written."""
    if header := _HEADER.search(data):
        if header.start() > 0 and not data.startswith((b"RIFF", _GZIP_MAGIC)):
            repairs[f"{header.start()} bytes before the header skipped"] += 1
    elif header := _DAMAGED_HEADER.search(data):
        repairs["the header's name is damaged"] += 1
    elif track := _TRACK_TAG.search(data):
        repairs[f"no header: {_DEFAULT_DIVISION} ticks a quarter note assumed"] += 1
        return track.start(), None, _DEFAULT_DIVISION
    else:
        raise MidiError(f"not a MIDI file ({_describe(data)})", _NOT_MIDI_HINT)
    fields = header[1]
    if int.from_bytes(fields[:2], "big") == 2:
        repairs[FORMAT_2] += 1
    return (
        header.end(1),
        int.from_bytes(fields[2:4], "big"),
        int.from_bytes(fields[4:6], "big", signed=True),
    )


def _describe(data: bytes) -> str:
    return f"{len(data)} bytes without a MIDI header" if data else "it is empty"


class _Chunk(NamedTuple):
    data: bytes
    has_true_length: bool  # otherwise what follows the end-of-track event is not the track's


def _track_chunks(data: bytes, position: int) -> Iterator[_Chunk]:
    """Every track of the first MIDI file in `data`; other chunks and junk are stepped over."""
    while tag := _TRACK_TAG.search(data, position):
        if data.find(b"MThd", position, tag.start()) >= 0:
            return  # another file follows
        start = tag.end() + 4
        end = start + int.from_bytes(data[tag.end() : start], "big")
        has_true_length = _is_track_end(data, end)
        if not has_true_length:
            following = _TRACK_TAG.search(data, start)
            end = following.start() if following else len(data)
        yield _Chunk(data[start:end], has_true_length)
        position = end


def _is_track_end(data: bytes, end: int) -> bool:
    at_chunk = _TRACK_TAG.match(data, end) is not None
    return end == len(data) or at_chunk or data[end - 3 : end] == _END_OF_TRACK_BYTES


class _Damaged(Exception):
    """Raised where a track cannot be read any further."""


class _TrackReader:
    """Reads the events of one track, as far as they can be read."""

    def __init__(self, smf: Smf, chunk: _Chunk, room: int, devices: dict[bytes, int]) -> None:
        """Takes the file as it was read so far, and the numbers of its devices' names."""
        self._number = len(smf.tracks)
        self._data = chunk.data
        self._stop_at_end_of_track = not chunk.has_true_length
        self._room = room  # for so many events
        self._devices = devices
        self._messages = smf.messages
        self._exclusive = b""  # what has been read of a message that comes in several events
        self._unplayed = smf.unplayed
        self._ignored = smf.ignored
        self._repairs = smf.repairs
        self._position = 0
        self._running_status: int | None = None
        self._first_channel = 0  # of the port
        self._has_port = False  # whether it is numbered
        self._track = SmfTrack()

    def read(self) -> SmfTrack:
        try:
            while self._position < len(self._data):
                self._read_plain_events()
                if self._position < len(self._data):
                    self._read_event()
        except _Damaged as damage:
            self._repairs[f"{damage}: the rest of the track is left out"] += 1
        self._track.events.sort(key=TICK)  # negative time steps
        return self._track

    def _read_plain_events(self) -> None:
        """Read the most common events, faster than `_read_event` but with the same result.

        Those are faultless notes after a time step of one or two bytes.
        """
        data, end = self._data, len(self._data) - 5  # a time step, a status and two data bytes
        position, tick, status = self._position, self._track.end, self._running_status
        number, first_channel, events = self._number, self._first_channel, self._track.events
        limit = self._room - len(self._track.tempos) - len(self._track.signatures)
        while position < end and len(events) < limit:
            at, step = position + 1, data[position]
            if step > 0x7F:
                if data[at] > 0x7F:
                    break
                at, step = at + 1, (step & 0x7F) << 7 | data[at]
            if data[at] > 0x7F:
                new_status = data[at]
                at += 1
            elif status is None:
                break
            else:
                new_status = status
            first, second = data[at], data[at + 1]
            kind = new_status & 0xF0
            if (kind != NOTE_ON and kind != NOTE_OFF) or first > 0x7F or second > 0x7F:
                break
            position, tick, status = at + 2, tick + step, new_status
            channel = first_channel + (status & 0x0F)
            events.append((tick, number, kind, channel, first, second))
        self._position, self._track.end, self._running_status = position, tick, status

    def _read_event(self) -> None:
        self._advance(self._read_number())
        status = self._read_status()
        if status is None:
            self._resynchronise()
        elif status == _META:
            self._read_meta()
        elif status in (_SYSEX, _SYSEX_CONTINUED):
            self._read_sysex(status)
        elif status > _SYSEX:
            self._take(_SYSTEM_DATA_BYTES.get(status, 0))
        else:
            self._read_channel_message(status)

    def _advance(self, delta: int) -> None:
        if delta >= 2**31:
            self._repairs["negative time step"] += 1
            delta -= 2**32
        self._track.end = max(0, self._track.end + delta)

    def _read_byte(self) -> int:
        return self._take(1)[0]

    def _take(self, size: int) -> bytes:
        start, self._position = self._position, self._position + size
        if self._position > len(self._data):
            raise _Damaged("a track ends inside an event")
        return self._data[start : self._position]

    def _read_number(self) -> int:
        """A variable-length quantity: seven bits a byte, the last one below 128."""
        value = 0
        for _ in range(5):  # the standard allows 4; some programs write 32 bits
            byte = self._read_byte()
            value = value << 7 | byte & 0x7F
            if byte < 0x80:
                return value
        raise _Damaged("a number has no end")

    def _read_status(self) -> int | None:
        byte = self._read_byte()
        if byte < 0x80:
            self._position -= 1  # the first data byte of the same kind of event
            return self._running_status
        if byte < _SYSEX:
            self._running_status = byte
        return byte

    def _resynchronise(self) -> None:
        """Skip to the next place where an event can start; if there is none, read data as notes."""
        self._repairs["event without a status byte"] += 1
        if event := _EVENT_START.search(self._data, self._position):
            self._position = event.start()
        else:
            self._running_status = NOTE_ON
            self._read_channel_message(NOTE_ON)

    def _read_meta(self) -> None:
        kind = self._read_byte()
        data = self._take(self._read_number())
        if kind == _TEMPO:
            self._add_tempo(data)
        elif kind == _TIME_SIGNATURE:
            self._add_signature(data)
        elif kind == _TRACK_NAME and not self._track.name:
            self._track.name = _decode(data)[:_MAX_NAME]
        elif kind == _TEXT and len(self._track.texts) < _MOST_TEXTS:
            self._track.texts.append(_decode(data)[:_MAX_NAME])
        elif kind == _COPYRIGHT and not self._track.copyright:
            self._track.copyright = _decode(data)[:_MAX_NAME]
        elif kind == _PORT and data:
            self._first_channel, self._has_port = 16 * data[0], True
        elif kind == _DEVICE and not self._has_port:  # a port by its name (RP-019)
            self._first_channel = 16 * self._devices.setdefault(data, len(self._devices))
        elif kind == _END_OF_TRACK and self._stop_at_end_of_track:
            self._position = len(self._data)

    def _read_sysex(self, status: int) -> None:
        data = self._take(self._read_number())
        self._add_exclusive(data if status == _SYSEX else self._exclusive + data)
        if status == _SYSEX and data[-1:] != b"\xf7" and not self._is_at_event(self._position):
            if self._is_at_event(self._position - 1):
                self._position -= 1  # the length counts an end byte that is missing
                self._repairs["system exclusive message without an end"] += 1

    def _add_exclusive(self, data: bytes) -> None:
        is_whole = data[-1:] == b"\xf7"
        messages = system_messages(data[:-1] if is_whole else data)
        self._exclusive = b"" if is_whole or messages or len(data) > _LONGEST_USED else data
        for message in messages:
            if message.kind == RESET:
                self._unplayed.reset(self._track.end, self._first_channel // 16)
            self._make_room()
            event = (SYSTEM, self._first_channel, len(self._messages), 0)
            self._track.events.append((self._track.end, self._number, *event))
            self._messages.append(message)
        if is_whole and not messages and is_heard(data[:-1]):
            self._ignored["system exclusive"] += 1

    def _is_at_event(self, position: int) -> bool:
        return _EVENT_START.match(self._data, position) is not None

    def _add_tempo(self, data: bytes) -> None:
        tempo = int.from_bytes(data[:3], "big")
        if len(data) >= 3 and tempo > 0:
            self._make_room()
            self._track.tempos.append((self._track.end, tempo))
        else:
            self._repairs["an impossible tempo left out"] += 1

    def _add_signature(self, data: bytes) -> None:
        if len(data) >= 2 and data[0] and data[1] <= _SHORTEST_BEAT:
            self._make_room()
            self._track.signatures.append((self._track.end, data[0], 2 ** data[1]))

    def _read_channel_message(self, status: int) -> None:
        kind = status & 0xF0
        size = 1 if kind in (PROGRAM, _CHANNEL_PRESSURE) else 2
        data = self._take(size)
        if max(data) > 127:
            self._repairs["data byte above 127 clipped"] += 1
            data = bytes(min(byte, 127) for byte in data)
        first, second = data[0], data[1] if size == 2 else 0
        channel = self._first_channel + (status & 0x0F)
        if kind in (_KEY_PRESSURE, _CHANNEL_PRESSURE) or (
            kind == CONTROL and first not in _USED_CONTROLLERS
        ):
            self._unplayed.take(self._track.end, channel, kind, first, second)
            return
        if kind == CONTROL and first == RESET_CONTROLLERS:
            self._unplayed.reset_controllers(self._track.end, channel)
        self._make_room()
        event = (self._track.end, self._number, kind, channel, first, second)
        self._track.events.append(event)

    def _make_room(self) -> None:
        track = self._track
        if len(track.events) + len(track.tempos) + len(track.signatures) >= self._room:
            raise MidiError(f"more than {MAX_EVENTS:,} MIDI events", "split the file")


def _decode(name: bytes) -> str:
    try:
        return name.decode("utf-8")
    except UnicodeDecodeError:
        return name.decode("latin-1")


def _set_division(smf: Smf, division: int) -> None:
    """Ticks per quarter note; SMPTE time becomes quarter notes of about a second each."""
    code, ticks_per_frame = -(division >> 8), division & 0xFF
    if division > 0:
        smf.division = division
    elif code not in _SMPTE_RATES or ticks_per_frame == 0:
        smf.repairs[f"impossible division {division}: {_DEFAULT_DIVISION} assumed"] += 1
    else:
        frames, microseconds = _SMPTE_RATES[code]
        for track in smf.tracks:
            track.tempos = []  # SMPTE time has no tempo
        smf.tracks[0].tempos = [(0, microseconds)]
        smf.division = frames * ticks_per_frame
        smf.counts = "frames"
