"""Plays a parsed MIDI file as a synthesiser does, and writes down the notes that sound.

All tracks are played together, events in the order of the file where they are at one tick. What
events set (program, pedals, volume) belongs to the channel, whichever track they are in.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain

from spectro_render.midi.course import CENTRE
from spectro_render.midi.loudness import Levels
from spectro_render.midi.pitch import PITCH_CONTROLLERS, Pitch
from spectro_render.midi.played import SOUNDING, PlayedNote, Setting
from spectro_render.midi.smf import (
    ALL_NOTES_OFF,
    ALL_SOUND_OFF,
    BANK,
    BANK_LSB,
    CONTROL,
    EXPRESSION,
    MODES,
    MODULATION,
    MONO,
    NOTE_OFF,
    NOTE_ON,
    PAN,
    PITCH_BEND,
    POLY,
    PROGRAM,
    RESET_CONTROLLERS,
    SOSTENUTO,
    SUSTAIN,
    SYSTEM,
    TICK,
    VOLUME,
    Event,
    Smf,
)
from spectro_render.midi.system import (
    COARSE_TUNING,
    FINE_TUNING,
    GM2,
    GS,
    KEY_SHIFT,
    PART_MODE,
    RESET,
    XG,
    SystemMessage,
)
from spectro_render.midi.system import VOLUME as MASTER_VOLUME
from spectro_render.midi.tempo import MAX_SECONDS, Clock

DRUM_CHANNEL = 9  # the tenth, unless the file says otherwise
STANDARD_KIT, ORCHESTRA_KIT = 0, 48  # programs
# The keys of the orchestra kit that are timpani, tuned to their pitch (GS, GM2, SC-55 manual); they
# are played by the instrument of that name.
TIMPANI_KEYS, TIMPANI = range(41, 54), 47

_NO_END = "note never switched off, closed at the next of its pitch or the track's end"
_IS_DOWN = 64  # the least value at which a pedal is down


@dataclass(eq=False, slots=True)
class _Key:
    """The notes of a pitch whose note-off has not come.

    They may have ended, where their pitch was struck again under the pedal.
    """

    tick: int = -1  # at which the latest started
    latest: dict[int, list[PlayedNote]] = field(default_factory=dict)  # of that tick, by track
    earlier: list[PlayedNote] = field(default_factory=list)
    open: list[PlayedNote] = field(default_factory=list)  # all that have not ended are in here
    least: int = 1 << 62  # number of a note

    def add(self, note: PlayedNote) -> None:
        if note.start > self.tick:
            for notes in self.latest.values():
                self.earlier += notes
            self.latest, self.tick = {}, note.start
        self.latest.setdefault(note.track, []).append(note)
        self.open.append(note)
        self.least = min(self.least, note.number)

    def notes(self) -> list[PlayedNote]:
        """All notes, by their starts."""
        return [*self.earlier, *chain.from_iterable(self.latest.values())]

    def take_before(self) -> list[PlayedNote]:
        """Take out the notes that started before the latest."""
        notes, self.earlier = self.earlier, []
        self.open = self.notes()
        self.least = min(note.number for note in self.open)
        return notes


@dataclass(eq=False, slots=True)
class _Channel:
    """The state of one channel of one port."""

    number: int
    is_drum: bool
    program: int = 0
    bank: int = 0
    bank_lsb: int = 0
    is_bank_new: bool = False  # whether it was selected after the last program change
    is_variation: bool = False  # of the program, by its bank
    is_sustained: bool = False  # by the pedal
    is_sostenuto: bool = False
    latched: int = 0  # the sostenuto pedal holds keys whose notes have numbers below this
    sounding: int = 0  # notes that have not ended
    is_mono: bool = False
    mono_overlaps: int = 0  # notes that would end others
    other_parameters: int = 0  # how often one was set that is not played
    levels: Levels = field(default_factory=Levels)
    pitch: Pitch = field(default_factory=Pitch)
    pan: Setting = field(default_factory=lambda: Setting(CENTRE))
    modulation: Setting = field(default_factory=lambda: Setting(0))
    down: dict[int, _Key] = field(default_factory=dict)  # by pitch
    held: dict[int, list[PlayedNote]] = field(default_factory=dict)  # by the pedal alone
    caught: dict[int, list[PlayedNote]] = field(default_factory=dict)  # by the sostenuto pedal
    # By pitch: tick and track of the last note-off that ended no note of its track.
    stray_ends: dict[int, tuple[int, int]] = field(default_factory=dict)

    def is_latched(self, number: int) -> bool:
        """Whether the sostenuto pedal holds a note of this number, if its key is down."""
        return number < self.latched

    def end(self, note: PlayedNote, tick: int) -> None:
        """End a note that sounds."""
        note.end = tick
        self.sounding -= 1


@dataclass(frozen=True)
class Performance:
    """The notes of a file, and what its channels did meanwhile."""

    notes: list[PlayedNote]  # in the order of their starts; all have ended
    levels: dict[int, Levels]  # by channel
    pitches: dict[int, Pitch]  # likewise
    pans: dict[int, Setting]
    modulations: dict[int, Setting]


def play(smf: Smf, clock: Clock) -> Performance:
    """Play a file, and add what had to be repaired to `smf.repairs`."""
    player = _Player()
    player.play(_merged(smf, clock.last_tick(MAX_SECONDS)), smf.messages)
    player.stop(smf)
    notes = [note for note in player.notes if note.end > note.start]
    levels = {number: channel.levels for number, channel in player.channels.items()}
    pitches = {number: channel.pitch for number, channel in player.channels.items()}
    pans = {number: channel.pan for number, channel in player.channels.items()}
    modulations = {number: channel.modulation for number, channel in player.channels.items()}
    smf.ignored.update(smf.unplayed.count((note.channel, note.start, note.end) for note in notes))
    if any(channel.other_parameters for channel in player.channels.values()):
        sounding = {note.channel for note in notes}
        parameters = sum(player.channels[number].other_parameters for number in sounding)
        smf.ignored.update({"sound parameter": parameters} if parameters else {})
    if overlaps := sum(channel.mono_overlaps for channel in player.channels.values()):
        smf.ignored["overlap of notes in mono mode"] += overlaps
    return Performance(notes, levels, pitches, pans, modulations)


def _merged(smf: Smf, limit: int) -> list[Event]:
    """All events in the order of their ticks. Those after tick `limit` are left out."""
    for track in smf.tracks:
        if track.end > limit:
            kept = [event for event in track.events if event[0] <= limit]
            if lost := len(track.events) - len(kept):
                smf.repairs[f"event past {MAX_SECONDS // 3600} hours left out"] += lost
            track.events = kept
            track.end = max(map(TICK, kept), default=0)
    events = chain.from_iterable(track.events for track in smf.tracks)
    return sorted(events, key=TICK)  # stable


class _Player:
    """Plays events in the order in which they come."""

    def __init__(self) -> None:
        self.notes: list[PlayedNote] = []
        self.channels: dict[int, _Channel] = {}
        self._modes: dict[int, str] = {}  # by port: whose rules hold
        self._tunings: dict[int, dict[str, float]] = {}  # by port and kind, in semitones
        self._last_tick = 0  # of pitched notes and pedals

    def play(self, events: Iterable[Event], messages: Sequence[SystemMessage]) -> None:
        channels = self.channels
        for tick, track, kind, number, first, second in events:
            channel = channels.get(number) or self._channel(number)
            if kind == NOTE_ON and second:
                self._start(channel, tick, track, first, second)
            elif kind in (NOTE_ON, NOTE_OFF):
                self._release_key(channel, tick, track, first)
            elif kind == PROGRAM:
                self._set_program(channel, first)
            elif kind == CONTROL:
                self._control(channel, tick, first, second)
            elif kind == PITCH_BEND:
                channel.pitch.bend(tick, second << 7 | first)
            elif kind == SYSTEM:
                self._obey(number // 16, tick, messages[first])

    def _channel(self, number: int) -> _Channel:
        """The channel of this number, which is made if it is not there yet."""
        channel = self.channels.get(number)
        if channel is None:
            channel = _Channel(number, number % 16 == DRUM_CHANNEL)
            self.channels[number] = channel
        return channel

    def _start(self, channel: _Channel, tick: int, track: int, pitch: int, velocity: int) -> None:
        is_drum, program = channel.is_drum, channel.program
        if is_drum and program == ORCHESTRA_KIT and pitch in TIMPANI_KEYS:
            # XG's kit of this number has toms there.
            if self._modes.get(channel.number // 16) != XG:
                is_drum, program = False, TIMPANI
        if channel.is_mono and channel.sounding:
            channel.mono_overlaps += not is_drum
        caught = channel.caught.pop(pitch, []) if channel.caught else []
        again = [*channel.held.pop(pitch, []), *caught] if channel.held or caught else []
        key = channel.down.setdefault(pitch, _Key())
        is_latched = bool(caught)  # that string is not damped
        if channel.is_sustained and not is_drum:
            again += key.open
            key.open = []
            is_latched = is_latched or channel.is_latched(key.least)
        for note in again:
            if note.end == SOUNDING:
                channel.end(note, tick)
        follows_an_end = channel.stray_ends.get(pitch) == (tick, track)
        note = PlayedNote(
            *(tick, SOUNDING, pitch, velocity, program, is_drum),
            *(channel.number, track, follows_an_end, channel.is_variation),
            0 if is_latched else len(self.notes),
        )
        self.notes.append(note)
        key.add(note)
        channel.sounding += 1
        if not is_drum:
            self._last_tick = tick

    def _set_program(self, channel: _Channel, program: int) -> None:
        """Set the program; the bank decides whether it is an instrument or a drum kit."""
        channel.program = program
        mode = self._modes.get(channel.number // 16)
        if channel.is_bank_new:
            channel.is_drum = _is_drum(mode, channel)
            channel.is_bank_new = False
        channel.is_variation = _is_variation(mode, channel)

    def _obey(self, port: int, tick: int, message: SystemMessage) -> None:
        channels = [self._channel(number) for number in range(16 * port, 16 * port + 16)]
        if message.kind == RESET:
            self._modes[port] = message.mode
            self._tunings.pop(port, None)
            for channel in channels:
                self._reset(channel, tick)
        elif message.kind in (FINE_TUNING, COARSE_TUNING):
            tunings = self._tunings.setdefault(port, {})
            tunings[message.kind] = message.value
            for channel in channels:
                channel.pitch.master = sum(tunings.values())
                channel.pitch.update(tick)
        elif message.kind == MASTER_VOLUME:
            for channel in channels:
                channel.levels.master = message.value
                channel.levels.update(tick)
        elif message.kind == PART_MODE:
            self._modes.setdefault(port, message.mode)
            channels[message.channel].is_drum = bool(message.value)
        elif message.kind == KEY_SHIFT:
            channels[message.channel].pitch.shift = message.value
            channels[message.channel].pitch.update(tick)
        else:
            kind, first, second = message.event
            if kind == PROGRAM:
                self._set_program(channels[message.channel], first)
            else:
                self._control(channels[message.channel], tick, first, second)

    def _reset(self, channel: _Channel, tick: int) -> None:
        """Silence a channel and set it to what it was at the beginning."""
        channel.levels.master = 1.0
        for controller, value in ((ALL_SOUND_OFF, 0), (RESET_CONTROLLERS, 0), (VOLUME, 100)):
            self._control(channel, tick, controller, value)
        channel.pan.set(tick, CENTRE)
        channel.is_drum = channel.number % 16 == DRUM_CHANNEL
        channel.program = channel.bank = channel.bank_lsb = 0
        channel.is_bank_new = channel.is_variation = channel.is_mono = False
        channel.pitch.reset(tick)

    def _release_key(self, channel: _Channel, tick: int, track: int, pitch: int) -> None:
        """End all notes of a pitch at its note-off, except notes that begin at the same tick.

        If there are no others, it ends those of its own track: they have no length.
        """
        key = channel.down.get(pitch)
        notes: list[PlayedNote] = []
        if key is not None and key.tick == tick and key.earlier:
            notes = key.take_before()
        elif key is not None and key.tick == tick:
            notes = key.latest.pop(track, [])
        elif key is not None:
            notes = key.notes()
        if key is not None and (key.tick < tick or not key.latest):
            del channel.down[pitch]
        has_own = False
        for note in notes:
            is_own = note.track == track
            has_own = has_own or is_own
            self._release(channel, note, tick if is_own or not note.follows_an_end else note.start)
        if not has_own:
            channel.stray_ends[pitch] = (tick, track)

    def _release(self, channel: _Channel, note: PlayedNote, tick: int) -> None:
        """End a note, unless a pedal holds it; a note without length gets a tick."""
        if note.end != SOUNDING:
            return
        if not note.is_drum:
            self._last_tick = max(self._last_tick, tick)
        if channel.is_latched(note.number) and not note.is_drum:
            channel.caught.setdefault(note.pitch, []).append(note)
        elif channel.is_sustained and not note.is_drum:
            channel.held.setdefault(note.pitch, []).append(note)
        else:
            channel.end(note, max(tick, note.start + 1))

    def _control(self, channel: _Channel, tick: int, controller: int, value: int) -> None:
        if controller == BANK:
            channel.bank, channel.is_bank_new = value, True
        elif controller == BANK_LSB:
            channel.bank_lsb = value
        elif controller == VOLUME:
            channel.levels.set_volume(tick, value)
        elif controller == EXPRESSION:
            channel.levels.set_expression(tick, value)
        elif controller == PAN:
            channel.pan.set(tick, value)
        elif controller == MODULATION:
            channel.modulation.set(tick, value)
        elif controller in PITCH_CONTROLLERS:
            channel.other_parameters += not channel.pitch.control(tick, controller, value)
        elif controller == SUSTAIN:
            self._last_tick = tick
            channel.is_sustained = value >= _IS_DOWN
            self._lift(channel, tick)
        elif controller == SOSTENUTO:
            self._last_tick = tick
            self._set_sostenuto(channel, tick, value >= _IS_DOWN)
        elif controller == RESET_CONTROLLERS:  # MIDI recommended practice RP-015
            channel.levels.set_expression(tick, 127)
            channel.pitch.reset_controllers(tick)
            channel.modulation.set(tick, 0)
            channel.is_sustained = False
            self._set_sostenuto(channel, tick, False)
        elif controller == ALL_SOUND_OFF:
            keys = chain.from_iterable(key.notes() for key in channel.down.values())
            for note in chain(keys, *channel.held.values(), *channel.caught.values()):
                if note.end == SOUNDING:
                    channel.end(note, max(tick, note.start + 1))
            channel.down.clear()
            channel.held.clear()
            channel.caught.clear()
        elif controller == ALL_NOTES_OFF or controller in MODES:
            if controller in (MONO, POLY):
                channel.is_mono = controller == MONO
            down, channel.down = channel.down, {}
            for note in chain.from_iterable(key.notes() for key in down.values()):
                self._release(channel, note, tick)

    def _set_sostenuto(self, channel: _Channel, tick: int, is_down: bool) -> None:
        """Press or lift the sostenuto pedal. It holds notes whose keys are down at the press."""
        if is_down and not channel.is_sostenuto:
            channel.latched = len(self.notes)
        elif not is_down:
            channel.latched = 0
            for pitch, notes in channel.caught.items():
                channel.held.setdefault(pitch, []).extend(notes)
            channel.caught = {}
            self._lift(channel, tick)
        channel.is_sostenuto = is_down

    def _lift(self, channel: _Channel, tick: int) -> None:
        """End the notes that were held by the pedal alone, if it is up."""
        if channel.is_sustained:
            return
        held, channel.held = channel.held, {}
        for note in chain.from_iterable(held.values()):
            channel.end(note, max(tick, note.start + 1))

    def stop(self, smf: Smf) -> None:
        """End the notes that still sound: those held by a pedal with the last event."""
        hanging = 0
        for channel in self.channels.values():
            for key in channel.down.values():
                for note, end in _hanging_ends(key.notes(), smf):
                    hanging += not note.follows_an_end
                    note.end = end
                    self._last_tick = max(self._last_tick, end)
        if hanging:
            smf.repairs[_NO_END] += hanging
        for channel in self.channels.values():
            for note in chain(*channel.held.values(), *channel.caught.values()):
                note.end = max(self._last_tick, note.start + 1)


def _is_drum(mode: str | None, channel: _Channel) -> bool:
    """Whether a channel has drums after a bank and a program were selected.

    GM2 has drums in bank 120 and instruments in 121 (RP-024, 3.3), XG drums in 127 and 126 and
    instruments in the others. In GS banks are variations of an instrument. Where a file does not
    say whose rules it follows, 120, 126 and 127 are drums, as no others use them so.
    """
    bank, is_tenth = channel.bank, channel.number % 16 == DRUM_CHANNEL
    if mode == GS or (mode == GM2 and bank not in (120, 121)):
        return channel.is_drum
    if mode == GM2:
        return bank == 120
    if mode == XG:
        return bank in (126, 127) or (is_tenth and bank == 0)
    return bank in (120, 126, 127) or is_tenth


def _is_variation(mode: str | None, channel: _Channel) -> bool:
    """Whether a channel's bank has other sounds than those of General MIDI or of the drum kits.

    XG and GM2 number variations by the LSB, GS and devices without such rules by the MSB. XG has
    sound effects in banks 64 and 126.
    """
    bank, lsb = channel.bank, channel.bank_lsb
    if channel.is_drum:
        return bank == 126 and mode != GS
    if mode == XG:
        return bank == 64 or lsb != 0
    if mode == GM2 or (mode != GS and bank == 121):
        return lsb != 0
    return bank != 0


def _hanging_ends(notes: list[PlayedNote], smf: Smf) -> Iterator[tuple[PlayedNote, int]]:
    """The ends of notes of one pitch that the file never switches off.

    That is where the pitch starts again, or at the end of the track; a note that starts at the end
    lasts a quarter note.
    """
    again: int | None = None  # tick
    for index in range(len(notes) - 1, -1, -1):
        note = notes[index]
        later = notes[index + 1].start if index + 1 < len(notes) else None
        again = later if later is not None and later > note.start else again
        if note.end != SOUNDING:
            continue
        if note.follows_an_end:
            yield note, note.start + 1
        elif again is not None:
            yield note, again
        elif (end := smf.tracks[note.track].end) > note.start:
            yield note, end
        else:
            yield note, note.start + smf.division
