"""Chooses the notes to leave out of a window that would need more than 2048 ids."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from heapq import heapify, heappop
from operator import attrgetter, ne
from typing import NamedTuple

from spectro_render.constants import MAX_TOKENS
from spectro_render.tokens.events import SOUND_OF, Event, Sound
from spectro_render.tokens.vocabulary import MIDI_VALUES, Vocabulary

GOLDEN_RATIO = (math.sqrt(5) - 1) / 2


class Page(NamedTuple):
    """The content of one window before it is written as ids."""

    start: int  # 10 ms step of the score
    held: dict[int, Event]  # onsets of the notes held from before, by program and pitch
    ties: list[Event]  # the same onsets in the order of writing
    events: list[Event]

    def without(self, sounds: Collection[int]) -> Page:
        """A copy of the page without the onsets and offsets of these sounds."""
        if not sounds:
            return self
        held = {key: event for key, event in self.held.items() if event.sound not in sounds}
        return Page(
            self.start, held, without_sounds(sounds, self.ties), without_sounds(sounds, self.events)
        )


def in_order(held: Mapping[int, Event]) -> list[Event]:
    """The onsets of held notes, in the order in which a tie section names them."""
    return [held[key] for key in sorted(held)]


def hold(held: dict[int, Event], events: Iterable[Event], ties_end: float) -> None:
    """Update the onsets of the notes held, like `Page.held`, by the events before a step."""
    for event in events:
        if event.step >= ties_end:
            break
        if event.velocity_bin and not event.is_drum:
            held[event.program * MIDI_VALUES + event.pitch] = event
        elif not event.is_drum:
            held.pop(event.program * MIDI_VALUES + event.pitch, None)


class GoingOn:
    """The sounds that have begun and have not ended at the start of a window.

    In the published vocabulary several sounds of one program and pitch may, and one tie stands for
    all of them. So either all of them are left out of a window or none.
    """

    def __init__(self, sounds: Sequence[Sound]) -> None:
        """`sounds`: those of the score, by their numbers."""
        self.sounds = sounds
        self._numbers: dict[tuple[int, int], set[int]] = {}  # by program and pitch

    def play(self, events: Iterable[Event], ties_end: float) -> None:
        """Go on to the next window by the events before a step."""
        for step, sound, is_drum, program, pitch, velocity_bin in events:
            if step >= ties_end:
                break
            if velocity_bin and not is_drum:
                self._numbers.setdefault((program, pitch), set()).add(sound)
            elif not is_drum and (numbers := self._numbers.get((program, pitch))):
                numbers.discard(sound)

    def beside(self, sound: int) -> Collection[int]:
        """A sound, with those that go on together with it on its pitch."""
        _, program, pitch, *_ = self.sounds[sound]
        numbers = self._numbers.get((program, pitch), ())
        return numbers if sound in numbers else (sound,)

    def discard(self, sounds: Iterable[int]) -> None:
        """Take sounds out."""
        for sound in sounds:
            _, program, pitch, *_ = self.sounds[sound]
            if numbers := self._numbers.get((program, pitch)):
                numbers.discard(sound)


def without_sounds(sounds: Collection[int], events: list[Event]) -> list[Event]:
    """The events that belong to none of these sounds, in order."""
    return [event for event in events if event.sound not in sounds] if sounds else events


def begun_sounds(events: Iterable[Event]) -> set[int]:
    """The sounds that have their onset among these events."""
    return {event.sound for event in events if event.velocity_bin}


def fit_page(page: Page, going_on: GoingOn, vocabulary: Vocabulary) -> tuple[Page, set[int]]:
    """Leave sounds out of a page until 2048 ids suffice; returns the page and these sounds.

    Sounds held from earlier windows stay, then the loudest, then the longest; equals are thinned
    evenly. `going_on` are the sounds at the start of the page.
    """
    heap = _ranks(page, going_on.sounds)
    heapify(heap)  # rather than sort, because few of them are taken out
    surplus: set[int] = set()
    for _ in range(len(heap) - MAX_TOKENS):  # each takes an id or more
        if (sound := heappop(heap)[-1]) not in surplus:
            surplus.update(going_on.beside(sound))
    length = _Length(page.without(surplus), vocabulary)
    while length.ids > MAX_TOKENS:
        if (sound := heappop(heap)[-1]) not in surplus:
            leaving = going_on.beside(sound)
            for each in leaving:
                length.take_out(each)
            surplus.update(leaving)
    return page.without(surplus), surplus


_Rank = tuple[bool, int, float, float, int]  # lowest are left out first; last item: the sound


def _ranks(page: Page, sounds: Sequence[Sound]) -> list[_Rank]:
    """The rank of each sound of a page: the higher, the more it should be kept."""
    begun = begun_sounds(page.events)
    found = dict.fromkeys(event.sound for event in (*page.held.values(), *page.events))

    def rank(place: int, sound: int) -> _Rank:
        _, _, _, start, end, velocity, _ = sounds[sound]
        # Multiples of the golden ratio, modulo 1, spread any number of equals evenly.
        return sound not in begun, velocity, end - start, -(place * GOLDEN_RATIO % 1), sound

    return [rank(place, sound) for place, sound in enumerate(found)]


class _Length:
    """Counts the ids of a page while sounds are taken out of it, each in constant time."""

    def __init__(self, page: Page, vocabulary: Vocabulary) -> None:
        events = [*page.ties, *page.events]
        pitched = [event for event in events if not event.is_drum]
        with_velocity = events if vocabulary.velocity_bins > 1 else page.events
        self._chains = (
            _Chain(page.start, page.events, "step"),
            _Chain(-1, pitched, "program"),
            _Chain(-1, with_velocity, "velocity_bin"),
        )
        self._pitch_ids = Counter(map(SOUND_OF, events))  # by sound; drum hits too
        changes = sum(chain.changes for chain in self._chains)
        self.ids = len(events) + changes + len(("tie", "EOS"))

    def take_out(self, sound: int) -> None:
        """Take out the events of a sound."""
        self.ids -= self._pitch_ids[sound] + sum(chain.take_out(sound) for chain in self._chains)


class _Chain:
    """A linked list of values in the order of writing; each change of value takes an id."""

    def __init__(self, in_force: int, events: Sequence[Event], field: str) -> None:
        """List the values of a field of events; `in_force` is the value before the first one."""
        self._values = [in_force, *map(attrgetter(field), events)]
        end = len(self._values)
        self._before, self._after = list(range(-1, end - 1)), list(range(1, end + 1))
        # A sound has at most two events on a page: its first and its last.
        self._last = dict(zip(map(SOUND_OF, events), range(1, end), strict=True))
        self._first = dict(zip(map(SOUND_OF, reversed(events)), range(end - 1, 0, -1), strict=True))
        self.changes = sum(map(ne, self._values, self._values[1:]))

    def take_out(self, sound: int) -> int:
        """Take out the values of a sound; returns how many ids that saves."""
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
