"""Score -> token windows: what the note encoder reads, and the way back.

A window covers 5.12 s. Its ids are the notes held from before (program and pitch of each), the
`tie` mark, then every onset, offset and drum hit in time order, and EOS:

    program pitch ... tie | shift program velocity pitch ... shift velocity drum ... | EOS

`shift` carries the 10 ms step counted from the window's start; a program or velocity equal to the
one in force is left out; velocity 0 is an offset; drum hits have no offset.

`Vocabulary()` is that of the published checkpoints and is written exactly as they were trained:
- events are sorted by their time in seconds, so within one step an onset may precede an offset;
- the first offset of a pitch ends every note of that program class and pitch;
- windows that begin after the last event repeat the notes held before the events of its step.

Every other vocabulary gets tidied notes instead, which `window_notes` reads back unambiguously:
- times lie on the 10 ms grid, and a note lasts at least one step;
- notes of one program and pitch never overlap: a second onset strikes the pitch anew and it
  sounds until the latest end; onsets in the same step are one note, the loudest, with the latest
  end;
- within a step all offsets precede all onsets, and an offset on the edge of two windows belongs
  to the first, so the tie section names exactly the notes that sound at the window's first frame;
- with more than one velocity bin, the tie section also carries the velocity of each held note.

A window that would exceed 2048 ids drops notes, each one whole: onset, offset and ties. Notes that
began in earlier windows stay, then the loudest, then the longest; equals are thinned evenly.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from heapq import heapify, heappop
from operator import attrgetter, ne
from typing import Literal, NamedTuple

from spectro_render.constants import (
    MAX_TOKENS,
    SAMPLE_RATE,
    STEPS_PER_SECOND,
    STEPS_PER_WINDOW,
    WINDOW_SAMPLES,
)
from spectro_render.errors import TokenError
from spectro_render.midi import Note, Score

PAD, EOS, UNK = 0, 1, 2
MAX_VELOCITY = 127
MIDI_VALUES = 128  # pitches, programs and drum sounds alike
SHIFT_VALUES = 1001  # shifts of 0..1000 steps
SPARE_IDS = 100  # rows of the published embedding table that no event uses ...
EMBEDDING_MULTIPLE = 128  # ... and what its height is rounded up to
TAIL_SECONDS = 2.5  # what rings on after the last note, as in training

# The instrument classes of the Slakh2100 data set, each by its first program. A program belongs to
# the nearest class at or below it.
SLAKH_PROGRAMS = (
    *(0, 4, 8, 16, 24, 26, 29, 32, 33, 40, 41, 42, 43, 46, 47, 48, 50),
    *(52, 55, 56, 57, 58, 60, 61, 64, 66, 67, 68, 69, 70, 71, 73, 80, 88),
)

GOLDEN_RATIO = (math.sqrt(5) - 1) / 2

_Key = tuple[int, int]  # program class, pitch


@dataclass(frozen=True)
class Vocabulary:
    """What the ids mean. The default is the vocabulary of the published checkpoints.

    Raises ValueError for velocity bins outside 1..127 or an unknown set of programs.
    """

    velocity_bins: int = 1
    programs: Literal["slakh34", "full"] = "slakh34"

    def __post_init__(self) -> None:
        if not 1 <= self.velocity_bins <= MAX_VELOCITY:
            raise ValueError(f"velocity_bins must be 1..{MAX_VELOCITY}, not {self.velocity_bins}")
        if self.programs not in ("slakh34", "full"):
            raise ValueError(f"programs must be 'slakh34' or 'full', not {self.programs!r}")

    @property
    def is_published(self) -> bool:
        """True for the vocabulary of the published checkpoints, oddities included."""
        return self == Vocabulary()

    @property
    def shift(self) -> int:
        """Id of `shift 0`; the ids of 1..1000 steps follow."""
        return UNK + 1

    @property
    def pitch(self) -> int:
        """Id of `pitch 0`; the ids of pitches 1..127 follow."""
        return self.shift + SHIFT_VALUES

    @property
    def velocity(self) -> int:
        """Id of `velocity 0` (off); the ids of bins 1..velocity_bins follow."""
        return self.pitch + MIDI_VALUES

    @property
    def tie(self) -> int:
        """Id of the mark that ends the tie section."""
        return self.velocity + self.velocity_bins + 1

    @property
    def program(self) -> int:
        """Id of `program 0`; the ids of programs 1..127 follow."""
        return self.tie + 1

    @property
    def drum(self) -> int:
        """Id of `drum 0`; the ids of drum sounds 1..127 follow."""
        return self.program + MIDI_VALUES

    @property
    def size(self) -> int:
        """Number of ids in use, PAD, EOS and UNK included."""
        return self.drum + MIDI_VALUES

    @property
    def num_embeddings(self) -> int:
        """Rows of the embedding table: 1536 for the published checkpoints."""
        return -(-(self.size + SPARE_IDS) // EMBEDDING_MULTIPLE) * EMBEDDING_MULTIPLE

    def program_class(self, program: int) -> int:
        """The program that stands for General MIDI `program` (0..127) in this vocabulary."""
        if self.programs == "full":
            return program
        return SLAKH_PROGRAMS[bisect_right(SLAKH_PROGRAMS, program) - 1]

    def velocity_bin(self, velocity: int) -> int:
        """Bin 0..velocity_bins of a MIDI velocity 0..127; 0 is off."""
        return -(-velocity * self.velocity_bins // MAX_VELOCITY)

    def bin_velocity(self, velocity_bin: int) -> int:
        """A MIDI velocity from the middle of a bin 1..velocity_bins."""
        middle = math.ceil((velocity_bin - 0.5) * MAX_VELOCITY / self.velocity_bins)
        return min(middle, velocity_bin * MAX_VELOCITY // self.velocity_bins)


@dataclass(frozen=True, slots=True)
class TokenWindow:
    """The ids of 5.12 s of music."""

    index: int  # starts at index * 5.12 s
    ids: tuple[int, ...]  # at most 2048, the last one EOS, no PAD
    dropped: int = 0  # notes that did not fit into this window, left out everywhere


class WindowNote(NamedTuple):
    """A note as one window knows it."""

    pitch: int
    program: int  # class of the vocabulary; 0 for drums
    velocity_bin: int  # 1..velocity_bins; the top bin where the ids do not say
    is_drum: bool
    is_tied: bool  # held from the window before
    onset: int  # 10 ms step from the window's start, 0..511; 0 if tied
    offset: int  # 10 ms step; 512 if it sounds to the window's end; onset + 1 for drums


def tokenize(
    score: Score, vocabulary: Vocabulary, seconds: float | None = None
) -> list[TokenWindow]:
    """The windows that cover [0, seconds); by default as many as the published tokenizer makes.

    More seconds only append windows, fewer cut the list: windows never depend on `seconds`.
    """
    sounds = _sounds(score.notes, vocabulary)
    duration = max([score.duration, *(sound.end for sound in sounds)])
    written = _write_windows(_split(_events(sounds), duration, vocabulary), sounds, vocabulary)
    if seconds is None:
        return written
    count = math.ceil(round(seconds * SAMPLE_RATE) / WINDOW_SAMPLES)
    silence = (vocabulary.tie, EOS)
    return written[:count] + [TokenWindow(i, silence) for i in range(len(written), count)]


def song_windows(
    score: Score, vocabulary: Vocabulary, duration: float | None = None
) -> list[TokenWindow]:
    """The windows that are rendered: to the end of the sound, or as many as were published."""
    seconds = None if vocabulary.is_published else sounding_seconds(score, duration)
    return tokenize(score, vocabulary, seconds)


def sounding_seconds(score: Score, duration: float | None = None) -> float:
    """Until the music has rung out, but at most `duration` seconds."""
    seconds = score.duration + TAIL_SECONDS
    return seconds if duration is None else min(seconds, duration)


def window_notes(ids: Sequence[int], vocabulary: Vocabulary) -> list[WindowNote]:
    """The notes of one window, by onset, tied ones first; ids after EOS are not read.

    Tolerates what grammar allows: an offset without a note does nothing, an onset of a sounding
    pitch ends the note before it, PAD and UNK are skipped, onsets past the window are left out.
    Raises TokenError for an id outside the vocabulary or a window without the tie mark.
    """
    meanings = _meanings(vocabulary)
    reader = _Reader(vocabulary)
    for token in ids:
        if not 0 <= token < len(meanings):
            raise TokenError(
                f"token id {token} is outside the vocabulary of {len(meanings)} ids",
                "check that the tokens were made for this model",
            )
        if token == EOS:
            break
        read, value = meanings[token]
        read(reader, value)
    return reader.finish()


def detokenize(windows: Iterable[TokenWindow], vocabulary: Vocabulary) -> Score:
    """The score that windows (in order) stand for, held notes joined across them.

    Times are multiples of 10 ms, programs are class programs, velocities the middle of their bin.
    A note that the next window does not tie ends with its window. The duration is where the last
    window ends.
    Raises TokenError as `window_notes` does.
    """
    notes: list[Note] = []
    held: dict[_Key, tuple[int, int]] = {}  # onset step and velocity bin of notes that may go on
    end = 0
    for window in windows:
        start = window.index * STEPS_PER_WINDOW
        before, held = held, {}
        for note in window_notes(window.ids, vocabulary):
            key = (note.program, note.pitch)
            begun = (start + note.onset, note.velocity_bin)
            if note.is_tied:
                begun = before.pop(key, begun)
            if note.offset == STEPS_PER_WINDOW and not note.is_drum:
                held[key] = begun
            else:
                notes.append(_note(key, begun, start + note.offset, note.is_drum, vocabulary))
        notes += [_note(key, begun, end, False, vocabulary) for key, begun in before.items()]
        end = start + STEPS_PER_WINDOW
    notes += [_note(key, begun, end, False, vocabulary) for key, begun in held.items()]
    notes.sort(key=lambda note: (note.start, note.is_drum, note.program, note.pitch))
    return Score(notes=tuple(notes), duration=end / STEPS_PER_SECOND)


# --- Score -> events ------------------------------------------------------------------------------


class _Sound(NamedTuple):
    """A note in the words of a vocabulary; the field order is the sorting order of the grammar."""

    is_drum: bool
    program: int
    pitch: int
    start: float  # s
    end: float  # s
    velocity: int  # 1..127
    velocity_bin: int


class _Event(NamedTuple):
    """An onset or, with velocity bin 0, an offset."""

    step: int  # 10 ms from the start of the score
    sound: int  # index of the sound that it belongs to
    is_drum: bool
    program: int
    pitch: int
    velocity_bin: int


_SOUND = attrgetter("sound")


def _step(seconds: float) -> int:
    """The nearest 10 ms step, halves to even."""
    return round(seconds * STEPS_PER_SECOND)


def _sounds(notes: Iterable[Note], vocabulary: Vocabulary) -> list[_Sound]:
    """Notes by (is_drum, program class, pitch), tidied unless the vocabulary is published."""
    if vocabulary.is_published:
        return sorted(_sound(note, note.start, note.end, vocabulary) for note in notes)
    return _tidy(sorted(_grid_sound(note, vocabulary) for note in notes))


def _sound(note: Note, start: float, end: float, vocabulary: Vocabulary) -> _Sound:
    # Drum hits carry no program, but the published order of hits at one time depends on it.
    program = note.program if note.is_drum else vocabulary.program_class(note.program)
    velocity_bin = vocabulary.velocity_bin(note.velocity)
    return _Sound(note.is_drum, program, note.pitch, start, end, note.velocity, velocity_bin)


def _grid_sound(note: Note, vocabulary: Vocabulary) -> _Sound:
    onset = _step(note.start)
    offset = max(_step(note.end), onset + 1)
    sound = _sound(note, onset / STEPS_PER_SECOND, offset / STEPS_PER_SECOND, vocabulary)
    return sound._replace(program=0) if note.is_drum else sound


def _tidy(sounds: Iterable[_Sound]) -> list[_Sound]:
    """Ends a sound where its pitch is struck anew; the new one lasts until the later end."""
    tidied: list[_Sound] = []
    for sound in sounds:
        previous = tidied[-1] if tidied else None
        if previous and previous[:3] == sound[:3] and sound.start < previous.end:
            sound = sound._replace(end=max(sound.end, previous.end))
            if sound.start > previous.start:
                tidied[-1] = previous._replace(end=sound.start)
            else:
                sound = max(sound, tidied.pop()._replace(end=sound.end))  # the louder of the two
        tidied.append(sound)
    return tidied


def _events(sounds: Sequence[_Sound]) -> list[_Event]:
    """Onsets and offsets by time, offsets first where times are equal."""
    ends = [
        _event(index, sound, sound.end, 0)
        for index, sound in enumerate(sounds)
        if not sound.is_drum
    ]
    starts = [
        _event(index, sound, sound.start, sound.velocity_bin) for index, sound in enumerate(sounds)
    ]

    def seconds(event: _Event) -> float:
        sound = sounds[event.sound]
        return sound.start if event.velocity_bin else sound.end

    return sorted(ends + starts, key=seconds)


def _event(index: int, sound: _Sound, seconds: float, velocity_bin: int) -> _Event:
    return _Event(_step(seconds), index, sound.is_drum, sound.program, sound.pitch, velocity_bin)


def _split(events: Iterable[_Event], duration: float, vocabulary: Vocabulary) -> list[list[_Event]]:
    """The events of each window; there is always one window more than `duration` fills."""
    count = int(duration * SAMPLE_RATE) // WINDOW_SAMPLES + 1
    windows: list[list[_Event]] = [[] for _ in range(count)]
    # An offset on the edge closes the window before; in the published order it opens the next one.
    early = 0 if vocabulary.is_published else 1
    for event in events:
        step = event.step if event.velocity_bin else event.step - early
        # Rounding may put the last event on the end of the last window, where it stays.
        windows[min(step // STEPS_PER_WINDOW, count - 1)].append(event)
    return windows


# --- Events -> ids --------------------------------------------------------------------------------


class _Page(NamedTuple):
    """What one window has to say."""

    start: int  # 10 ms step
    held: dict[int, _Event]  # by program and pitch: onsets of notes that sound before all events
    ties: list[_Event]  # the same in the order of writing
    events: list[_Event]

    def without(self, sounds: Collection[int]) -> _Page:
        """The page of the other sounds."""
        if not sounds:
            return self
        held = {key: event for key, event in self.held.items() if event.sound not in sounds}
        return _Page(self.start, held, _without(sounds, self.ties), _without(sounds, self.events))

    def held_after(self, ties_end: float) -> dict[int, _Event]:
        """What sounds after the events that come before step `ties_end`."""
        held = dict(self.held)
        for event in self.events:
            if event.step >= ties_end:
                break
            if event.velocity_bin and not event.is_drum:
                held[event.program * MIDI_VALUES + event.pitch] = event
            elif not event.is_drum:
                held.pop(event.program * MIDI_VALUES + event.pitch, None)
        return held


def _without(sounds: Collection[int], events: list[_Event]) -> list[_Event]:
    return [event for event in events if event.sound not in sounds] if sounds else events


def _write_windows(
    windows: Sequence[list[_Event]], sounds: Sequence[_Sound], vocabulary: Vocabulary
) -> list[TokenWindow]:
    """Writes every window; once more where sounds of windows already written had to be dropped."""
    dropped: dict[int, int] = {}  # sound -> index of the window that had no room for it
    is_final = False
    while not is_final:
        written, is_final = _write_once(windows, sounds, dropped, vocabulary)
    counts = Counter(dropped.values())
    return [TokenWindow(index, ids, counts[index]) for index, ids in enumerate(written)]


def _write_once(
    windows: Sequence[list[_Event]],
    sounds: Sequence[_Sound],
    dropped: dict[int, int],
    vocabulary: Vocabulary,
) -> tuple[list[tuple[int, ...]], bool]:
    """The ids of every window without the dropped sounds, to which it adds where room is short.

    False if one of those added began in an earlier window, which therefore still has it.
    """
    written: list[tuple[int, ...]] = []
    held: dict[int, _Event] = {}
    ties_end = _ties_end(windows, vocabulary)
    is_final = True
    for index, events in enumerate(windows):
        ties = [held[key] for key in sorted(held)]
        page = _Page(index * STEPS_PER_WINDOW, held, ties, _without(dropped, events))
        ids = _write(page, vocabulary)
        if len(ids) > MAX_TOKENS:
            page, surplus = _fit(page, sounds, vocabulary)
            ids = _write(page, vocabulary)
            dropped.update(dict.fromkeys(surplus, index))
            is_final = is_final and surplus <= _begun(events)
        written.append(ids)
        held = page.held_after(ties_end)
    return written, is_final


def _ties_end(windows: Sequence[list[_Event]], vocabulary: Vocabulary) -> float:
    """The step from which on events change no tie section: if published, that of the last event."""
    if not vocabulary.is_published:
        return math.inf
    return next((events[-1].step for events in reversed(windows) if events), math.inf)


def _begun(events: Iterable[_Event]) -> set[int]:
    return {event.sound for event in events if event.velocity_bin}


def _fit(page: _Page, sounds: Sequence[_Sound], vocabulary: Vocabulary) -> tuple[_Page, set[int]]:
    """As much of a page as 2048 ids hold, and the sounds that do not fit."""
    heap = _ranks(page, sounds)
    heapify(heap)  # rather than sort: few of them leave
    surplus = {heappop(heap)[-1] for _ in range(len(heap) - MAX_TOKENS)}  # each takes an id or more
    page = page.without(surplus)
    length = _Length(page, vocabulary)
    while length.ids > MAX_TOKENS:
        sound = heappop(heap)[-1]
        length.take_out(sound)
        surplus.add(sound)
    return page.without(surplus), surplus


_Rank = tuple[bool, int, float, float, int]  # the last is the sound; the lowest leave first


def _ranks(page: _Page, sounds: Sequence[_Sound]) -> list[_Rank]:
    """The sounds of a page and how much each should be kept."""
    begun = _begun(page.events)
    found = dict.fromkeys(event.sound for event in (*page.held.values(), *page.events))

    def rank(place: int, sound: int) -> _Rank:
        _, _, _, start, end, velocity, _ = sounds[sound]
        # Multiples of the golden ratio, modulo 1, spread any number of equals evenly.
        return sound not in begun, velocity, end - start, -(place * GOLDEN_RATIO % 1), sound

    return [rank(place, sound) for place, sound in enumerate(found)]


class _Length:
    """How many ids a page takes while sounds are taken out of it, each in constant time."""

    def __init__(self, page: _Page, vocabulary: Vocabulary) -> None:
        events = [*page.ties, *page.events]
        pitched = [event for event in events if not event.is_drum]
        with_velocity = events if vocabulary.velocity_bins > 1 else page.events
        self._chains = (
            _Chain(page.start, page.events, "step"),
            _Chain(-1, pitched, "program"),
            _Chain(-1, with_velocity, "velocity_bin"),
        )
        self._said = Counter(map(_SOUND, events))  # pitches and drum hits
        changes = sum(chain.changes for chain in self._chains)
        self.ids = len(events) + changes + len(("tie", "EOS"))

    def take_out(self, sound: int) -> None:
        """Count without the events of a sound from now on."""
        self.ids -= self._said[sound] + sum(chain.take_out(sound) for chain in self._chains)


class _Chain:
    """Values in the order of writing; each that differs from the one before it takes an id."""

    def __init__(self, in_force: int, events: Sequence[_Event], field: str) -> None:
        """The values of a field of events; `in_force` is what comes before them."""
        self._values = [in_force, *map(attrgetter(field), events)]
        end = len(self._values)
        self._before, self._after = list(range(-1, end - 1)), list(range(1, end + 1))
        # A sound has at most two events on a page.
        self._last = dict(zip(map(_SOUND, events), range(1, end), strict=True))
        self._first = dict(zip(map(_SOUND, reversed(events)), range(end - 1, 0, -1), strict=True))
        self.changes = sum(map(ne, self._values, self._values[1:]))

    def take_out(self, sound: int) -> int:
        """Take out the values of a sound; how many ids that saves."""
        if sound not in self._first:
            return 0
        return sum(map(self._unlink, {self._first[sound], self._last[sound]}))

    def _unlink(self, place: int) -> int:
        values, before, after = self._values, self._before[place], self._after[place]
        self._after[before] = after
        is_change = values[place] != values[before]
        if after == len(values):
            return int(is_change)
        self._before[after] = before
        return is_change + (values[after] != values[place]) - (values[after] != values[before])


def _write(page: _Page, vocabulary: Vocabulary) -> tuple[int, ...]:
    writer = _Writer(page.start, vocabulary)
    writer.ties(page.ties)
    writer.events(page.events)
    return (*writer.ids, EOS)


class _Writer:
    """Writes the ids of one window, leaving out what is already in force.

    A dense hour has a million of them, so the loops have no calls in them.
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

    def ties(self, onsets: Iterable[_Event]) -> None:
        """The tie section, of notes that began with these onsets."""
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

    def events(self, events: Iterable[_Event]) -> None:
        """What follows the tie section."""
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


