"""Mends a parsed MIDI file where notes would get lost or take gigabytes; applies loudness to notes.

In a file without faults, no note changes its time.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import gcd

from spectro_render.midi.smf import (
    ALL_NOTES_OFF,
    ALL_SOUND_OFF,
    EXPRESSION,
    NOTE_OFF,
    VOLUME,
    Event,
    Smf,
    SmfTrack,
)

MAX_SECONDS = 24 * 60 * 60
MAX_TICKS = 6_000_000  # pretty_midi needs up to 32 bytes for each tick: 192 MB

_DEFAULT_TEMPO = 500_000  # us per quarter note, until the file sets one
_DEFAULT_VOLUME, _FULL_EXPRESSION = 100, 127  # until the file sets them
DRUM_CHANNEL = 9  # the tenth
_NO_LENGTH = "note without length"
_NO_END = "note never switched off, closed at the next of its pitch or the track's end"

TempoMap = list[tuple[int, int]]  # (tick, us per quarter note), by tick, from tick 0
_Key = tuple[int, int]  # (channel, pitch) or (port, channel)


@dataclass(frozen=True)
class RepairedSmf:
    """A MIDI file in which every note ends, within MAX_SECONDS and MAX_TICKS."""

    division: int  # ticks per quarter note
    tempos: TempoMap  # for all tracks
    tracks: list[SmfTrack]
    ignored: Counter[str]
    repairs: Counter[str]


def repair(smf: Smf) -> RepairedSmf:
    """Mend what can be mended; `smf.ignored` and `smf.repairs` grow by what was done."""
    tempos = _tempo_map(smf)
    _cut_at_limit(smf, _tick_at(MAX_SECONDS, tempos, smf.division))
    _lengthen_drum_hits(smf)
    _close_hanging_notes(smf)
    _fold_loudness(smf)
    factor = _coarsen(smf)
    tempos = [(tick // factor, tempo * factor) for tick, tempo in tempos]
    tempos = [(tick, tempo) for tick, tempo in tempos if tick <= MAX_TICKS]
    return RepairedSmf(smf.division, tempos, smf.tracks, smf.ignored, smf.repairs)


# --- time


def _tempo_map(smf: Smf) -> TempoMap:
    """The tempo changes of all tracks; where two tracks set one at a tick, the earlier track wins.

    They belong into the first track, and pretty_midi reads no others. But many files have them in
    the second track, and players follow them.
    """
    changes = {tick: tempo for track in reversed(smf.tracks) for tick, tempo in track.tempos}
    tempos = _effective_tempos(changes.items())
    if tempos != _effective_tempos(dict(smf.tracks[0].tempos).items()):
        smf.repairs["tempo set outside the first track"] += 1
    return tempos


def _effective_tempos(changes: Iterable[tuple[int, int]]) -> TempoMap:
    tempos: TempoMap = [(0, _DEFAULT_TEMPO)]
    for tick, tempo in sorted(changes):
        if tick == 0:
            tempos = [(0, tempo)]
        elif tempo != tempos[-1][1]:
            tempos.append((tick, tempo))
    return tempos


def _tick_at(seconds: float, tempos: TempoMap, division: int) -> int:
    start, tick, tempo = 0.0, 0, _DEFAULT_TEMPO
    for next_tick, next_tempo in tempos:
        next_start = start + (next_tick - tick) * tempo / 1e6 / division
        if next_start > seconds:
            break
        start, tick, tempo = next_start, next_tick, next_tempo
    return tick + int((seconds - start) * 1e6 / tempo * division)


def _cut_at_limit(smf: Smf, limit: int) -> None:
    """Leave out the events after tick `limit`; most often they follow a damaged time step."""
    for track in smf.tracks:
        if track.end > limit:
            kept = [event for event in track.events if event.tick <= limit]
            if lost := len(track.events) - len(kept):
                smf.repairs[f"event past {MAX_SECONDS // 3600} hours left out"] += lost
            track.events = kept
            track.end = max((event.tick for event in kept), default=0)


def _coarsen(smf: Smf) -> int:
    """Join ticks so that there are no more than MAX_TICKS; returns how many make one.

    That is a power of two, so the times in seconds are computed without another rounding.
    """
    ticks = [event.tick for track in smf.tracks for event in track.events]
    last = max(ticks, default=0)
    factor = 1
    while last > factor * MAX_TICKS:
        factor *= 2
    if factor > 1:
        _join_ticks(smf, factor)
    if gcd(*ticks) % factor:
        smf.repairs[f"so long that {factor} ticks had to be joined into one"] += 1
    return factor


def _join_ticks(smf: Smf, factor: int) -> None:
    """Divide all ticks by a factor; notes start earlier and end later, so that none vanishes."""
    for track in smf.tracks:
        track.events = [
            event._replace(tick=(event.tick + (factor - 1 if event.is_off else 0)) // factor)
            for event in track.events
        ]


# --- notes without length or end


def _lengthen_drum_hits(smf: Smf) -> None:
    """Give a tick of length to drum hits that have none, which pretty_midi would drop."""
    for track in smf.tracks:
        starts: dict[int, set[int]] = {}  # of the drums that sound, by pitch
        for index, event in enumerate(track.events):
            if event.channel != DRUM_CHANNEL:
                continue
            if event.is_on:
                starts.setdefault(event.first, set()).add(event.tick)
            elif event.is_off and starts.pop(event.first, None) == {event.tick}:
                track.events[index] = event._replace(tick=event.tick + 1)
        track.events.sort(key=lambda event: event.tick)


def _close_hanging_notes(smf: Smf) -> None:
    """Switch off the notes that the file never switches off."""
    for track in smf.tracks:
        hanging = _hanging_notes(track, smf.ignored)
        if hanging:
            smf.repairs[_NO_END] += len(hanging)
            track.events += _note_offs(hanging, track, smf.division)
            track.events.sort(key=lambda event: event.tick)


def _hanging_notes(track: SmfTrack, ignored: Counter[str]) -> list[Event]:
    """The note-ons that no note-off ends; as in pretty_midi, a note-off ends all of its pitch.

    Notes that end where they start, which pretty_midi drops, are counted in `ignored`. Some
    programs write the end of such a note before its start.
    """
    sounding: dict[_Key, list[Event]] = {}
    spare_offs: set[tuple[int, int, int]] = set()
    for event in track.events:
        key = (event.channel, event.first)
        if event.is_on:
            sounding.setdefault(key, []).append(event)
        elif event.is_off:
            started = sounding.pop(key, [])
            just_started = [on for on in started if on.tick == event.tick]
            if not started:
                spare_offs.add((*key, event.tick))
            elif len(just_started) == len(started):
                ignored[_NO_LENGTH] += len(started)
            elif just_started:
                sounding[key] = just_started
    left = [on for started in sounding.values() for on in started]
    hanging = [on for on in left if (on.channel, on.first, on.tick) not in spare_offs]
    if len(hanging) < len(left):
        ignored[_NO_LENGTH] += len(left) - len(hanging)
    return hanging


def _note_offs(hanging: Iterable[Event], track: SmfTrack, division: int) -> list[Event]:
    """A note-off for each hanging note.

    It comes where the pitch starts again, at the next all-notes-off or at the end of the track; a
    note that starts at the end lasts a quarter note.
    """
    onsets: dict[_Key, list[int]] = {}
    silences: dict[int, list[int]] = {}
    for event in track.events:
        if event.is_on:
            onsets.setdefault((event.channel, event.first), []).append(event.tick)
        elif event.is_control(ALL_SOUND_OFF, ALL_NOTES_OFF):
            silences.setdefault(event.channel, []).append(event.tick)

    def end(on: Event) -> int:
        again = _first_after(on.tick, onsets[on.channel, on.first])
        silence = _first_after(on.tick, silences.get(on.channel, []))
        return min(
            [*again, *silence, *_first_after(on.tick, [track.end])], default=on.tick + division
        )

    return [Event(end(on), NOTE_OFF | on.channel, on.first, 0) for on in hanging]


def _first_after(tick: int, ticks: Sequence[int]) -> Sequence[int]:
    """The first of the sorted `ticks` that is later than `tick`, if there is one."""
    index = bisect_right(ticks, tick)
    return ticks[index : index + 1]


# --- loudness


@dataclass
class _Levels:
    """The volume and expression of one channel over time."""

    ticks: list[int]
    values: list[tuple[int, int]]  # one more: values[i] holds before ticks[i]

    def at(self, tick: int) -> tuple[int, int]:
        return self.values[bisect_right(self.ticks, tick)]

    def add(self, event: Event) -> None:
        volume, expression = self.values[-1]
        is_volume = event.first == VOLUME
        self.ticks.append(event.tick)
        self.values.append((event.second, expression) if is_volume else (volume, event.second))


def _fold_loudness(smf: Smf) -> None:
    """Put volume and expression, as they are at a note's start, into its velocity.

    The level of a SoundFont voice is proportional to the square of each of the three (SoundFont
    2.04, section 8.4), so a velocity that is their product gives the same level.
    """
    channels = _channel_levels(smf)
    for track in smf.tracks:
        track.events = [
            _as_heard(event, channels.get((track.port, event.channel))) for event in track.events
        ]


def _channel_levels(smf: Smf) -> dict[_Key, _Levels]:
    """The levels of each (port, channel), as all tracks together set them."""
    controls = [
        (event.tick, (track.port, event.channel), event)
        for track in smf.tracks
        for event in track.events
        if event.is_control(VOLUME, EXPRESSION)
    ]
    channels: dict[_Key, _Levels] = {}
    for _, key, event in sorted(controls, key=lambda control: control[0]):
        levels = channels.setdefault(key, _Levels([], [(_DEFAULT_VOLUME, _FULL_EXPRESSION)]))
        levels.add(event)
    return channels


def _as_heard(event: Event, levels: _Levels | None) -> Event:
    if levels is None or not event.is_on:
        return event
    volume, expression = levels.at(event.tick)
    velocity = round(event.second * volume / _DEFAULT_VOLUME * expression / _FULL_EXPRESSION)
    return event._replace(second=min(max(velocity, 1), 127))
