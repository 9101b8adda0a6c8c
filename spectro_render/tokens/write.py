"""Writes scores as token windows; the package's docstring has the grammar of a window.

Notes become sounds of the vocabulary, sounds become events (both in `events`), and the events of
each window become ids. A window that is too long drops sounds (`fit`). Which ones, is found for the
whole score beforehand; the ids of a window are made when it is read, and not kept.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, overload

from spectro_render.constants import (
    MAX_TOKENS,
    SAMPLE_RATE,
    STEPS_PER_WINDOW,
    WINDOW_SAMPLES,
    WINDOW_SECONDS,
)
from spectro_render.midi.length import sounding_seconds
from spectro_render.midi.read import as_score
from spectro_render.midi.score import Note, Score
from spectro_render.tokens.events import (
    Event,
    Sound,
    split_events,
    step_of,
    to_events,
    to_sounds,
)
from spectro_render.tokens.fit import GoingOn, Page, fit_page, hold, in_order, without_sounds
from spectro_render.tokens.vocabulary import EOS, TokenWindow, Vocabulary, rest_window

if TYPE_CHECKING:
    from note_seq.protobuf.music_pb2 import NoteSequence
    from pretty_midi import PrettyMIDI

_MOST_IDS = 4  # of an event: shift, program, velocity, pitch; a tie has no shift


class TokenWindows(Sequence[TokenWindow]):
    """The token windows of a score, in order. Each is made when it is read, and not kept.

    To get one by its number, all before it are made. Memory grows with the number of notes by some
    bytes for each, and does not grow with the length of the score.
    """

    def __init__(self, score: Score, vocabulary: Vocabulary, seconds: float | None = None) -> None:
        """Plan the windows of [0, seconds), by default as many as the published tokenizer makes.

        `seconds` changes only their number: it cuts, or adds silent windows.
        """
        sounds = to_sounds(score.notes, vocabulary)
        duration = max([score.duration, *(sound.end for sound in sounds)])
        windows = split_events(to_events(sounds), duration, vocabulary)
        dropped = _sounds_without_room(windows, sounds, vocabulary)
        self._vocabulary = vocabulary
        self._events = array("q")  # packed
        self._ends = array("Q")  # of each window: number of events up to its end
        for events in windows:
            self._events.extend(map(_pack, without_sounds(dropped, events)))
            self._ends.append(len(self._events))
        self._left_out = array("q", sorted({_key(sounds[i], sounds[i].program) for i in dropped}))
        self._ties_end = _ties_end(windows, vocabulary)
        self._count = len(windows)
        self._dropped = Counter(dropped.values())
        if seconds is not None:
            self.cover(seconds)

    def cover(self, seconds: float) -> None:
        """Change the number of windows, so that they cover just [0, seconds)."""
        self._count = math.ceil(round(seconds * SAMPLE_RATE) / WINDOW_SAMPLES)

    @property
    def dropped(self) -> dict[int, int]:
        """How many notes did not fit, by the index of the window that had no room for them."""
        return {i: count for i, count in sorted(self._dropped.items()) if i < self._count}

    def with_room(self, notes: Iterable[Note]) -> list[Note]:
        """Those of the score's notes that some window has room for; the others are left out."""
        left_out = self._left_out
        if not left_out:
            return list(notes)
        classes, last = self._vocabulary.program_class, len(left_out) - 1

        def has_room(note: Note) -> bool:
            key = _key(note, classes(note.program))
            return left_out[bisect_left(left_out, key, hi=last)] != key

        return list(filter(has_room, notes))

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> TokenWindow: ...

    @overload
    def __getitem__(self, index: slice) -> list[TokenWindow]: ...

    def __getitem__(self, index: int | slice) -> TokenWindow | list[TokenWindow]:
        places = range(self._count)[index]
        if isinstance(places, int):
            return next(islice(self, places, None))
        if not places:
            return []
        first = min(places)
        found = list(islice(self, first, max(places) + 1, abs(places.step)))
        return found if places.step > 0 else found[::-1]

    def __iter__(self) -> Iterator[TokenWindow]:
        vocabulary, count = self._vocabulary, self._count
        held: dict[int, Event] = {}  # onsets of the notes held, by program and pitch
        rest: tuple[int, ...] = ()  # ids of a window in which they are held; (): not known yet
        begin = 0
        for index, end in enumerate(islice(self._ends, count)):
            events = list(map(_unpack, self._events[begin:end]))
            begin = end
            ids = rest
            if events or not rest:
                page = Page(index * STEPS_PER_WINDOW, held, in_order(held), events)
                ids = _write(page, vocabulary)
                rest = () if events else ids
            yield TokenWindow(index, ids, self._dropped.get(index, 0))
            hold(held, events, self._ties_end)
        for index in range(len(self._ends), count):
            yield rest_window(index, vocabulary)


def tokenize(
    score: Score | NoteSequence | PrettyMIDI, vocabulary: Vocabulary, seconds: float | None = None
) -> list[TokenWindow]:
    """Convert a score to token windows of [0, seconds), by default to the end of its notes.

    By default there are as many windows as the published tokenizer makes. `seconds` changes only
    their number: silent windows are appended, or the list is cut. A note_seq.NoteSequence and a
    pretty_midi.PrettyMIDI are read as scores. `song_windows` makes windows one by one.
    """
    return list(TokenWindows(as_score(score), vocabulary, seconds))