# --- Ids -> notes ---------------------------------------------------------------------------------


class _Reader:
    """Follows the ids of one window. Every method takes the value that its kind of id carries."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._notes: list[WindowNote] = []
        self._sounding: dict[_Key, WindowNote] = {}
        self._after_tie = False
        self._step = 0
        self._program = 0
        self._velocity_bin = vocabulary.velocity_bins

    def skip(self, value: int) -> None:
        pass

    def shift(self, value: int) -> None:
        self._step = value

    def program(self, value: int) -> None:
        self._program = value

    def velocity(self, value: int) -> None:
        self._velocity_bin = value

    def tie(self, value: int) -> None:
        self._after_tie = True

    def pitch(self, value: int) -> None:
        key = self._program, value
        self._end(key)
        if self._velocity_bin:
            self._sounding[key] = WindowNote(
                value,
                self._program,
                self._velocity_bin,
                is_drum=False,
                is_tied=not self._after_tie,
                onset=self._step,
                offset=STEPS_PER_WINDOW,
            )

    def drum(self, value: int) -> None:
        step = self._step
        self._notes.append(
            WindowNote(value, 0, self._velocity_bin, True, False, onset=step, offset=step + 1)
        )

    def finish(self) -> list[WindowNote]:
        if not self._after_tie:
            raise TokenError(
                "a token window has no tie mark", "begin every window with its tie section"
            )
        notes = [*self._notes, *self._sounding.values()]
        notes = [note for note in notes if note.onset < STEPS_PER_WINDOW]
        notes.sort(key=lambda n: (n.onset, not n.is_tied, n.is_drum, n.program, n.pitch))
        return notes

    def _end(self, key: _Key) -> None:
        note = self._sounding.pop(key, None)
        if note:
            offset = min(self._step, STEPS_PER_WINDOW)
            self._notes.append(note._replace(offset=offset))


_Meaning = tuple[Callable[[_Reader, int], None], int]  # how to read an id, and its value


@lru_cache(maxsize=8)
def _meanings(vocabulary: Vocabulary) -> tuple[_Meaning, ...]:
    """The meaning of every id."""
    kinds = (
        (_Reader.skip, 3),  # PAD, EOS, UNK
        (_Reader.shift, SHIFT_VALUES),
        (_Reader.pitch, MIDI_VALUES),
        (_Reader.velocity, vocabulary.velocity_bins + 1),
        (_Reader.tie, 1),
        (_Reader.program, MIDI_VALUES),
        (_Reader.drum, MIDI_VALUES),
    )
    return tuple((read, value) for read, count in kinds for value in range(count))


def _note(
    key: _Key, begun: tuple[int, int], end: int, is_drum: bool, vocabulary: Vocabulary
) -> Note:
    program, pitch = key
    onset, velocity_bin = begun
    return Note(
        start=onset / STEPS_PER_SECOND,
        end=max(end, onset + 1) / STEPS_PER_SECOND,
        pitch=pitch,
        velocity=vocabulary.bin_velocity(velocity_bin),
        program=program,
        is_drum=is_drum,
    )