def song_windows(
    score: Score, vocabulary: Vocabulary, duration: float | None = None, least: float | None = None
) -> TokenWindows:
    """Convert a score to the token windows from which its song is rendered.

    They cover the song's sound, of at most `duration` seconds (see `sounding_seconds`). With the
    published vocabulary there are as many as the published tokenizer makes, or more if `least`
    seconds need them.
    """
    windows = TokenWindows(score, vocabulary)
    if not vocabulary.is_published:
        windows.cover(sounding_seconds(score, duration, least))
    elif least is not None and len(windows) * WINDOW_SECONDS < min(least, duration or least):
        windows.cover(min(least, duration or least))
    return windows


def _sounds_without_room(
    windows: Sequence[list[Event]], sounds: Sequence[Sound], vocabulary: Vocabulary
) -> dict[int, int]:
    """Find the sounds to leave out, each with the index of the window that has no room for it.

    One pass is enough. A sound that is left out leaves earlier windows, too, and these only become
    shorter by that: whatever sounds with it on its pitch at the edge of the window goes as well,
    so no tie takes its place there.
    """
    dropped: dict[int, int] = {}
    held: dict[int, Event] = {}
    going_on = GoingOn(sounds)
    ties_end = _ties_end(windows, vocabulary)
    held_fit = True  # whether the notes held are known to fit into a window without events
    for index, every in enumerate(windows):
        events = without_sounds(dropped, every)
        if (events or not held_fit) and _MOST_IDS * (len(held) + len(events)) + 2 > MAX_TOKENS:
            page = Page(index * STEPS_PER_WINDOW, held, in_order(held), events)
            if len(_write(page, vocabulary)) > MAX_TOKENS:
                page, surplus = fit_page(page, going_on, vocabulary)
                dropped.update(dict.fromkeys(surplus, index))
                going_on.discard(surplus)
                held, events = page.held, page.events
        held_fit = not events
        hold(held, events, ties_end)
        going_on.play(events, ties_end)
    return dropped


def _ties_end(windows: Sequence[list[Event]], vocabulary: Vocabulary) -> float:
    """The step from which events no longer change tie sections.

    In the published vocabulary it is the step of the last event, in others it is infinity.
    """
    if not vocabulary.is_published:
        return math.inf
    return next((events[-1].step for events in reversed(windows) if events), math.inf)


def _key(sound: Sound | Note, program: int) -> int:
    """What tells a sound from others: its step, and which drum, or which program and pitch."""
    kind = 0 if sound.is_drum else program
    return _pack(Event(step_of(sound.start), -1, sound.is_drum, kind, sound.pitch, 0))


def _pack(event: Event) -> int:
    """An event in 64 bits, without the number of its sound: steps of 13 years fit in."""
    step, _, is_drum, program, pitch, velocity_bin = event
    return step << 22 | is_drum << 21 | program << 14 | pitch << 7 | velocity_bin


def _unpack(packed: int) -> Event:
    pitch, velocity_bin = packed >> 7 & 0x7F, packed & 0x7F
    return Event(packed >> 22, -1, bool(packed >> 21 & 1), packed >> 14 & 0x7F, pitch, velocity_bin)


def _write(page: Page, vocabulary: Vocabulary) -> tuple[int, ...]:
    writer = _Writer(page.start, vocabulary)
    writer.ties(page.ties)
    writer.events(page.events)
    return (*writer.ids, EOS)


class _Writer:
    """Writes the ids of one window, leaving out programs and velocities already in force.

    A dense hour of music has a million ids, so the loops call no Python functions.
    """

    def __init__(self, start: int, vocabulary: Vocabulary) -> None:
        self.ids: list[int] = []
        self._step = start
        self._program = -1
        self._velocity_bin = -1
        self._shift_id = vocabulary.shift - start
        self._pitch_id = vocabulary.pitch
        self._velocity_id = vocabulary.velocity
        self._tie_id = vocabulary.tie
        self._program_id = vocabulary.program
        self._drum_id = vocabulary.drum
        self._ties_have_velocity = vocabulary.velocity_bins > 1

    def ties(self, onsets: Iterable[Event]) -> None:
        """Write the tie section, for held notes that began with these onsets."""
        ids, program_in_force, velocity_in_force = self.ids, self._program, self._velocity_bin
        for _, _, _, program, pitch, velocity_bin in onsets:
            if program != program_in_force:
                program_in_force = program
                ids.append(self._program_id + program)
            if velocity_bin != velocity_in_force and self._ties_have_velocity:
                velocity_in_force = velocity_bin
                ids.append(self._velocity_id + velocity_bin)
            ids.append(self._pitch_id + pitch)
        ids.append(self._tie_id)
        self._program, self._velocity_bin = program_in_force, velocity_in_force

    def events(self, events: Iterable[Event]) -> None:
        """Write the onsets, offsets and drum hits that follow the tie section."""
        ids = self.ids
        for step, _, is_drum, program, pitch, velocity_bin in events:
            if step != self._step:
                self._step = step
                ids.append(self._shift_id + step)
            if program != self._program and not is_drum:
                self._program = program
                ids.append(self._program_id + program)
            if velocity_bin != self._velocity_bin:
                self._velocity_bin = velocity_bin
                ids.append(self._velocity_id + velocity_bin)
            ids.append((self._drum_id if is_drum else self._pitch_id) + pitch)
